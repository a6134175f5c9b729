"""The figures of a round: metrics.json, gathered from its tables, MANIFESTs and evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from blip_bootstrap.audit.alarms import by_best_basis
from blip_bootstrap.audit.audits import ask
from blip_bootstrap.errors import InputError
from blip_bootstrap.labels.truth import judged_pairs, load_truth
from blip_bootstrap.progress import Say, quiet
from blip_bootstrap.query.alike import alike
from blip_bootstrap.query.images import listed_sql
from blip_bootstrap.query.verdicts import pair_figures
from blip_bootstrap.query.views import connect
from blip_bootstrap.report.costs import cost_figures
from blip_bootstrap.report.report_file import (
    Content,
    ReportFile,
    manifest_files,
    manifests_of_steps,
    write_if_changed,
)
from blip_bootstrap.schemas.closed_lists import SET_ASIDE
from blip_bootstrap.storage import parquet, run_folder

ALWAYS = (
    "caption_truth", "noise_ratio_web", "noise_ratio_synthetic", "dropped_share_web", "dropped_share_synthetic",
    "cider", "tr1", "ir1", "human_only_cider", "human_only_tr1",
)  # fmt: skip
"""Figures that every metrics.json has; null where a round cannot have them (round 0 writes no captions)."""

COLLAPSE = {
    "words": "distinct_words", "content_words": "content_words", "variance": "variance", "common_share": "common_share",
    "words_to_first": "words_to_first", "content_words_to_first": "content_words_to_first",
    "variance_to_first": "variance_to_first", "common_share_to_first": "common_to_first",
}  # fmt: skip
"""Figures of collapse, and their columns in the audit."""

ARMS = ("captioner_only", "filter_only", "human_only", "paper_rule", "oracle")
"""The control arms that a round may have, each a folder of its `controls`."""


def write_figures(root: Path, number: int, truth: Path | None = None, say: Say = quiet) -> Path:
    """Write the metrics.json of round `number` of the run under `root`, if its figures may have changed; its path.

    `truth` is a truth file, where there is one. `say` gets the lines of progress.
    """
    labels = run_folder.labels_path(root, number)
    reads = manifest_files(root, [*_first_rounds(root, number), number]) | {labels.relative_to(root).as_posix(): labels}
    reads |= {"truth": truth} if truth else {}

    def content() -> Content:
        found = round_metrics(root, number, truth)
        return json.dumps(found, indent=1) + "\n", {name: found[name] for name in ALWAYS if found[name] is not None}

    name = f"{run_folder.round_name(number)}/metrics.json"
    return write_if_changed(ReportFile(root, name, "measure_round", reads), content, say)


def round_metrics(root: Path, number: int, truth: Path | None = None) -> dict[str, Any]:
    """All figures of round `number`: shares are 0..1, times are seconds, and null is what the round cannot have.

    - `urls`, `downloaded`, `failed_by_reason`: rows of `images` that are listed;
    - `web_captions`, `web_kept`, `synthetic_captions`, `synthetic_kept`, `dropped_by_reason`: rows of `pairs`;
    - `noise_ratio_<source>`: texts that the filter rejects, of those of that source that it scored (section 4.2), and
      `dropped_share_<source>`: texts not kept, of all of that source; with intervals, see `verdicts.pair_figures`;
    - `filter_quality.<source>.<score>`: how often that score puts a right text above a wrong one (AUC), as far as the
      round's human captions tell it, and `answered_filter_quality`, as far as an answered sample does;
      `rule_auc_<source>`: that of the score by which the rule cuts; with intervals, see the audit `filter_quality`;
    - `collapse_words`, `collapse_content_words`, `collapse_variance`, `collapse_common_share`: how varied the round's
      synthetic texts are, see the audit `collapse`, and with `_to_first` beside those of the first round that has some;
      `collapse_kept_...`: of all kept texts;
    - `cost_texts`, `cost_spared`, `cost_tokens_per_kept`, ..., `cost_by_captioner`, `cost_curve`: what the synthetic
      texts cost, and what was got for it, see `costs.cost_figures`;
    - with a truth file: `caption_truth` (true texts of the kept ones), and more, see `truth_figures`;
    - what the evaluation of the round's model found, as it is named there: `cider`, `tr1`, `ir1_near`, ...;
    - what the evaluation of each control found, as `<arm>_<figure>`;
    - `same_pictures`: the pictures that are in two sets at once, by kind, and those that training leaves out;
    - `duplicates`: the pictures that the lists have several times, and those of them that are not trained on;
    - `seconds`: of each step, by what it made.
    """
    folder = run_folder.round_folder(root, number)
    images, pairs = run_folder.used_folder(root, number, "images"), folder / "pairs"
    with duckdb.connect() as connection:
        found: dict[str, Any] = dict.fromkeys(ALWAYS)
        found |= {"round": number} | _download_figures(connection, images) | pair_figures(_files(pairs))
        judged = judged_pairs(load_truth(truth), images, pairs) if truth else None
        if judged is not None:
            found |= truth_figures(connection, judged)
    found |= cost_figures(root, number, judged)
    found |= collapse_figures(root, number) | quality_figures(root, number)
    found |= _numbers(folder / "evaluation" / "metrics.json")
    for arm in ARMS:
        figures = _numbers(folder / "controls" / arm / "metrics.json")
        found |= {f"{arm}_{name}": value for name, value in figures.items()}
    for name, shared in (("same_pictures", "same_pictures"), ("duplicates", "groups")):
        made = run_folder.read_json(run_folder.used_folder(root, number, shared) / run_folder.MANIFEST) or {}
        found[name] = made.get("counts", {})
    return found | {"seconds": _seconds(root, number)}


def collapse_figures(root: Path, number: int) -> dict[str, Any]:
    """The audit `collapse` of a round's synthetic and kept texts, beside those of the first round that has some."""
    with connect(root, [*_first_rounds(root, number), number], with_figures=False) as connection:
        rows = ask(connection, "collapse").table.to_pylist()
    found: dict[str, Any] = {}
    for row in rows:
        of = "" if row["of_texts"] == "synthetic" else f"{row['of_texts']}_"
        if row["round"] == number:
            found |= {f"collapse_{of}{ours}": row[theirs] for ours, theirs in COLLAPSE.items()}
    return found


def _first_rounds(root: Path, number: int) -> list[int]:
    """The two first rounds before `number` that have pairs: round 0 has no synthetic texts."""
    return [one for one in run_folder.rounds_with_pairs(root) if one < number][:2]


def quality_figures(root: Path, number: int) -> dict[str, Any]:
    """The AUC of each score by source, 0..1, by human captions and by answers; nothing where a round has neither."""
    with connect(root, [number], with_figures=False) as connection:
        rows = ask(connection, "filter_quality").table.to_pylist()
    found: dict[str, Any] = {}
    names = {"human_captions": "filter_quality", "answers": "answered_filter_quality"}
    for row in rows:
        if row["auc"] is not None:
            found.setdefault(names[row["basis"]], {}).setdefault(row["source"], {})[row["score"]] = row["auc"]
    for source in ("web", "synthetic"):
        mine = by_best_basis([row for row in rows if row["source"] == source])
        found |= {f"rule_auc_{source}": row["auc"] for row in mine if row["cuts"] and row["auc"] is not None}
    return found


def truth_figures(connection: duckdb.DuckDBPyConnection, judged: pa.Table) -> dict[str, Any]:
    """How true the texts are, and how well the filter separates them, from the rows of `judged_pairs` with a verdict.

    `caption_truth`, `caption_partial`: shares of the kept texts; `truth_<source>`: true texts of all of that source,
    before the filter, and `kept_truth_<source>` after it. For web texts, of which those are good that are not false:
    `filter_precision_web` (good of the kept), `filter_recall_web` (kept of the good), and `filter_auc_web`, the area
    under the ROC curve of the ITM score. `truth_counts`: texts by source, fate and verdict. Texts that no rule
    has judged (`not_listed`, `duplicate_picture`) do not count.
    """
    if "reason" in judged.column_names:
        judged = judged.filter(pc.invert(pc.is_in(judged["reason"], pa.array(SET_ASIDE))))
    connection.register("judged", judged.select(["source", "kept", "verdict", "itm_score"]))
    cells = connection.execute(
        "SELECT source, kept, verdict, count(*) FROM judged WHERE verdict IS NOT NULL GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    counts: dict[str, Any] = {}
    for source, kept, verdict, number in cells:
        counts.setdefault(source, {}).setdefault("kept" if kept else "dropped", {})[verdict] = number
    total = _Tally(cells)
    found = {
        "caption_truth": total.share("true", kept=True),
        "caption_partial": total.share("partial", kept=True),
        "filter_precision_web": total.good_of_kept("web"),
        "filter_recall_web": total.kept_of_good("web"),
        "filter_auc_web": _auc(connection, "web"),
        "truth_counts": counts,
    }
    for source in ("web", "synthetic"):
        found[f"truth_{source}"] = total.share("true", source=source)
        found[f"kept_truth_{source}"] = total.share("true", source=source, kept=True)
    connection.unregister("judged")
    return found


class _Tally:
    """Numbers of texts by source, kept and verdict, and the shares among them."""

    def __init__(self, cells: list[tuple[Any, ...]]) -> None:
        self.cells = cells

    def share(self, verdict: str, source: str | None = None, kept: bool | None = None) -> float | None:
        among = [c for c in self.cells if source in (None, c[0]) and kept in (None, c[1])]
        return _ratio(sum(c[3] for c in among if c[2] == verdict), sum(c[3] for c in among))

    def good_of_kept(self, source: str) -> float | None:
        bad = self.share("false", source=source, kept=True)
        return None if bad is None else 1 - bad

    def kept_of_good(self, source: str) -> float | None:
        good = [c for c in self.cells if c[0] == source and c[2] != "false"]
        return _ratio(sum(c[3] for c in good if c[1]), sum(c[3] for c in good))


def _auc(connection: duckdb.DuckDBPyConnection, source: str) -> float | None:
    """The area under the ROC curve of the ITM score, by ranks; equal scores count half."""
    (row,) = connection.execute(
        """
        WITH ranked AS (
            SELECT verdict <> 'false' AS good,
                rank() OVER (ORDER BY itm_score) + (count(*) OVER (PARTITION BY itm_score) - 1) / 2 AS place
            FROM judged WHERE source = ? AND verdict IS NOT NULL AND itm_score IS NOT NULL
        )
        SELECT sum(place) FILTER (good), count(*) FILTER (good), count(*) FILTER (NOT good) FROM ranked
        """,
        [source],
    ).fetchall()
    places, good, bad = row
    return None if not good or not bad else float((places - good * (good + 1) / 2) / (good * bad))


def _download_figures(connection: duckdb.DuckDBPyConnection, images: Path) -> dict[str, Any]:
    rows = " UNION ALL ".join(f"SELECT key, status, error_class FROM {one.scan}" for one in alike(_files(images)))
    cells = connection.execute(
        "SELECT status, coalesce(error_class, 'other'), count(*) AS number "
        f"FROM {listed_sql(f'({rows})', images)} GROUP BY ALL ORDER BY number DESC, 2"
    ).fetchall()
    return {
        "urls": sum(number for _, _, number in cells),
        "downloaded": sum(number for status, _, number in cells if status == "success"),
        "failed_by_reason": {reason: number for status, reason, number in cells if status != "success"},
    }


def _files(table: Path) -> list[Path]:
    files = parquet.parquet_files(table)
    if not files:
        raise InputError(f"{table}: no Parquet files to measure; run the round first")
    return files


def _numbers(path: Path) -> dict[str, float]:
    """The numbers of an evaluation's metrics.json; none where there is no such file."""
    read = run_folder.read_json(path)
    return {name: value for name, value in (read or {}).items() if isinstance(value, int | float)}


def _seconds(root: Path, number: int) -> dict[str, float]:
    """Seconds of each step of the round, by what it made; what all rounds share counts for round 0."""
    prefix = f"{run_folder.round_name(number)}/"
    found = manifests_of_steps(root).items()
    mine = {name: made for name, made in found if name.startswith(prefix) or (number == 0 and "/" not in name)}
    return {name.removeprefix(prefix): float(made.get("seconds", 0.0)) for name, made in mine.items()}


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
