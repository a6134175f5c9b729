"""The selection rule: its cut, found from the scores of all texts, and the SQL that gives a text a reason or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from blip_bootstrap.config import SelectConfig
from blip_bootstrap.errors import InputError
from blip_bootstrap.query.sql_text import scan, text_list
from blip_bootstrap.query.verdicts import SCORE_COLUMNS, below_sql
from blip_bootstrap.select.calibrate import calibrate
from blip_bootstrap.select.score_cut import find_score_cut

FOLDED = r"trim(regexp_replace(coalesce(caption, ''), '[\s\p{Z}\x{0b}\x{1c}-\x{1f}\x{85}]+', ' ', 'g'))"
"""SQL of a text with its whitespace folded, as Python's " ".join(text.split()) folds it."""

_TRIMMED = (
    "coalesce(CASE WHEN starts_with(caption, ' ') OR ends_with(caption, ' ') THEN trim(caption) ELSE caption END, '')"
)
"""Texts are folded already but for few; trimming all of them would take two fifths of the whole rule's time."""


@dataclass(frozen=True)
class Cut:
    """The score below which a text is dropped, and what the search for it found, which the files' metadata keep."""

    at: float
    counts: dict[str, int | float | str] = field(default_factory=dict)


def check_score(files: Sequence[Path], config: SelectConfig) -> None:
    """Raise InputError where the strategy ranks by a score that no text has, or `fraction` by one a source lacks."""
    column = SCORE_COLUMNS[config.score]
    if config.strategy in ("threshold", "target_noise") or column == "itm_score":
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
    if config.strategy == "fraction":
        return _quantile(files, config)
    if config.strategy == "target_noise" and config.labels:
        found = calibrate(files, config.labels, config.sources, config.target_noise)
        expected = {f"expected_{name}": value for name, value in vars(found).items() if name != "threshold"}
        return Cut(found.threshold, {"itm_threshold": found.threshold, **expected})
    return Cut(config.itm_threshold, {"itm_threshold": config.itm_threshold})


def _quantile(files: Sequence[Path], config: SelectConfig) -> Cut:
    column = SCORE_COLUMNS[config.score]
    found = find_score_cut(files, column, config.sources, config.keep_fraction)
    return Cut(found.at, {f"{column}_cut": found.at, f"{column}_cut_leaves": found.share})


def thinning(kept: Mapping[str, int], synthetic_share: float) -> dict[str, float]:
    """The share of each source's kept texts to keep, so that `synthetic_share` of what is left is synthetic."""
    web, synthetic = kept["web"], kept["synthetic"]
    if synthetic * (1 - synthetic_share) > web * synthetic_share:
        return {"web": 1.0, "synthetic": web * synthetic_share / (synthetic * (1 - synthetic_share))}
    if web * synthetic_share > synthetic * (1 - synthetic_share):
        return {"web": synthetic * (1 - synthetic_share) / (web * synthetic_share), "synthetic": 1.0}
    return {"web": 1.0, "synthetic": 1.0}


def rule_sql(texts: str, config: SelectConfig, cut: float, shares: Mapping[str, float], num_before: int) -> str:
    """The selection rule as one SQL query over `texts`, rows of `captions` with columns `part` and `position`.

    `cut` is the score of `cut_column` below which the filter rejects a text; `shares` is the share that `thinning`
    leaves of a source, all of one that it does not name; `num_before` is how many texts of the same image can stand
    before a text. The rows come out in the order of `texts`.
    """
    ranks, score = config.strategy in ("best_per_image", "top_k"), cut_column(config)
    return f"""
WITH judged AS (
    SELECT *, {below_sql(score, cut)} AS rejected FROM {texts}
), checked AS (
    SELECT *, {_wanted(config)} AS wanted, {_TRIMMED} AS text,
        CASE
            WHEN text = '' THEN 'empty_text'
            WHEN source = 'web' AND list_contains(flags, 'text_too_long') THEN 'text_too_long'
            WHEN rejected IS NULL THEN 'not_scored'
            WHEN {_falls(config)} THEN 'below_threshold'
            {_text_checks(config)}
        END AS text_reason, hash(key, lower(text), text_reason IS NULL, wanted) AS said
    FROM judged
), scored AS (
    SELECT *,
        CASE
            WHEN text_reason IS NOT NULL THEN text_reason
            WHEN {_said_before(num_before)} THEN 'duplicate_text'
            WHEN NOT wanted THEN 'not_selected'
        END AS score_reason
    FROM checked
), ranked AS (
    SELECT *, {_place(config)} AS place FROM scored
)
SELECT part, key, source, candidate, caption, itm_score, rejected,
    CASE
        WHEN score_reason IS NOT NULL THEN score_reason
        WHEN {_left_out(config, shares)} THEN 'not_selected'
    END AS reason,
    reason IS NULL AS kept, NULL::FLOAT AS rule_score, NULL::FLOAT AS informativeness
FROM ranked {"ORDER BY part, position" if ranks else ""}
"""


def cut_column(config: SelectConfig) -> str:
    """The column to which the cut applies; `best_per_image` and `top_k` rank by `score` what the ITM cut leaves."""
    return SCORE_COLUMNS[config.score] if config.strategy == "fraction" else "itm_score"


def _wanted(config: SelectConfig) -> str:
    """SQL: whether a text's source is one of `select.sources`."""
    both = {"web", "synthetic"} <= set(config.sources)
    return "true" if both else f"list_contains({text_list(config.sources)}, source)"


def _said_before(num_before: int) -> str:
    """SQL: whether one of the rows just before has the same text of the same image.

    The rows of an image are adjacent. A window over nothing keeps the rows' order, and takes a sixth of the time of
    one that is partitioned by image and text.
    """
    return " OR ".join(f"said = lag(said, {back}) OVER ()" for back in range(1, num_before + 1)) or "false"


def _text_checks(config: SelectConfig) -> str:
    words = "len(text) - len(replace(text, ' ', '')) + 1"
    # n words need 2n-1 bytes at least: most texts are spared the counting.
    checks = [f"WHEN strlen(text) > {2 * config.max_tokens} AND {words} > {config.max_tokens} THEN 'too_long'"]
    if config.min_tokens > 1:
        checks.insert(0, f"WHEN {words} < {config.min_tokens} THEN 'too_short'")
    if config.drop_flagged:
        checks.append("WHEN source = 'synthetic' AND len(coalesce(flags, [])) > 0 THEN 'degenerate_text'")
    return " ".join(checks)


def _falls(config: SelectConfig) -> str:
    """SQL: whether a text is dropped because the filter rejects it; `explore_share` of the rejected texts are not."""
    return f"rejected AND {_draw(config, 'explore')} >= {config.explore_share}" if config.explore_share else "rejected"


def _place(config: SelectConfig) -> str:
    """SQL: a text's rank among those of its image that could be kept; 1 is the best."""
    if config.strategy not in ("best_per_image", "top_k"):
        return "1"
    order = f"{SCORE_COLUMNS[config.score]} DESC NULLS LAST, part, position"
    return f"row_number() OVER (PARTITION BY key, score_reason IS NULL ORDER BY {order})"


def _left_out(config: SelectConfig, shares: Mapping[str, float]) -> str:
    most = 1 if config.strategy == "best_per_image" else config.top_k
    thinned = [
        f"source = '{source}' AND {_draw(config, 'mix')} >= {share!r}" for source, share in shares.items() if share < 1
    ]
    return " OR ".join([f"place > {most}", *thinned])


def _draw(config: SelectConfig, purpose: str) -> str:
    """SQL: a number 0..1 by seed, key, source and candidate; from md5, since hash() may change with DuckDB."""
    return (
        f"md5_number_lower(concat_ws(' ', '{purpose}', {config.seed}, key, source, candidate)) / 18446744073709551615.0"
    )
