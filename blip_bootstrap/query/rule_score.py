"""The score that a rule of its own gives a text, as SQL: by its ranks, as learned, or as given; from its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from blip_bootstrap.errors import InputError
from blip_bootstrap.query.score_expression import expression_of
from blip_bootstrap.query.sql_text import is_number, literal
from blip_bootstrap.query.verdicts import SCORE_COLUMNS, is_score_column

Judge = Mapping[str, Mapping[str, Any]]
"""The record of the rule of each source: JSON from which `score_sql` makes its SQL again."""

CLIP = 1e-6
"""ITM scores are kept so far from 0 and 1 that their log-odds stay within 14: float32 holds 1 above .99999997."""

FARTHEST = 4.0
"""Standard deviations to which a feature is cut: a web text of 200 words has a log-likelihood of -800."""

LENGTHS: tuple[str, ...] = ("words", "log_words")
"""Features without a direction: what a text's length says differs from world to world."""

NUM_RANK_BINS = 512

WIDEST = 3.5e38
"""A number beyond the largest float32, in place of infinity."""


def score_sql(judge: Judge) -> str:
    """SQL of `rule_score`, single precision, of a row of `captions`; null where the row lacks what its rule reads.

    Raises InputError where a record names a score that there is not.
    """
    if not judge:
        return "NULL::FLOAT"
    cases = " ".join(f"WHEN {literal(source)} THEN {_source_sql(record)}" for source, record in judge.items())
    return f"(CASE source {cases} END)::FLOAT"


def _source_sql(record: Mapping[str, Any]) -> str:
    if record["kind"] == "learned":
        return learned_sql(record)
    if record["kind"] == "sql":
        return expression_of(record["sql"]).sql
    ranks = [Ranks.of(one).sql() for one in record["ranks"]]
    return f"(({' + '.join(ranks)}) / {len(ranks)})"


def _known(name: str, known: Sequence[str]) -> str:
    if name not in known:
        raise InputError(f"a rule in the pairs' metadata goes by {name!r}; known are {', '.join(known)}")
    return name


def feature_sql(name: str) -> str:
    """SQL of a feature of a row of `captions`; null where the row lacks it."""
    words = "(strlen(caption) - strlen(replace(caption, ' ', '')) + 1)::DOUBLE"
    if name in LENGTHS:
        return words if name == "words" else f"ln({words})"
    column = SCORE_COLUMNS[_known(name, [*SCORE_COLUMNS])]
    clipped = f"greatest({CLIP}, least({column}::DOUBLE, {1 - CLIP}))"
    value = f"ln({clipped}) - ln(1 - {clipped})" if name == "itm" else f"{column}::DOUBLE"
    return f"CASE WHEN {is_number(column)} AND isfinite({column}) THEN {value} END"


def learned_sql(record: Mapping[str, Any]) -> str:
    """SQL of the probability that a row of `captions` fits its picture, by the rule of its source.

    Null where the row has none of the rule's scores.
    """
    terms = [f"({float(record['intercept'])!r}::DOUBLE)"]
    for one in record["features"]:
        mean, sd, weight = (float(one[name]) for name in ("mean", "sd", "weight"))
        away = f"coalesce(({feature_sql(one['name'])} - ({mean!r}::DOUBLE)) / {sd!r}::DOUBLE, 0)"
        terms.append(f"({weight!r}::DOUBLE) * greatest(-{FARTHEST}, least({FARTHEST}, {away}))")
    columns = [SCORE_COLUMNS[one["name"]] for one in record["features"] if one["name"] not in LENGTHS]
    scored = " OR ".join(is_number(column) for column in columns) or "true"
    return f"CASE WHEN {scored} THEN 1 / (1 + exp(-({' + '.join(terms)}))) END"


@dataclass(frozen=True)
class Ranks:
    """Ranks 0..1 by one column: within bin i the rank of a score x is starts[i] + slopes[i] * (x - origins[i]).

    `low` is where the first bin begins and `step` its width, both of `scale_sql`. Texts of one score have one rank, the
    middle of theirs. A text that is not among those that were ranked gets the rank that it would have there.
    """

    column: str
    low: float
    step: float
    origins: tuple[float, ...]
    starts: tuple[float, ...]
    slopes: tuple[float, ...]

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Ranks:
        """From the record of a rule, where lists stand for tuples."""
        lists = (tuple(record[name]) for name in ("origins", "starts", "slopes"))
        column = record["column"] if is_score_column(record["column"]) else _known(record["column"], [*SCORE_COLUMNS])
        return cls(column, float(record["low"]), float(record["step"]), *lists)

    def sql(self) -> str:
        """SQL of the rank of a row of `captions`, 0..1; null where it has no score."""
        x, lists = scale_sql(self.column), [_list(each) for each in (self.starts, self.slopes, self.origins)]
        at = f"[{bin_sql(x, self.low, self.step)} + 1]"
        start, slope, origin = (f"({each}){at}" for each in lists)
        rank = f"greatest(0, least(1, {start} + {slope} * ({x} - {origin})))"
        return f"CASE WHEN {is_number(self.column)} THEN {rank} END"


def scale_sql(column: str) -> str:
    """SQL of a score on the scale on which it is binned: ITM by its log-odds, since most are near 0 or 1."""
    if column == "itm_score":
        clipped = f"greatest(1e-9, least({column}::DOUBLE, 1 - 1e-9))"
        return f"(ln({clipped}) - ln(1 - {clipped}))"
    return f"greatest(-{WIDEST}, least({WIDEST}, {column}::DOUBLE))"


def bin_sql(x: str, low: float, step: float) -> str:
    """SQL of the bin of a scaled score, from 0."""
    place = f"floor(({x} - ({low!r}::DOUBLE)) / {step!r}::DOUBLE)"
    return f"greatest(0, least({NUM_RANK_BINS - 1}, {place}))::INTEGER"


def _list(values: Sequence[float]) -> str:
    """SQL of a list of numbers, from text: DuckDB plans it in a third of the time of single literals."""
    return f"'[{', '.join(f'{value:.9g}' for value in values)}]'::DOUBLE[]"
