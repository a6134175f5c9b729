"""The cut of a rule, found from the scores of all texts and from labels, with what was found out on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb

from blip_bootstrap.config import SelectConfig
from blip_bootstrap.errors import InputError
from blip_bootstrap.query.rule_score import score_sql
from blip_bootstrap.query.sql_text import scan
from blip_bootstrap.query.verdicts import RULE_CUT, SCORE_COLUMNS
from blip_bootstrap.select.calibrate import (
    Calibrated,
    Floats,
    calibrate,
    expected_at,
    find_common_threshold,
    histograms,
)
from blip_bootstrap.select.judge import learned_judge, rank_judge
from blip_bootstrap.select.label_rows import Answers, read_answers
from blip_bootstrap.select.learn import Learned
from blip_bootstrap.select.own_score import check_own_score, own_judge
from blip_bootstrap.select.score_cut import find_score_cut

Counts = dict[str, int | float | str]


@dataclass(frozen=True)
class Cut:
    """The score below which a text is dropped, and what the search for it found, which the files' metadata keep.

    `at` holds a cut for each source where the rule gives texts a score of its own; `judge` then is how each source's is
    found, and `record` what else is to be told about the rule.
    """

    column: str
    at: float | Mapping[str, float]
    counts: Counts = field(default_factory=dict)
    judge: Mapping[str, Any] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, rule: Mapping[str, Any], column: str, at: float) -> Cut:
        """The cut of a rule that was run before, from its metadata; `column` and `at` are what `cut_of` gives."""
        cuts = {name.removeprefix(RULE_CUT): float(cut) for name, cut in rule.items() if name.startswith(RULE_CUT)}
        return cls(column, cuts or at, judge=rule.get("judge", {}))


def cut_column(config: SelectConfig) -> str:
    """The column to which the cut applies; `best_per_image` and `top_k` rank by `score` what the ITM cut leaves."""
    if config.strategy == "learned" or (config.strategy == "fraction" and config.goes_by_rank):
        return "rule_score"
    if config.has_own_score and (config.strategy == "fraction" or config.score_threshold is not None):
        return "rule_score"
    return SCORE_COLUMNS[str(config.score)] if config.strategy == "fraction" else "itm_score"


def check_score(files: Sequence[Path], config: SelectConfig) -> None:
    """Raise InputError where the strategy ranks by a score that no text has, or `fraction` by one a source lacks."""
    if config.has_own_score:
        check_own_score(files, config)
        return
    if config.strategy not in ("fraction", "best_per_image", "top_k") or config.goes_by_rank:
        return
    column = SCORE_COLUMNS[str(config.score)]
    if column == "itm_score":
        return
    with duckdb.connect() as connection:
        names = [str(row[0]) for row in connection.execute(f"DESCRIBE FROM {scan(files)}").fetchall()]
        scored = f"count({column})" if column in names else "0"  # captions of an earlier version may lack the column
        found = dict(
            connection.execute(f"SELECT source, {scored} FROM {scan(files)} GROUP BY source ORDER BY source").fetchall()
        )
    folder = files[0].parent
    if found and not any(found.values()):
        give = "; give caption.scorer and run again" if config.score == "clip" else ""
        raise InputError(f"select.score: {config.score}, but no text of {folder} has a {column}{give}")
    lacking = [source for source in config.sources if found.get(source) == 0]
    if config.strategy == "fraction" and lacking:
        raise InputError(
            f"select.score: {config.score}, but no {lacking[0]} text of {folder} has a {column}, and fraction would "
            f"drop them all; leave {lacking[0]} out of select.sources, or rank by another score"
        )


def find_cut(files: Sequence[Path], config: SelectConfig) -> Cut:
    """The cut of the strategy: the configured one, a quantile of the scores, or one calibrated on labels.

    Raises InputError where the labels cannot give one.
    """
    if config.strategy == "learned":
        return _learned(files, config)
    if config.has_own_score:
        return _own_score(files, config)
    if config.strategy == "fraction":
        return _shares(files, config) if config.goes_by_rank else _quantile(files, config)
    if config.strategy == "target_noise" and config.label_files:
        found = calibrate(files, config.label_files[0], config.sources, config.target_noise)
        return Cut("itm_score", found.threshold, {"itm_threshold": found.threshold, **_expected(found)})
    judge = rank_judge(files, config, config.sources) if config.goes_by_rank else {}
    told: Counts = {"itm_threshold": config.itm_threshold, **_ranked_by(judge)}
    return Cut("itm_score", config.itm_threshold, told, judge, {"sources": _without_ranks(judge)} if judge else {})


def _expected(found: Calibrated) -> Counts:
    return {f"expected_{name}": value for name, value in vars(found).items() if name != "threshold"}


def _quantile(files: Sequence[Path], config: SelectConfig) -> Cut:
    column, share = cut_column(config), config.keep_fraction
    assert isinstance(share, float)  # with a mapping, fraction goes by rank
    found = find_score_cut(files, column, config.sources, share)
    return Cut(column, found.at, {f"{column}_cut": found.at, f"{column}_cut_leaves": found.share})


def _own_score(files: Sequence[Path], config: SelectConfig) -> Cut:
    """The cut on the value of `select.score` or `select.score_sql`; where these rank alone, that on the ITM score."""
    judge = own_judge(config)
    told: Counts = {f"scored_by_{source}": record["sql"] for source, record in judge.items()}
    cuts: dict[str, float]
    if config.strategy == "fraction" and isinstance(config.keep_fraction, dict):
        cuts, leaves = _cut_by_share(files, config, judge, list(judge))
    elif config.strategy == "fraction":
        found = find_score_cut(files, score_sql(judge), config.sources, config.keep_fraction)  # type: ignore[arg-type]
        cuts, leaves = dict.fromkeys(judge, found.at), {"rule_leaves": found.share}
    elif config.score_threshold is not None:
        given = config.score_threshold
        cuts, leaves = {s: given[s] if isinstance(given, dict) else given for s in judge}, {}  # type: ignore[index]
    else:
        told = {"itm_threshold": config.itm_threshold, **told}
        return Cut("itm_score", config.itm_threshold, told, judge, {"sources": judge})
    return Cut("rule_score", cuts, {**_cut_counts(cuts), **leaves, **told}, judge, {"cuts": cuts, "sources": judge})


def _shares(files: Sequence[Path], config: SelectConfig) -> Cut:
    """`fraction` by rank: of each source its share, since ranks among the texts of a source compare no two sources."""
    judge = rank_judge(files, config, config.sources)
    cuts, told = _cut_by_share(files, config, judge, list(judge))
    counts: Counts = {**_cut_counts(cuts), **told, **_ranked_by(judge)}
    return Cut("rule_score", cuts, counts, judge, {"cuts": cuts, "sources": _without_ranks(judge)})


def _cut_by_share(
    files: Sequence[Path], config: SelectConfig, judge: Mapping[str, Any], sources: Sequence[str]
) -> tuple[dict[str, float], Counts]:
    """The rule score that `keep_fraction` of the texts of each source reach, and the share that does."""
    cuts, told = {}, {}
    for source in sources:
        share = config.keep_fraction[source] if isinstance(config.keep_fraction, dict) else config.keep_fraction  # type: ignore[index]
        found = find_score_cut(files, score_sql({source: judge[source]}), [source], share)
        cuts[source], told[f"rule_leaves_{source}"] = found.at, found.share
    return cuts, {**told}


def _cut_counts(cuts: Mapping[str, float]) -> Counts:
    return {f"{RULE_CUT}{source}": cut for source, cut in cuts.items()}


def _ranked_by(judge: Mapping[str, Any]) -> Counts:
    """By which scores each source is ranked, in words."""
    told: Counts = {}
    for source, record in judge.items():
        if record["kind"] == "ranks":
            lacks = f" (no text has {', '.join(record['left_out'])})" if record["left_out"] else ""
            told[f"ranked_by_{source}"] = ", ".join(record["scores"]) + lacks
    return told


def _without_ranks(judge: Mapping[str, Any]) -> dict[str, Any]:
    """A judge's records without the numbers of the ranks, for people to read."""
    return {source: {k: v for k, v in record.items() if k != "ranks"} for source, record in judge.items()}


def _learned(files: Sequence[Path], config: SelectConfig) -> Cut:
    """The learned rule: by expected noise one threshold for all sources that labels calibrate, else shares."""
    answers = read_answers(config.label_files, files[0].parent)
    judge, fitted = learned_judge(files, config, answers)
    by_share = [source for source in judge if source not in fitted or config.cut_by == "share"]
    cuts, told = _cut_by_share(files, config, judge, by_share)
    rows = {source: _shifted(one, judge[source]) for source, one in fitted.items()}
    number: dict[str, Floats] = {
        source: histograms(files, [source], score_sql({source: judge[source]}))[source] for source in fitted
    }
    if fitted and config.cut_by == "noise":
        cuts |= dict.fromkeys(fitted, _threshold(rows, number, config))
    counts: Counts = {**_cut_counts(cuts), **told, **_learned_counts(judge)}
    record: dict[str, Any] = {"cuts": cuts, "sources": _without_ranks(judge), "labels": answers.files}
    if fitted:
        whole = expected_at(rows, number, {source: cuts[source] for source in fitted})
        counts |= _expected(whole) | _label_counts(answers)
        record["expected"] = {"all": vars(whole)} | {
            source: vars(expected_at({source: rows[source]}, {source: number[source]}, {source: cuts[source]}))
            for source in fitted
        }
    return Cut("rule_score", cuts, counts, judge, record)


def _shifted(learned: Learned, record: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The answered texts with their probabilities on the scale of the rule as it is used, with its own intercept."""
    odds_ratio = float(2.718281828459045 ** (record["intercept"] - float(f"{learned.weights[-1]:.9g}")))
    return [
        {**row, "itm_score": odds_ratio * p / (1 - p + odds_ratio * p)}
        for row in learned.rows
        for p in [row["itm_score"]]
    ]


def _threshold(
    rows: Mapping[str, Sequence[Mapping[str, Any]]], number: Mapping[str, Floats], config: SelectConfig
) -> float:
    try:
        return find_common_threshold(rows, number, config.target_noise).threshold
    except ValueError as error:
        told = ", ".join(str(one) for one in config.label_files)
        raise InputError(f"select.target_noise: with {told} {error}; raise it, or set select.cut_by: share") from error


def _learned_counts(judge: Mapping[str, Any]) -> Counts:
    """What a line of progress says about the rule of each source."""
    told: Counts = {}
    for source, record in judge.items():
        if record["kind"] == "learned":
            told |= {f"rule_{name}_{source}": record[name] for name in ("auc", "auc_low", "auc_high")}
            told[f"rule_{source}"] = (
                f"learned from {record['yes']} yes and {record['no']} no of source {record['fitted_on']}"
            )
    ranked = {name: f"{scores}; uncalibrated, no labels" for name, scores in _ranked_by(judge).items()}
    return {**told, **ranked}


def _label_counts(answers: Answers) -> Counts:
    return {
        "labels_used": len(answers.rows),  # a text that several files have counts once
        "labels_left_out": sum(one["left_out"] for one in answers.files),
        "labels_digest": " ".join(one["digest"][:16] for one in answers.files),
    }
