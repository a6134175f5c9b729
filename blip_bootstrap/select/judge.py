"""How a rule gives each text one score of its own, `rule_score`: by ranks, or learned; one record for each source."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blip_bootstrap.config import SelectConfig
from blip_bootstrap.errors import InputError
from blip_bootstrap.query.rule_score import score_sql
from blip_bootstrap.query.verdicts import column_of
from blip_bootstrap.select.calibrate import bin_centres, class_share, histograms
from blip_bootstrap.select.features import find_moments
from blip_bootstrap.select.label_rows import HUMAN, Answers
from blip_bootstrap.select.learn import UNLABELLED, Learned, can_learn, labels_for, learn, record_of
from blip_bootstrap.select.ranks import find_ranks, scores_there


def names_of(config: SelectConfig, source: str) -> tuple[str, ...]:
    """The scores by which texts of a source are ranked."""
    if config.strategy == "learned" and config.score == "itm":
        return UNLABELLED[source]
    score = config.score[source] if isinstance(config.score, dict) else config.score  # type: ignore[index]
    return (score,) if isinstance(score, str) else tuple(score)


def rank_judge(files: Sequence[Path], config: SelectConfig, sources: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The rule by rank: the mean of a text's ranks by some scores among the texts of its source.

    A score that no text of the source has is left out, where others remain; else InputError.
    """
    wanted = {source: names_of(config, source) for source in sources}
    columns = [column_of(name) for names in wanted.values() for name in names]
    there = scores_there(files, columns, sources)
    found: dict[str, dict[str, Any]] = {}
    for source, names in wanted.items():
        if source not in there:  # no text of that source at all
            continue
        has = [name for name in names if there[source][column_of(name)]]
        if not has:
            raise InputError(_no_score(files, source, names))
        ranks = [vars(one) for name in has if (one := find_ranks(files, column_of(name), source))]
        left_out = [name for name in names if name not in has]
        found[source] = {"kind": "ranks", "scores": has, "left_out": left_out, "ranks": ranks}
    return found


def _no_score(files: Sequence[Path], source: str, names: Sequence[str]) -> str:
    columns = " or ".join(column_of(name) for name in names)
    return (
        f"select.score: {', '.join(names)}, but no {source} text of {files[0].parent} has a {columns}; leave {source} "
        "out of select.sources, or rank it by another score"
    )


def learned_judge(
    files: Sequence[Path], config: SelectConfig, answers: Answers
) -> tuple[dict[str, dict[str, Any]], dict[str, Learned]]:
    """The learned rule of each source, and by rank that of sources without enough labels; and what was fitted.

    Raises InputError where there are labels, and too few for every source, or without a score that the texts have.
    """
    found: dict[str, dict[str, Any]] = {}
    fitted: dict[str, Learned] = {}
    has_labels = False
    for source in config.sources:
        mine = labels_for(answers.rows, source)
        has_labels = has_labels or bool(mine)
        moments = find_moments(files, source) if mine else {}
        if not moments:
            continue
        if not can_learn(mine, moments):
            raise InputError(_nothing_common(files, source, answers))
        fitted[source] = learn(mine, source, moments)
        shift = _shift(files, source, fitted[source]) if mine[0]["source"] == HUMAN else 0.0
        found[source] = record_of(fitted[source], shift)
    if answers.files and not has_labels:
        raise InputError(
            f"select.labels: {_files(answers)}: learned needs 5 texts of a source answered yes and 5 answered no, with "
            f"scores, and no source of select.sources has them ({_numbers(answers)}); answer more (`audit label`), or "
            "leave select.labels out to rank without labels"
        )
    return {**found, **rank_judge(files, config, [one for one in config.sources if one not in found])}, fitted


def _nothing_common(files: Sequence[Path], source: str, answers: Answers) -> str:
    return (
        f"select.labels: {_files(answers)}: no score that differs from text to text is known both of the answered "
        f"{source} texts and of at least half of those of {files[0].parent}; give labels of this run's texts, or leave "
        "select.labels out to rank without labels"
    )


def _files(answers: Answers) -> str:
    return ", ".join(one["file"] for one in answers.files)


def _numbers(answers: Answers) -> str:
    """How many answers there are of each source, in words."""
    sources = sorted({row["source"] for row in answers.rows}) or ["none"]
    left_out = sum(one["left_out"] for one in answers.files)
    told = []
    for source in sources:
        mine = [row["answer"] for row in answers.rows if row["source"] == source]
        told.append(f"{source}: {mine.count('yes')} yes, {mine.count('no')} no")
    return "; ".join([*told, *([f"{left_out} left out, whose scores are not known"] if left_out else [])])


def _shift(files: Sequence[Path], source: str, learned: Learned) -> float:
    """What to add to the log-odds, where another share of the texts fits than of the labels.

    Human labels say how right and wrong texts are scored, and not how many are right; see `calibrate`.
    """
    share = float(learned.answers.mean())
    number = histograms(files, [source], score_sql({source: record_of(learned)}))[source]
    some = number > 0
    found = float(class_share(bin_centres()[some, None], number[some], share)[0])
    return math.log(found / (1 - found)) - math.log(share / (1 - share))
