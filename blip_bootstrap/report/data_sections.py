"""Sections of a round's page about its data; a section with nothing to show is an empty string."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import duckdb
import yaml

from blip_bootstrap.audit.alarms import Alarm, find_alarms
from blip_bootstrap.html import charts
from blip_bootstrap.html.charts import Part
from blip_bootstrap.html.elements import charts_html, named, scroll, table_html
from blip_bootstrap.html.gallery import galleries_html
from blip_bootstrap.labels.estimates import estimates
from blip_bootstrap.query import json_tables
from blip_bootstrap.query.questions import query
from blip_bootstrap.report.page import Page
from blip_bootstrap.report.summary import FIGURES
from blip_bootstrap.storage.run_folder import labels_path, round_name, round_of

TONES = {"web": "web", "synthetic": "synthetic"}

NOISE = ("noise_by_host", "noise_by_length", "noise_by_sampler", "languages")


def cards(page: Page) -> str:
    """The main figures, each with its change since the round before."""
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


def alarm_list(page: Page) -> str:
    """The round's alarms, or that there are none."""
    return alarms_html(find_alarms(page.audits, page.root, page.number))


def alarms_html(found: Sequence[Alarm], with_round: bool = False) -> str:
    """Alarms as paragraphs; one calm line where there are none."""
    if not found:
        calm = "downloads, vocabulary, length, filter and held-out figures are as they should be"
        return f'<p class="calm">No alarm: {calm}.</p>'
    return "".join(
        f'<p class="alarm" role="alert">{f"Round {alarm.round}: " if with_round else ""}'
        f"<strong>{escape(alarm.name)}</strong>: {escape(alarm.message)}.</p>"
        for alarm in found
    )


def flow(page: Page) -> str:
    """Rows from URLs to pairs, as bars to one scale."""
    reasons = page.audits("reasons").table.to_pylist()
    figures, fates = page.figures, [row for row in reasons if row["round"] == page.number]
    rows: list[tuple[str, list[Part]]] = []
    if figures.get("urls"):
        failed = [Part(str(name), number, "dropped") for name, number in figures.get("failed_by_reason", {}).items()]
        rows.append(("URLs", [Part("downloaded", figures["downloaded"], "kept"), *failed]))
    for source in ("web", "synthetic"):
        mine = sorted((row for row in fates if row["source"] == source), key=lambda row: row["fate"] != "kept")
        parts = [Part(row["fate"], row["texts"], "kept" if row["fate"] == "kept" else "dropped") for row in mine]
        rows += [(f"{source} texts", parts)] if parts else []
    pairs = [Part(row["source"], row["texts"], row["source"]) for row in fates if row["fate"] == "kept"]
    rows += [("pairs to train on", pairs)] if pairs else []
    full = max((sum(part.number for part in parts) for _, parts in rows), default=0)
    drawn = f'<ul class="flow">{"".join(charts.stack(name, parts, full) for name, parts in rows)}</ul>' if rows else ""
    return drawn + _folded(page, "accounting")


def over_rounds(page: Page) -> str:
    """The main figures of every round so far."""
    figures = [(label, key, form) for label, key, form in FIGURES if form != "counts"]
    rows = [(label, form, [one.get(key) for one in page.rounds]) for label, key, form in figures]
    rows = [row for row in rows if any(value is not None for value in row[2])]
    head = "".join(f'<th scope="col" class="num">round {one["round"]}</th>' for one in page.rounds)
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


def noise(page: Page) -> str:
    """Noise ratio and dropped share of every round and source with their intervals."""
    found, drawn = page.audits("noise").table.to_pylist(), ""
    for share, low, high, told in (
        ("noise_ratio", "low", "high", "noise ratio: texts that the filter rejects of those that it scored"),
        ("dropped_share", "dropped_low", "dropped_high", "dropped share: texts not kept, for any reason, of all"),
    ):
        rows = [
            (f"round {row['round']}, {row['source']}", row[share], row[low], row[high], row["source"])
            for row in found
            if row[share] is not None
        ]
        drawn += charts.ranges(rows, f"{told}; 95 % Wilson interval") if rows else ""
    return drawn + _folded(page, *NOISE)


def spot_check(page: Page) -> str:
    """What the answers to the round's sample say, and what a selection by target noise expected of its cut.

    Noise here is by people's answers: texts that do not fit; the noise ratio is the filter's own verdict.
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
        (f"{name}, expected at the cut", counts[key], counts[f"{key}_low"], counts[f"{key}_high"], "human")
        for name, key in (("wrong texts of the kept", "expected_noise"), ("recall", "expected_recall"))
        if key in counts
    ]
    return charts.ranges(rows, "shares of texts; 95 % intervals") if rows else ""


def scores(page: Page) -> str:
    """Histograms of the ITM scores, web and synthetic, and what any threshold would keep."""
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
    drawn.append(charts.lines("share kept at any threshold", series, ("web", "synthetic"), "threshold"))
    return charts_html(drawn) + _folded(page, "agreement")


def galleries(page: Page) -> str:
    """Pictures with kept and dropped texts."""
    found = galleries_html(page.connection, page.number, page.config.num_gallery, page.config.seed, page.threshold)
    return "".join(
        f"<details{' open' if at < 2 else ''}><summary><strong>{escape(gallery.title)}</strong></summary>"
        f'<p class="note">{escape(gallery.note)}</p>{listed}</details>'
        for at, (gallery, listed) in enumerate(found)
    )


def diversity(page: Page) -> str:
    """How many different texts and words there are, which are most common, lost or invented, and who is named."""
    variety = page.audits("diversity")
    rows = variety.table.to_pylist()
    return table_html([row for row in rows if row["round"] <= page.number], variety.title) + _folded(
        page, "phrases", "common", "vocabulary", "details", "repetition", "flags", "people"
    )


def _folded(page: Page, *names: str) -> str:
    """Audits of this round as tables that open; those without an answer are left out."""
    answers = [page.audits(name) for name in names]
    return "".join(
        f"<details><summary><strong>{escape(answer.title)}</strong></summary>"
        f'<p class="note">{escape(answer.meaning)}</p>{table_html(mine, answer.title)}</details>'
        for answer in answers
        if (mine := [row for row in answer.table.to_pylist() if row["round"] in (page.number, None)])
    )


def truth(page: Page) -> str:
    """Where the truth is known: how true the texts are before and after the filter."""
    counts: Mapping[str, Any] = page.figures.get("truth_counts") or {}
    tones = {"true": "kept", "partial": "synthetic", "false": "dropped"}
    rows = [
        (f"{source}, {fate}", [Part(v, verdicts.get(v, 0), tone) for v, tone in tones.items()])
        for source, fates in sorted(counts.items(), reverse=True)
        for fate, verdicts in sorted(fates.items(), reverse=True)
    ]
    full = max((sum(part.number for part in parts) for _, parts in rows), default=0)
    drawn = f'<ul class="flow">{"".join(charts.stack(name, parts, full) for name, parts in rows)}</ul>' if rows else ""
    auc = page.figures.get("filter_auc_web")
    told = f"<p>The filter's area under the ROC curve on web texts is {auc:.3f}.</p>" if auc is not None else ""
    return drawn + told


def settings(page: Page) -> str:
    """What each part of the round was made from: settings in full, digests."""
    blocks = []
    for name, manifest in page.manifests.items():
        if round_of(name) not in (None, page.number):
            continue
        inputs = "".join(
            f"<li>{escape(key)}: <code>{escape(value)}</code></li>"
            for key, value in manifest["recipe"]["inputs"].items()
        )
        told = yaml.safe_dump(manifest.get("settings", {}), sort_keys=False, allow_unicode=True)
        blocks.append(
            f"<details><summary>{escape(name)}, made by {escape(str(manifest['recipe']['step']))} in "
            f"{manifest['seconds']:,.1f} s, {escape(manifest['made'])}</summary>"
            f"<p>digest <code>{escape(manifest['digest'])}</code>, content <code>{escape(manifest['content'])}</code>, "
            f"version {escape(manifest['version'])}</p><ul>{inputs}</ul><pre>{escape(told)}</pre></details>"
        )
    return "".join(blocks)


def read_rounds(connection: duckdb.DuckDBPyConnection, root: Path, last: int) -> list[dict[str, Any]]:
    """The metrics.json of every round up to `last`, with its number."""
    numbers = query(connection, f"SELECT DISTINCT round FROM metrics WHERE round <= {last} ORDER BY round")
    found = (json_tables.read_figures(root, number) for number in numbers["round"].to_pylist())
    return [figures for figures in found if figures]
