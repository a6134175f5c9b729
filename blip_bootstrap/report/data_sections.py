"""The sections of a round's page about its data; a section that has nothing to show is an empty string."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import yaml

from blip_bootstrap.audit.alarms import Alarm, by_best_basis, find_alarms
from blip_bootstrap.html import charts
from blip_bootstrap.html.charts import Segment
from blip_bootstrap.html.elements import charts_html, details, named, note_html, scroll, table_html
from blip_bootstrap.html.gallery import galleries_html
from blip_bootstrap.labels.estimates import estimates
from blip_bootstrap.query import json_tables
from blip_bootstrap.query.questions import query
from blip_bootstrap.report.page_data import PageData
from blip_bootstrap.report.summary import FIGURES
from blip_bootstrap.storage.run_folder import labels_path, out_of_date, round_name, round_of

TONES = {"web": "web", "synthetic": "synthetic"}

NOISE = ("noise_by_host", "noise_by_length", "noise_by_sampler", "languages")


def cards(page: PageData) -> str:
    """The main figures, each with what it was in the round before, where that differs."""
    wanted = (
        ("downloaded", "pictures downloaded", ",d"), ("web_kept", "web texts kept", ",d"),
        ("synthetic_kept", "synthetic texts kept", ",d"), ("noise_ratio_web", "noise ratio, web", ".1%"),
        ("noise_ratio_synthetic", "noise ratio, synthetic", ".1%"), ("dropped_share_web", "dropped, web", ".1%"),
        ("dropped_share_synthetic", "dropped, synthetic", ".1%"), ("caption_truth", "true of the kept texts", ".1%"),
        ("cider", "CIDEr, held-out", ".3f"), ("tr1", "TR@1, held-out", ".1%"), ("ir1", "IR@1, held-out", ".1%"),
    )  # fmt: skip
    before: Mapping[str, Any] = next((one for one in reversed(page.rounds) if one["round"] < page.number), {})
    items = []
    for name, label, form in wanted:
        value, was = page.figures.get(name), before.get(name)
        if value is None:
            continue
        change = "" if was is None or was == value else f"was {was:{form}}"
        items.append(
            f'<li><b>{value:{form}}</b><span>{escape(label)}</span><span class="change">{escape(change)}</span></li>'
        )
    return f'<ul class="cards">{"".join(items)}</ul>' if items else ""


def alarm_list(page: PageData) -> str:
    """The alarms of the round, or a line that there are none."""
    return alarms_html(find_alarms(page.audits, page.root, page.number))


def alarms_html(found: Sequence[Alarm], with_round: bool = False) -> str:
    """A paragraph for each alarm, or one that says that there are none."""
    if not found:
        checked = "downloads, vocabulary, length of the texts, filter and held-out figures were checked"
        return f'<p class="calm">No alarms: {checked}.</p>'
    return "".join(
        f'<p class="alarm" role="alert">{f"Round {alarm.round}: " if with_round else ""}'
        f"<strong>{escape(alarm.name)}</strong>: {escape(alarm.message)}.</p>"
        for alarm in found
    )


def flow(page: PageData) -> str:
    """From URLs to pairs: how many rows went on and how many were dropped, as bars of one scale."""
    reasons = page.audits("reasons").table.to_pylist()
    figures, fates = page.figures, [row for row in reasons if row["round"] == page.number]
    rows: list[tuple[str, list[Segment]]] = []
    if figures.get("urls"):
        failed = [Segment(str(name), number, "dropped") for name, number in figures.get("failed_by_reason", {}).items()]
        rows.append(("URLs", [Segment("downloaded", figures["downloaded"], "kept"), *failed]))
    for source in ("web", "synthetic"):
        mine = sorted((row for row in fates if row["source"] == source), key=lambda row: row["fate"] != "kept")
        segments = [Segment(row["fate"], row["texts"], "kept" if row["fate"] == "kept" else "dropped") for row in mine]
        rows += [(f"{source} texts", segments)] if segments else []
    pairs = [Segment(row["source"], row["texts"], row["source"]) for row in fates if row["fate"] == "kept"]
    rows += [("pairs to train on", pairs)] if pairs else []
    return _stacks(rows) + _several_times(page) + _folded(page, "accounting")


def _several_times(page: PageData) -> str:
    """A line about pictures that are in the lists or in two of the sets several times, and the audit of them."""
    groups, sets = page.figures.get("duplicates") or {}, page.figures.get("same_pictures") or {}
    told = []
    if number := groups.get("duplicates"):
        told.append(f"{number:,} pictures are there already, and are not trained on (duplicate_picture)")
    if any(sets.values()):
        kinds = [f"{number:,} {kind.replace('_', ' ')}" for kind, number in sets.items() if number]
        told.append(f"in two sets: {', '.join(kinds)}")
    answer = page.audits("duplicates")
    opened = details(answer.title, note_html(answer.meaning) + table_html(answer.table.to_pylist(), answer.title))
    return "".join(note_html(f"{line}.") for line in told) + (opened if answer.table.num_rows else "")


def _stacks(rows: Sequence[tuple[str, list[Segment]]]) -> str:
    """Stacked bars, each with a name, of one scale."""
    full = max((sum(one.number for one in segments) for _, segments in rows), default=0)
    drawn = "".join(charts.stack(name, segments, full) for name, segments in rows)
    return f'<ul class="flow">{drawn}</ul>' if drawn else ""


def over_rounds(page: PageData) -> str:
    """The main figures of each round up to this one."""
    figures = [(label, key, form) for label, key, form in FIGURES if form != "counts"]
    rows = [(label, form, [one.get(key) for one in page.rounds]) for label, key, form in figures]
    rows = [row for row in rows if any(value is not None for value in row[2])]
    old = out_of_date(page.root)
    names = [f"round {one['round']}{' (out of date)' if one['round'] in old else ''}" for one in page.rounds]
    head = "".join(f'<th scope="col" class="num">{name}</th>' for name in names)
    lines = []
    for label, form, values in rows:
        cells = "".join(f'<td class="num">{"" if v is None else format(v, form)}</td>' for v in values)
        lines.append(f'<tr><th scope="row">{escape(label)}</th>{cells}</tr>')
    if not lines:
        return ""
    return scroll(
        f"<table>{named('figures of each round')}<thead><tr><td></td>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table>",
        "figures of each round",
    )


def noise(page: PageData) -> str:
    """Noise ratio and dropped share of each source in each round, with their intervals."""
    found, drawn = page.audits("noise").table.to_pylist(), ""
    for share, low, high, told in (
        ("noise_ratio", "low", "high", "noise ratio: share of the scored texts that the filter rejects"),
        (
            "dropped_share",
            "dropped_low",
            "dropped_high",
            "dropped share: share of all texts that was not kept, for whatever reason",
        ),
    ):
        rows = [
            (f"round {row['round']}, {row['source']}", row[share], row[low], row[high], row["source"])
            for row in found
            if row[share] is not None
        ]
        drawn += charts.ranges(rows, f"{told}, with 95 % Wilson interval") if rows else ""
    return drawn + _folded(page, *NOISE)


def spot_check(page: PageData) -> str:
    """What people's answers to a sample say of the round, and what a selection by target noise expected.

    Noise here is what people found to be wrong, where the noise ratio is what the filter rejects.
    """
    found = estimates(page.root, page.number) if labels_path(page.root, page.number).is_file() else []
    rows = [
        (
            f"{one.name.replace('_', ' of the ')}, {one.source}",
            one.share,
            one.low,
            one.high,
            TONES.get(one.source, "other"),
        )
        for one in found
        if one.share is not None and one.low is not None and one.high is not None
    ]
    counts = page.manifests.get(f"{round_name(page.number)}/pairs", {}).get("counts", {})
    rows += [
        (f"{name}, as the selection expected", counts[key], counts[f"{key}_low"], counts[f"{key}_high"], "human")
        for name, key in (("noise of the kept", "expected_noise"), ("recall", "expected_recall"))
        if key in counts
    ]
    return charts.ranges(rows, "shares of texts, with 95 % intervals") if rows else ""


def scores(page: PageData) -> str:
    """Histograms of the ITM scores of web and synthetic texts, and what each threshold would keep."""
    drawn = []
    rows = [row for row in page.audits("scores").table.to_pylist() if row["round"] == page.number]
    for source in ("web", "synthetic"):
        counts = {round(row["score_from"] * 20): row["texts"] for row in rows if row["source"] == source}
        drawn.append(charts.histogram(f"{source} texts", [counts.get(at, 0) for at in range(20)], page.threshold))
    curve = [row for row in page.audits("thresholds").table.to_pylist() if row["round"] == page.number]
    series = {
        source: [(row["threshold"], row[f"{source}_share"]) for row in curve if row[f"{source}_share"] is not None]
        for source in ("web", "synthetic")
    }
    drawn.append(charts.lines("share kept at each threshold", series, ("web", "synthetic"), "threshold"))
    return charts_html(drawn) + _folded(page, "agreement")


def quality(page: PageData) -> str:
    """How well each score tells right texts from wrong ones, by source, with the best and the worst in a sentence."""
    answer = page.audits("filter_quality")
    rows = [row for row in answer.table.to_pylist() if row["round"] == page.number and row["auc"] is not None]
    drawn = ""
    for source in ("web", "synthetic"):
        mine = by_best_basis([row for row in rows if row["source"] == source])
        if mine:
            ranked = sorted(mine, key=lambda row: -row["auc"])
            bars = [
                (_named_score(row), row["auc"], row["auc_low"], row["auc_high"], "kept" if row["cuts"] else source)
                for row in ranked
            ]
            drawn += f"<p>{escape(_told_quality(source, ranked))}</p>"
            drawn += charts.ranges(bars, f"{source} texts: AUC of each score, with 95 % interval; 50%: chance")
    return f"{_told_pictures(page)}{drawn}{_folded(page, 'filter_quality')}" if drawn else ""


def _told_pictures(page: PageData) -> str:
    """Which pictures with human captions were scored, and whether the figures are too good for it."""
    counts = page.manifests.get(f"{round_name(page.number)}/filter_check", {}).get("counts", {})
    if "set" not in counts:
        return ""
    seen = "no model of this round was fine-tuned on them"
    if counts.get("trained_on"):
        seen = "captioner or filter were fine-tuned on them, so that the figures are better than on other pictures"
    return f"<p>{counts['pictures']:,} pictures with human captions ({escape(counts['set'])}) were scored; {seen}.</p>"


def _named_score(row: Mapping[str, Any]) -> str:
    name = _score_name(row)
    return f"{name}, by which the rule cuts" if row["cuts"] else name


def _score_name(row: Mapping[str, Any]) -> str:
    """A score as `select.score` names it; the rule's own in words."""
    return "the rule's own score" if row["score"] == "rule" else str(row["score"])


def _told_quality(source: str, ranked: Sequence[Mapping[str, Any]]) -> str:
    """The best and the worst score of a source, and what the rule's own finds and misses."""
    best, worst, texts = ranked[0], ranked[-1], f"{max(row['texts'] for row in ranked):,} {source} texts"
    basis = {"answers": "that people answered for", "human_captions": "of pictures with human captions"}[best["basis"]]
    told = f"Among {texts} {basis}, {_score_name(best)} tells right ones from wrong ones best (AUC {best['auc']:.2f})"
    told += f", {_score_name(worst)} worst ({worst['auc']:.2f})." if worst is not best else "."
    for row in ranked:
        if row["cuts"] and row["precision"] is not None and row["recall"] is not None:
            told += f" The rule cuts by {'its own score' if row['score'] == 'rule' else row['score']}"
            told += f": of what it keeps {row['precision']:.0%} are right"
            told += f", and of the right ones it keeps {row['recall']:.0%}."
    return told


def variety(page: PageData) -> str:
    """What the rule does to the variety of the texts: all of a source beside those that it keeps."""
    answer = page.audits("variety")
    rows = [row for row in answer.table.to_pylist() if row["round"] == page.number]
    told = "".join(f"<p>{escape(_told_variety(*both))}</p>" for both in pairwise(rows) if _are_both(*both))
    filled = [name for name in answer.table.column_names if any(row[name] is not None for row in rows)]
    table = [{name: row[name] for name in filled if name != "round"} for row in rows]
    return told + table_html(table, answer.title) + note_html(answer.meaning) if rows else ""


def _are_both(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    return bool(first["source"] == second["source"] and (first["fate"], second["fate"]) == ("all", "kept"))


def _told_variety(every: Mapping[str, Any], kept: Mapping[str, Any]) -> str:
    """What the kept texts of a source lost or gained beside all of them."""
    shares = f"{kept['distinct_share']:.0%} of the kept {kept['source']} texts are different ones"
    words = f"with {kept['distinct_words']:,} different words and {kept['words_per_text']:.1f} words a text"
    before = f"{every['distinct_share']:.0%}, {every['distinct_words']:,} and {every['words_per_text']:.1f}"
    return f"{shares}, {words}; of as many of all: {before}."


def galleries(page: PageData) -> str:
    """Galleries of pictures with their kept and dropped texts."""
    found = galleries_html(page.connection, page.number, page.config.num_gallery, page.config.seed, page.threshold)
    return "".join(
        details(gallery.title, note_html(gallery.note) + listed, is_open=at < 2)
        for at, (gallery, listed) in enumerate(found)
    )


def diversity(page: PageData) -> str:
    """How varied the texts are, which texts and words are most common, lost or invented, and which people they name."""
    variety = page.audits("diversity")
    rows = variety.table.to_pylist()
    return table_html([row for row in rows if row["round"] <= page.number], variety.title) + _folded(
        page, "phrases", "common", "vocabulary", "details", "repetition", "flags", "people"
    )


def _folded(page: PageData, *names: str) -> str:
    """Audits of this round as tables that can be opened; audits without an answer are left out."""
    answers = [page.audits(name) for name in names]
    return "".join(
        details(answer.title, note_html(answer.meaning) + table_html(mine, answer.title))
        for answer in answers
        if (mine := [row for row in answer.table.to_pylist() if row["round"] in (page.number, None)])
    )


def truth(page: PageData) -> str:
    """Where a truth file is given: how many kept and dropped texts are true of their picture."""
    counts: Mapping[str, Any] = page.figures.get("truth_counts") or {}
    tones = {"true": "kept", "partial": "synthetic", "false": "dropped"}
    rows = [
        (f"{source}, {fate}", [Segment(v, verdicts.get(v, 0), tone) for v, tone in tones.items()])
        for source, fates in sorted(counts.items(), reverse=True)
        for fate, verdicts in sorted(fates.items(), reverse=True)
    ]
    auc = page.figures.get("filter_auc_web")
    told = f"<p>On web texts, the filter's area under the ROC curve is {auc:.3f}.</p>" if auc is not None else ""
    return _stacks(rows) + told


def settings(page: PageData) -> str:
    """What each artifact of the round was made from: its settings in full, and digests of its inputs."""
    drawn = []
    for name, manifest in page.manifests.items():
        if round_of(name) not in (None, page.number):
            continue
        inputs = "".join(
            f"<li>{escape(key)}: <code>{escape(value)}</code></li>"
            for key, value in manifest["recipe"]["inputs"].items()
        )
        told = yaml.safe_dump(manifest.get("settings", {}), sort_keys=False, allow_unicode=True)
        drawn.append(
            f"<details><summary>{escape(name)}, made by the step {escape(str(manifest['recipe']['step']))} in "
            f"{manifest['seconds']:,.1f} s, {escape(manifest['made'])}</summary>"
            f"<p>digest <code>{escape(manifest['digest'])}</code>, content <code>{escape(manifest['content'])}</code>, "
            f"version {escape(manifest['version'])}</p><ul>{inputs}</ul><pre>{escape(told)}</pre></details>"
        )
    return "".join(drawn)


def read_rounds(connection: duckdb.DuckDBPyConnection, root: Path, last: int) -> list[dict[str, Any]]:
    """The figures of each round up to `last`, as in its metrics.json, with the number of the round."""
    numbers = query(connection, f"SELECT DISTINCT round FROM metrics WHERE round <= {last} ORDER BY round")
    found = (json_tables.read_figures(root, number) for number in numbers["round"].to_pylist())
    return [figures for figures in found if figures]
