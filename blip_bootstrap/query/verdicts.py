"""The filter's verdict on each text of `pairs`: whether its score is below the rule's cut (BLIP, section 4.2).

Files of `pairs` hold it in the column `rejected`. Files of earlier versions lack that column, and their `reason` does
not tell either: a repetition below the cut has the reason `duplicate_text`. There the verdict is computed from the
scores and the rule in the file's metadata.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from blip_bootstrap.errors import InputError
from blip_bootstrap.paths import SCORE_NAME
from blip_bootstrap.query.alike import Alike, alike
from blip_bootstrap.query.macros import MACROS
from blip_bootstrap.query.questions import told_in_one_line
from blip_bootstrap.query.sql_text import is_number, literal, scan, text_list
from blip_bootstrap.schemas.closed_lists import NOT_LISTED, SET_ASIDE
from blip_bootstrap.storage import parquet
from blip_bootstrap.storage.remote import Remote, remote_of
from blip_bootstrap.storage.remote_files import attach

SCORE_COLUMNS: dict[str, str] = {
    "itm": "itm_score", "itc": "itc_score", "logprob": "logprob", "clip": "clip_score",
    "logprob_per_token": "logprob_per_token", "lift": "lift", "agreement": "agreement",
    "captioner_itc": "captioner_itc", "distinctness": "distinctness",
}  # fmt: skip
"""The column of `captions` that `select.score` names."""


_OF_A_JUDGE = re.compile(rf"scores\['({SCORE_NAME[1:-1]})'\]")


def column_of(score: str) -> str:
    """SQL of a score of a row of `captions`, by the name that `select.score` has: a column, or an entry of `scores`.

    Raises InputError where no score can be called so.
    """
    if score in SCORE_COLUMNS:
        return SCORE_COLUMNS[score]
    if not re.match(SCORE_NAME, score):
        raise InputError(f"no score is called {score!r}; known are {', '.join(SCORE_COLUMNS)}, and those of judges")
    return f"scores['{score}']"


def is_score_column(column: str) -> bool:
    """Whether this is what `column_of` gives for some score."""
    return column in SCORE_COLUMNS.values() or bool(_OF_A_JUDGE.fullmatch(column))


def stored_in(column: str) -> str:
    """The column of `captions` that holds what `column_of` gives."""
    return "scores" if _OF_A_JUDGE.fullmatch(column) else column


RULE_CUT = "rule_score_cut_"
"""Begins the name under which a rule with scores of its own keeps the cut of each source."""


def below_sql(column: str, cut: float) -> str:
    """SQL of the verdict: whether a score is below the cut, in single precision; null where the text has no score."""
    return f"CASE WHEN {is_number(column)} THEN {column} < '{cut!r}'::FLOAT END"


def below_sql_by_source(column: str, cuts: Mapping[str, float]) -> str:
    """The same with a cut for each source; a text of another source has no verdict."""
    cases = " ".join(f"WHEN {literal(source)} THEN {below_sql(column, cut)}" for source, cut in cuts.items())
    return f"CASE source {cases} END" if cases else "NULL::BOOLEAN"


def rule_of(schema: pa.Schema) -> dict[str, Any] | None:
    """The rule that made a file of `pairs`, with its settings and counts; None where the file has none."""
    found = (schema.metadata or {}).get(b"rule")
    rule: dict[str, Any] | None = json.loads(found) if found else None
    return rule


def cut_of(rule: Mapping[str, Any]) -> tuple[str, float] | None:
    """The column of the score by which a rule cuts, and its cut; None where nothing was cut, as in round 0.

    A rule that gives texts a score of its own (learned, or by rank) has a cut for each source, of which this is the
    lowest.
    """
    if cuts := [float(cut) for name, cut in rule.items() if name.startswith(RULE_CUT)]:
        return "rule_score", min(cuts)
    if rule.get("strategy") == "fraction":
        column = SCORE_COLUMNS.get(str(rule.get("score", "itm")), "itm_score")
        return (column, float(rule[f"{column}_cut"])) if f"{column}_cut" in rule else None
    return ("itm_score", float(rule["itm_threshold"])) if "itm_threshold" in rule else None


def cuts_of(rule: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of each source the score by which a rule cuts, as `select.score` names it, or `rule` for its own; and its cut."""
    if not (cut := cut_of(rule)):
        return []
    name = {column: name for name, column in SCORE_COLUMNS.items()}.get(cut[0], "rule")
    cuts = {source: float(rule.get(f"{cut[0]}_cut_{source}", cut[1])) for source in ("web", "synthetic")}
    judges: Mapping[str, Mapping[str, Any]] = rule.get("judge", {})
    areas = {s: {name: judges.get(s, {}).get(name) for name in ("auc", "auc_low", "auc_high")} for s in cuts}
    return [{"source": source, "score": name, "cut": at, **areas[source]} for source, at in cuts.items()]


def every_pair_sql(files: Sequence[Path | str], remote: Remote | None = None) -> str:
    """SQL to stand after FROM: the rows of `pairs` files, each with its verdict in `rejected`."""
    return f"({' UNION ALL BY NAME '.join(f'FROM {pairs_sql(one)}' for one in alike(files, remote))})"


def pairs_sql(pairs: Alike) -> str:
    """SQL to stand after FROM: the rows of `pairs` files of one folder, each with its verdict in `rejected`.

    Where a rule cut by another score than ITM's, the score is taken from the captions beside the pairs, since pairs do
    not hold it.
    """
    files, schema = pairs.files, pairs.schema
    rule, said = rule_of(schema), "rejected" in schema.names
    cut, captions = cut_of(rule) if rule else None, [_captions_of(str(file)) for file in files]
    columns = ", ".join(f"p.{name}" for name in schema.names if name != "rejected")  # other files may have that one
    if cut and cut[0] not in ("itm_score", "rule_score") and not said and all(captions):
        scores = f"(SELECT key, source, candidate, {cut[0]} FROM {scan([file for file in captions if file])})"
        joined = f"{pairs.scan} p LEFT JOIN {scores} s USING (key, source, candidate)"
        return f"(SELECT {columns}, {below_sql(f's.{cut[0]}', cut[1])} AS rejected FROM {joined})"
    if cut and cut[0] == "rule_score":
        return f"(SELECT {columns}, p.rejected FROM {pairs.scan} p)"
    found = _from_reason(schema) if cut is None or cut[0] != "itm_score" else below_sql("p.itm_score", cut[1])
    if said:  # no verdict on what is in no list any more
        found = f"CASE WHEN coalesce(NOT list_contains({text_list(SET_ASIDE)}, p.reason), true) THEN {found} END"
    return f"(SELECT {columns}, {f'coalesce(p.rejected, {found})' if said else found} AS rejected FROM {pairs.scan} p)"


def _from_reason(schema: pa.Schema) -> str:
    """SQL of the verdict as far as `reason` tells it, for pairs whose rule or score is not known."""
    if not {"itm_score", "reason"} <= set(schema.names):
        return "NULL::BOOLEAN"
    scored = f"{is_number('itm_score')} AND coalesce(reason NOT IN ('empty_text', 'not_scored'), true)"
    return f"CASE WHEN {scored} THEN coalesce(reason = 'below_threshold', false) END"


def _captions_of(pairs: str) -> str | None:
    """The captions from which a file of pairs was made, a file of the same name; None where it is gone."""
    folder, _, name = pairs.rpartition("/")
    captions = f"{folder.rpartition('/')[0]}/captions/{name}"
    return captions if "://" in captions or Path(captions).is_file() else None


def pair_figures(files: Sequence[Path | str], remote: Remote | None = None) -> dict[str, Any]:
    """The figures of a round's `pairs`, by source; shares are 0..1, each with its 95 % Wilson interval.

    - `<source>_captions`, `<source>_kept`: texts, and those that became pairs;
    - `<source>_scored`, `<source>_rejected`: texts with a score, and those of them below the rule's cut;
    - `noise_ratio_<source>`: rejected of scored texts (section 4.2), repetitions and flagged ones among them;
    - `dropped_share_<source>`: texts that were not kept, for whatever reason, of all texts;
    - `..._low`, `..._high`: the ends of the two shares' intervals;
    - `dropped_by_reason`: texts of both sources. Those that are `not_listed` count here alone.

    A share of nothing is None. Raises InputError where a file is damaged.
    """
    with told_in_one_line(), duckdb.connect() as connection:
        connection.execute(MACROS)
        if remote:
            attach(connection, [remote])
        cells = connection.execute(
            f"SELECT source, reason, rejected, count(*) AS number FROM {every_pair_sql(files, remote)} "
            "GROUP BY ALL ORDER BY number DESC, 1, 2"
        ).fetchall()
        found: dict[str, Any] = {"dropped_by_reason": {}}
        for source in ("web", "synthetic"):
            listed = [cell[1:] for cell in cells if cell[0] == source and cell[1] != NOT_LISTED]
            found |= _source_figures(connection, source, listed)
    for _, reason, _, number in cells:
        if reason is not None:
            found["dropped_by_reason"][reason] = found["dropped_by_reason"].get(reason, 0) + number
    return found


def _source_figures(
    connection: duckdb.DuckDBPyConnection, source: str, cells: Sequence[tuple[str | None, bool | None, int]]
) -> dict[str, Any]:
    rows = sum(number for _, _, number in cells)
    kept = sum(number for reason, _, number in cells if reason is None)
    scored = sum(number for _, rejected, number in cells if rejected is not None)
    rejections = sum(number for _, rejected, number in cells if rejected)
    counts = {"captions": rows, "kept": kept, "scored": scored, "rejected": rejections}
    found: dict[str, Any] = {f"{source}_{name}": number for name, number in counts.items()}
    for name, hits, number in (("noise_ratio", rejections, scored), ("dropped_share", rows - kept, rows)):
        ((low, high),) = connection.execute(
            f"SELECT wilson_low({hits}, {number}), wilson_high({hits}, {number})"
        ).fetchall()
        ends = {f"{name}_{source}_low": low, f"{name}_{source}_high": high}
        found |= {f"{name}_{source}": hits / number if number else None, **ends}
    return found


def renewed(root: Path, folder: Path, figures: dict[str, Any]) -> dict[str, Any]:
    """The figures of a round's metrics.json with the meanings of today; `folder` is the round's, under `root`.

    Earlier versions wrote the dropped share under the name of the noise ratio; both are then counted from the pairs.
    """
    if "noise_ratio_web" not in figures or "dropped_share_web" in figures:
        return figures
    shares = ("noise_ratio_web", "dropped_share_web"), ("noise_ratio_synthetic", "dropped_share_synthetic")
    moved = {dropped: figures.get(noise) for noise, dropped in shares} | {noise: None for noise, _ in shares}
    return figures | moved | _counted_anew(root, folder, (folder / "metrics.json").stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _counted_anew(root: Path, folder: Path, _stamp: int) -> dict[str, Any]:
    remote = remote_of(root)
    files = remote.parquet_files(folder / "pairs") if remote else parquet.parquet_files(folder / "pairs")
    return pair_figures(files, remote) if files else {}
