"""The answered texts on which a rule is fitted: from one or several files, each text with its scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from blip_bootstrap.query.sql_text import literal, scan
from blip_bootstrap.query.verdicts import SCORE_COLUMNS
from blip_bootstrap.storage import parquet
from blip_bootstrap.storage.labels import read_labels
from blip_bootstrap.storage.manifest import digest_of_path
from blip_bootstrap.storage.run_folder import round_folder

HUMAN = "human"
"""The source of the labels that `audit calibrate` makes."""

_OLDER = frozenset({"itm_score"})
"""All scores that labels of earlier versions have."""


@dataclass(frozen=True)
class Answers:
    """Answered rows of `LABELS`, and what each file gave: its digest, rounds, captioners, and numbers of answers."""

    rows: list[dict[str, Any]]
    files: list[dict[str, Any]]


def read_answers(files: Sequence[Path], captions: Path | None = None) -> Answers:
    """The texts answered yes or no in `files`; of a text that several have, the last one's answer.

    Labels of earlier versions hold the ITM score alone. The others are taken from the captions of the labels' round,
    in the run in which the file lies, else in that of `captions`; a text that is not there with the same words is left
    out. Labels that `audit calibrate` made have no captions, and keep what they have. Raises InputError where a file is
    no labels file.
    """
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    told = []
    for file in files:
        answered = [row for row in read_labels(file) if row["answer"] in ("yes", "no")]
        used = _with_scores(answered, _runs(file, captions))
        for at, row in enumerate(used):
            run = at if row["source"] == HUMAN else file.absolute().parent
            found[run, row["round"], row["key"], row["source"], row["candidate"], row["caption"]] = row
        told.append(_told(file, answered, used))
    return Answers([*found.values()], told)


def _told(file: Path, answered: Sequence[Mapping[str, Any]], used: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What one file gave, for the record."""
    return {
        "file": str(file),
        "digest": digest_of_path(file),
        "rounds": sorted({row["round"] for row in used if row["round"] is not None}),
        "captioners": sorted({row["captioner"] for row in used if row["captioner"]}),
        "sources": sorted({row["source"] for row in used}),
        "used": len(used),
        "left_out": len(answered) - len(used),
    }


def _runs(file: Path, captions: Path | None) -> list[Path]:
    """The runs whose captions may hold the labelled texts: labels lie in RUN/labels, captions anywhere in RUN."""
    above = captions.absolute().parents if captions else []
    of_captions = [one for one in above if any(one.glob("round-[0-9]*"))][:1]
    return list(dict.fromkeys([file.absolute().parent.parent, *of_captions]))


def _with_scores(rows: Sequence[dict[str, Any]], runs: Sequence[Path]) -> list[dict[str, Any]]:
    """The rows that have scores, or whose text is found in the captions of one of the runs."""
    lacking = [row for row in rows if row["source"] != HUMAN and not _has_scores(row)]
    known: dict[tuple[Any, ...], dict[str, Any]] = {}
    for number in {row["round"] for row in lacking if row["round"] is not None}:
        keys = [row["key"] for row in lacking if row["round"] == number]
        for run in reversed(runs):
            known |= _texts(parquet.parquet_files(round_folder(run, number) / "captions"), number, keys)
    used = []
    for row in rows:
        text = known.get((row["round"], row["key"], row["source"], row["candidate"], row["caption"]))
        if text or row["source"] == HUMAN or _has_scores(row):
            used.append({**row, **(text or {})} if not _has_scores(row) else row)
    return used


def _has_scores(row: Mapping[str, Any]) -> bool:
    known = [row.get(column) for column in SCORE_COLUMNS.values() if column not in _OLDER]
    return any(score is not None and math.isfinite(score) for score in known)  # other programs write NaN for null


def _texts(files: Sequence[Path], number: int, keys: Sequence[str]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The texts of these images, by round, key, source, candidate and words, with their scores."""
    if not files:
        return {}
    wanted = ", ".join(sorted({literal(key) for key in keys}))
    with duckdb.connect() as connection:
        there = {str(row[0]) for row in connection.execute(f"DESCRIBE FROM {scan(files)}").fetchall()}
        columns = [name for name in (*SCORE_COLUMNS.values(), "captioner", "num_tokens") if name in there]
        rows = connection.sql(
            f"SELECT key, source, candidate, caption, {', '.join(columns)} FROM {scan(files)} WHERE key IN ({wanted})"
        ).to_arrow_table()
    return {
        (number, row["key"], row["source"], row["candidate"], row["caption"]): {name: row[name] for name in columns}
        for row in rows.to_pylist()
    }
