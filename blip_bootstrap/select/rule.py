"""The selection rule: the SQL that gives a text a reason or none."""

from __future__ import annotations

from collections.abc import Mapping

from blip_bootstrap.config import SelectConfig
from blip_bootstrap.query.rule_score import score_sql
from blip_bootstrap.query.sql_text import text_list
from blip_bootstrap.query.verdicts import SCORE_COLUMNS, below_sql, below_sql_by_source
from blip_bootstrap.select.cuts import Cut
from blip_bootstrap.select.informative import INFORMATIVENESS, words_sql
from blip_bootstrap.select.variety import SAID_OFTEN

FOLDED = r"trim(regexp_replace(coalesce(caption, ''), '[\s\p{Z}\x{0b}\x{1c}-\x{1f}\x{85}]+', ' ', 'g'))"
"""SQL of a text with its whitespace folded, as Python's " ".join(text.split()) folds it."""

_TRIMMED = (
    "coalesce(CASE WHEN starts_with(caption, ' ') OR ends_with(caption, ' ') THEN trim(caption) ELSE caption END, '')"
)
"""Texts are folded already but for few; trimming all of them would take two fifths of the whole rule's time."""


def thinning(kept: Mapping[str, int], synthetic_share: float) -> dict[str, float]:
    """The share of each source's kept texts to keep, so that `synthetic_share` of what is left is synthetic."""
    web, synthetic = kept["web"], kept["synthetic"]
    if synthetic * (1 - synthetic_share) > web * synthetic_share:
        return {"web": 1.0, "synthetic": web * synthetic_share / (synthetic * (1 - synthetic_share))}
    if web * synthetic_share > synthetic * (1 - synthetic_share):
        return {"web": synthetic * (1 - synthetic_share) / (web * synthetic_share), "synthetic": 1.0}
    return {"web": 1.0, "synthetic": 1.0}


def rule_sql(
    texts: str,
    config: SelectConfig,
    cut: Cut,
    shares: Mapping[str, float],
    num_before: int,
    counted: bool = True,
) -> str:
    """The selection rule as one SQL query over `texts`, rows of `captions` with columns `part` and `position`.

    `shares` is the share that `thinning` leaves of a source, all of one that it does not name; `num_before` is how many
    texts of the same image can stand before a text. The rows come out in the order of `texts`. `select.variety` and
    `select.informative_weight` read the tables that `count_texts` and `count_words` make; without `counted` no text is
    too common.
    """
    is_sorted = config.ranks_texts_of_an_image or _joins(config, counted)
    return f"""
WITH {_scored_sql(texts, config, cut, num_before, counted)}, ranked AS (
    SELECT *, {_place(config)} AS place FROM scored
)
SELECT part, key, source, candidate, caption, itm_score, rejected,
    CASE
        WHEN score_reason IS NOT NULL THEN score_reason
        WHEN {_left_out(config, shares)} THEN 'not_selected'
    END AS reason,
    reason IS NULL AS kept, rule_score, informativeness
FROM ranked {"ORDER BY part, position" if is_sorted else ""}
"""


def passing_sql(texts: str, config: SelectConfig, cut: Cut, num_before: int) -> str:
    """SQL of the texts of `texts` that nothing speaks against but that they may be too common or not the best.

    Its columns are `source` and `words`, a number that stands for the text, letter case apart.
    """
    scored = _scored_sql(texts, config, cut, num_before, counted=False)
    return f"WITH {scored} SELECT source, hash(lower(text)) AS words FROM scored WHERE score_reason IS NULL"


def _scored_sql(texts: str, config: SelectConfig, cut: Cut, num_before: int, counted: bool) -> str:
    """SQL of the tables up to `scored`, where a text has every reason but those of its place in its image."""
    unscored = "rejected IS NULL"
    if not isinstance(cut.at, float):  # a text of a source that is not asked for has no verdict, and lacks no score
        unscored += f" AND list_contains({text_list(list(cut.at))}, source)"
    is_common = f"WHEN {_is_common(config)} THEN 'too_common'" if config.variety and counted else ""
    return f"""by_rule AS (
    SELECT *, {score_sql(cut.judge)} AS rule_score FROM {texts}
), judged AS (
    SELECT *, {_rejected(cut)} AS rejected FROM by_rule
), checked AS (
    SELECT *, {_wanted(config)} AS wanted, {_TRIMMED} AS text,
        CASE
            WHEN text = '' THEN 'empty_text'
            WHEN source = 'web' AND list_contains(flags, 'text_too_long') THEN 'text_too_long'
            WHEN {unscored} THEN 'not_scored'
            WHEN {_falls(config)} THEN 'below_threshold'
            {_text_checks(config)}
        END AS text_reason, hash(key, lower(text), text_reason IS NULL, wanted) AS said
    FROM judged
), weighed AS (
    {_weighed(config, counted)}
), scored AS (
    SELECT *,
        CASE
            WHEN text_reason IS NOT NULL THEN text_reason
            WHEN {_said_before(num_before, _joins(config, counted))} THEN 'duplicate_text'
            {is_common}
            WHEN NOT wanted THEN 'not_selected'
        END AS score_reason
    FROM weighed
)"""


def _joins(config: SelectConfig, counted: bool) -> bool:
    """Whether the rule joins its texts with tables, after which their order is to be made again."""
    return config.informative_weight > 0 or (config.variety > 0 and counted)


def _weighed(config: SelectConfig, counted: bool) -> str:
    """SQL of the checked texts with their informativeness, and with how often the same words are said."""
    is_weighed, is_counted = config.informative_weight > 0, config.variety > 0 and counted
    informative = f"({INFORMATIVENESS})::FLOAT" if is_weighed else "NULL::FLOAT"
    columns = f"c.*, {informative} AS informativeness, {'t.number' if is_counted else '1'} AS times"
    words = f"LEFT JOIN ({words_sql('checked')}) w USING (part, position)" if is_weighed else ""
    times = f"LEFT JOIN {SAID_OFTEN} t ON t.source = c.source AND t.words = hash(lower(c.text))" if is_counted else ""
    return f"SELECT {columns} FROM checked c {words} {times}"


def _is_common(config: SelectConfig) -> str:
    """SQL: whether a text said k times is left out, which k**-variety of these are not."""
    return f"times > 1 AND {_draw(config, 'variety')} >= pow(times, {-config.variety!r})"


def _rejected(cut: Cut) -> str:
    """SQL of the filter's verdict; null where the text lacks the score of the cut, or that by which it is ranked."""
    if not isinstance(cut.at, float):
        return below_sql_by_source(cut.column, cut.at)
    verdict = below_sql(cut.column, cut.at)
    return f"CASE WHEN rule_score IS NOT NULL THEN {verdict} END" if cut.judge else verdict


def _wanted(config: SelectConfig) -> str:
    """SQL: whether a text's source is one of `select.sources`."""
    both = {"web", "synthetic"} <= set(config.sources)
    return "true" if both else f"list_contains({text_list(config.sources)}, source)"


def _said_before(num_before: int, is_joined: bool) -> str:
    """SQL: whether one of the rows just before has the same text of the same image.

    The rows of an image are adjacent. A window over nothing keeps the rows' order, and takes a sixth of the time of
    one that is partitioned by image and text.
    """
    order = "ORDER BY part, position" if is_joined else ""
    return " OR ".join(f"said = lag(said, {back}) OVER ({order})" for back in range(1, num_before + 1)) or "false"


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
    if not config.ranks_texts_of_an_image:
        return "1"
    by_rule = config.goes_by_rank or config.has_own_score or config.strategy == "learned"
    score = "rule_score" if by_rule else SCORE_COLUMNS[str(config.score)]
    if weight := config.informative_weight:
        score = f"({1 - weight!r} * {score} + {weight!r} * informativeness)"
    return (
        f"row_number() OVER (PARTITION BY key, score_reason IS NULL ORDER BY {score} DESC NULLS LAST, part, position)"
    )


def _left_out(config: SelectConfig, shares: Mapping[str, float]) -> str:
    most = {"best_per_image": 1, "top_k": config.top_k, "learned": config.most_per_image}.get(config.strategy, 0)
    thinned = [
        f"source = '{source}' AND {_draw(config, 'mix')} >= {share!r}" for source, share in shares.items() if share < 1
    ]
    return " OR ".join([*([f"place > {most}"] if most else []), *thinned]) or "false"


def _draw(config: SelectConfig, purpose: str) -> str:
    """SQL: a number 0..1 by seed, key, source and candidate; from md5, since hash() may change with DuckDB."""
    return (
        f"md5_number_lower(concat_ws(' ', '{purpose}', {config.seed}, key, source, candidate)) / 18446744073709551615.0"
    )
