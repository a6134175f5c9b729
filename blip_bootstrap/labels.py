"""Spot checks: a sample of texts for people to answer, and what the answers say about noise, precision and recall."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from blip_bootstrap import records, tables
from blip_bootstrap.audit import resolve_round
from blip_bootstrap.cells import NotTextError, text_of
from blip_bootstrap.errors import InputError, writing
from blip_bootstrap.questions import query
from blip_bootstrap.sql_text import literal, text_list
from blip_bootstrap.tables import Column, Table, rows_to_table
from blip_bootstrap.truth import Truth, file_name
from blip_bootstrap.views import connect

ANSWERS = ("yes", "no", "unsure")
Z = 1.96
SOURCES = ("web", "synthetic")

LABELS = Table(
    "labels",
    "one row per text of a spot check; written by `audit sample`, answered by `audit label`",
    (
        Column("round", pa.int16(), "the round whose pairs were sampled"),
        Column("key", pa.string(), "the image, as in `images`"),
        Column("source", pa.string(), "web or synthetic; human: made by `audit calibrate`"),
        Column("candidate", pa.int16(), "as in `captions`"),
        Column("caption", pa.string(), "the text"),
        Column("itm_score", pa.float32(), "as in `captions`; null where it was not scored"),
        Column("kept", pa.bool_(), "whether it was a training pair of the round when sampled"),
        Column("stratum_rows", pa.int64(), "texts of this source and fate in the round, of which this is a sample"),
        Column("answer", pa.string(), "does the text fit the picture: yes, no, unsure; null: not asked yet"),
    ),
)

_STRATA = """
SELECT source, kept, count(*) AS stratum_rows,
    min({{'rank': md5_number_lower(concat_ws(' ', {seed}, key, source, candidate)), 'key': key,
        'candidate': candidate}}, {size}) AS drawn
FROM pairs WHERE round = {round} AND coalesce(reason, '') NOT IN ('empty_text', 'text_too_long')
     AND list_contains({sources}, source)
GROUP BY source, kept
"""
"""The texts of each stratum that the seed puts first. Keeping so many while reading takes no memory to speak of, where
a sort of all texts would fill it."""

_TEXTS = """
SELECT round, key, source, candidate, caption, itm_score, kept FROM pairs WHERE round = {round} AND key IN ({keys})
"""


@dataclass(frozen=True)
class Estimate:
    """A share 0..1 with its 95 % interval, and the number of answers that it rests on."""

    name: str
    source: str
    share: float | None
    low: float | None
    high: float | None
    num_answers: int


def labels_path(root: Path, number: int) -> Path:
    """Where the labels of a round lie."""
    return root / "labels" / f"round-{number:02d}.parquet"


def draw_sample(
    root: Path, number: int | None = None, size: int = 200, seed: int = 0, sources: Sequence[str] = SOURCES
) -> Path:
    """Draw `size` texts of a round for people to answer, as many kept as dropped ones of each source; the file's path.

    `sources` limits it to web or synthetic texts. The same seed draws the same texts. Raises InputError where the
    round is not there, or has answers already.
    """
    with connect(root) as connection:
        number = resolve_round(root, number)
        rows = _drawn(connection, number, int(size), int(seed), sources)
    if not rows:
        raise InputError(f"{root}: round {number} has no {' or '.join(sources)} texts to sample")
    path = labels_path(root, number)
    if path.exists() and any(row["answer"] for row in read_labels(path)):
        raise InputError(f"{path}: has answers already; move it away to draw another sample")
    with writing(path):
        tables.write_parquet(path, rows_to_table(rows, LABELS), LABELS, {"seed": str(seed)})
    return path


def _drawn(
    connection: duckdb.DuckDBPyConnection, number: int, size: int, seed: int, sources: Sequence[str]
) -> list[dict[str, Any]]:
    """`size` texts of a round as unanswered rows of `LABELS`, of each stratum in turn."""
    sql = _STRATA.format(seed=seed, round=number, size=size, sources=text_list(sources))
    strata = sorted(query(connection, sql).to_pylist(), key=lambda one: (one["source"], one["kept"]), reverse=True)
    placed = [(place, stratum, text) for stratum in strata for place, text in enumerate(stratum["drawn"])]
    chosen = sorted(placed, key=lambda one: one[0])[:size]
    if not chosen:
        return []
    keys = ", ".join(sorted({literal(text["key"]) for _, _, text in chosen}))
    found = query(connection, _TEXTS.format(round=number, keys=keys)).to_pylist()
    texts = {(row["key"], row["source"], row["candidate"]): row for row in found}
    return [
        texts[text["key"], stratum["source"], text["candidate"]]
        | {"stratum_rows": stratum["stratum_rows"], "answer": None}
        for _, stratum, text in chosen
    ]


def read_labels(path: Path) -> list[dict[str, Any]]:
    """The rows of a labels file. Raises InputError, naming the row, where it is not one."""
    if not path.is_file():
        raise InputError(f"{path}: no labels; draw a sample first (`blip-bootstrap audit sample`)")
    table = tables.read_parquet(path)
    if missing := set(LABELS.schema.names) - set(table.schema.names):
        raise InputError(f"{path}: not a labels file, the columns {', '.join(sorted(missing))} are missing")
    if len(set(table.schema.names)) < len(table.schema.names):
        raise InputError(f"{path}: not a labels file, a column is there twice")
    rows: list[dict[str, Any]] = table.to_pylist()
    for at, row in enumerate(rows):
        try:  # another program may have answered: pandas has NaN where nothing is
            row |= {name: text_of(row[name]) or None for name in ("key", "source", "answer")}
        except NotTextError as error:
            raise InputError(f"{path}, row {at}: {error} where a text was expected") from error
        if row["answer"] not in (*ANSWERS, None) or None in (row["key"], row["source"]):
            told = f"key {row['key']}, source {row['source']}, answer {row['answer']!r}"
            raise InputError(f"{path}, row {at}: {told}; it needs key and source, and answers are {', '.join(ANSWERS)}")
    return rows


def write_labels(path: Path, rows: list[dict[str, Any]]) -> None:
    """Replace a labels file, whole or not at all. Raises InputError where it cannot be written."""
    with writing(path):
        tables.write_parquet(path, rows_to_table(rows, LABELS), LABELS)


def answer_by_truth(root: Path, number: int, truth: Truth) -> int:
    """Answer a round's sample by a truth file instead of by people: `partial` is yes; the number of answers given."""
    path = labels_path(root, number)
    rows = read_labels(path)
    keys = ", ".join(sorted({literal(row["key"]) for row in rows}))
    with connect(root) as connection:
        found = query(connection, f"SELECT key, url FROM images WHERE key IN ({keys or 'NULL'})").to_pydict()
    urls = dict(zip(found["key"], found["url"], strict=True))
    for row in rows:
        verdict = truth.verdict(file_name(urls.get(row["key"], "")), row["source"], row["caption"] or "")
        row["answer"] = None if verdict is None else "no" if verdict == "false" else "yes"
    write_labels(path, rows)
    return sum(row["answer"] is not None for row in rows)


def estimates(root: Path, number: int | None = None) -> list[Estimate]:
    """What the answers to a round's sample say of the whole round, by source and pooled.

    `noise`: texts that do not fit by people's answers, of all texts of the source, where the audits' `noise_ratio` is
    the filter's own verdict; `noise_kept`: of the kept ones; `precision` is its rest; `recall`: kept of those that
    fit. `unsure` counts as no answer. Intervals are Wilson's with the number of answers that a plain sample would need
    for the stratified one's variance; recall's come from those of the strata.
    """
    rows = read_labels(labels_path(root, resolve_round(root, number)))
    sources = sorted({row["source"] for row in rows}, reverse=True)
    found: list[Estimate] = []
    for source in [*sources, *(["all"] if len(sources) > 1 else [])]:
        mine = [row for row in rows if source in ("all", row["source"])]
        found += estimates_of(source, mine)
    return found


def estimates_of(source: str, rows: Iterable[Mapping[str, Any]]) -> list[Estimate]:
    """The four estimates from answered rows of `LABELS`, named as of `source`."""
    cells = _cells(rows)
    kept = [cell for (_, is_kept), cell in cells.items() if is_kept]
    noise, noise_kept = _share("noise", source, cells.values()), _share("noise_kept", source, kept)
    right = Estimate("precision", source, *_rest(noise_kept), noise_kept.num_answers)
    return [noise, noise_kept, right, _recall(source, cells)]


@dataclass(frozen=True)
class _Cell:
    """A stratum: its rows in the round, the answers, and how many of them are no."""

    rows: int
    answers: int
    wrong: int


def _cells(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, bool], _Cell]:
    grouped: dict[tuple[str, bool], list[Mapping[str, Any]]] = {}
    for row in rows:
        grouped.setdefault((row["source"], row["kept"]), []).append(row)
    return {
        name: _Cell(
            group[0]["stratum_rows"],
            sum(row["answer"] in ("yes", "no") for row in group),
            sum(row["answer"] == "no" for row in group),
        )
        for name, group in grouped.items()
    }


def _share(name: str, source: str, cells: Iterable[_Cell]) -> Estimate:
    """The stratified share of wrong texts."""
    cells = [cell for cell in cells if cell.rows]
    number = sum(cell.answers for cell in cells)
    if not cells or any(cell.answers == 0 for cell in cells):
        return Estimate(name, source, None, None, None, number)
    total = sum(cell.rows for cell in cells)
    share = sum(cell.rows / total * cell.wrong / cell.answers for cell in cells)
    variance = sum((cell.rows / total) ** 2 * _variance(cell) for cell in cells)
    smoothed = (share * number + 1) / (number + 2)
    low, high = wilson(share, smoothed * (1 - smoothed) / variance)
    return Estimate(name, source, share, low, high, number)


def _variance(cell: _Cell) -> float:
    """Of the cell's share; one answer of each kind added, so that 0 of 5 is not taken for certainty."""
    share = (cell.wrong + 1) / (cell.answers + 2)
    return share * (1 - share) / cell.answers


def _recall(source: str, cells: Mapping[tuple[str, bool], _Cell]) -> Estimate:
    """Kept texts that fit, of all that fit; the interval takes the ends of kept's and dropped's intervals."""
    kept = [cell for (_, is_kept), cell in cells.items() if is_kept]
    dropped = [cell for (_, is_kept), cell in cells.items() if not is_kept]
    in_kept, in_dropped = _share("", source, kept), _share("", source, dropped)
    number = in_kept.num_answers + in_dropped.num_answers
    if in_kept.share is None or in_dropped.share is None:
        return Estimate("recall", source, None, None, None, number)
    rows_kept, rows_dropped = sum(cell.rows for cell in kept), sum(cell.rows for cell in dropped)

    def recall(wrong_kept: float | None, wrong_dropped: float | None) -> float | None:
        good_kept, good_dropped = (1 - (wrong_kept or 0)) * rows_kept, (1 - (wrong_dropped or 0)) * rows_dropped
        return good_kept / (good_kept + good_dropped) if good_kept + good_dropped else None

    low, high = recall(in_kept.high, in_dropped.low), recall(in_kept.low, in_dropped.high)
    return Estimate("recall", source, recall(in_kept.share, in_dropped.share), low, high, number)


def _rest(wrong: Estimate) -> tuple[float | None, float | None, float | None]:
    if wrong.share is None or wrong.low is None or wrong.high is None:
        return None, None, None
    return 1 - wrong.share, 1 - wrong.high, 1 - wrong.low


def wilson(share: float, number: float) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share seen in `number` answers, which may be a fraction."""
    centre = (share + Z * Z / (2 * number)) / (1 + Z * Z / number)
    half = Z * math.sqrt(share * (1 - share) / number + Z * Z / (4 * number * number)) / (1 + Z * Z / number)
    return max(0.0, centre - half), min(1.0, centre + half)


def estimates_table(found: Iterable[Estimate]) -> pa.Table:
    """Estimates as Arrow, for printing."""
    return pa.Table.from_pylist([vars(one) for one in found])


def find_round(root: Path, number: int | None) -> int:
    """The round to label: as given, else the last one that has a sample."""
    records.check_run(root)
    if number is not None:
        return number
    sampled = [n for n in records.round_numbers(root) if labels_path(root, n).is_file()]
    if not sampled:
        raise InputError(f"{root}: no sample to label; draw one first (`blip-bootstrap audit sample`)")
    return sampled[-1]
