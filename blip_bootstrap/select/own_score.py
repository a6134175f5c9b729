"""A rule whose score of a text is the value of `select.score_sql`, or of a score that is not among the columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb

from blip_bootstrap.config import SelectConfig
from blip_bootstrap.errors import InputError
from blip_bootstrap.query.score_expression import Expression, expression_of
from blip_bootstrap.query.sql_text import is_number, literal, scan
from blip_bootstrap.query.verdicts import column_of, stored_in


def own_judge(config: SelectConfig) -> dict[str, dict[str, Any]]:
    """How the score of texts of each source is found. Raises InputError where an expression is wrong."""
    expressions(config)
    return {source: {"kind": "sql", "sql": config.own_score_of(source)} for source in config.sources}


def expressions(config: SelectConfig) -> dict[str, Expression]:
    """The checked expression of each source. Raises InputError, with the setting, where one is wrong."""
    found: dict[str, Expression] = {}
    for source in config.sources:
        where = f"select.score_sql.{source}" if isinstance(config.score_sql, dict) else "select.score_sql"
        try:
            found[source] = expression_of(config.own_score_of(source))
        except InputError as error:
            raise InputError(f"{where}: {config.own_score_of(source)!r}: {error}") from error
    return found


def columns_of(config: SelectConfig) -> list[str]:
    """The columns of `captions` that the rule's own score reads."""
    if config.has_own_score:
        return [name for one in expressions(config).values() for name in one.columns]
    return [stored_in(column_of(name)) for name in config.score_names]


def check_own_score(files: Sequence[Path], config: SelectConfig) -> None:
    """Raise InputError where an expression is wrong, or no text of a source that has texts has a score by it."""
    own, folder = expressions(config), files[0].parent
    setting = "select.score" if config.score_sql is None else "select.score_sql"
    with duckdb.connect() as connection:
        names = {str(row[0]) for row in connection.execute(f"DESCRIBE FROM {scan(files)}").fetchall()}
        for source, one in own.items():
            told = f"{setting}: {config.own_score_of(source)}"
            if lacking := [name for name in one.columns if name not in names]:
                raise InputError(
                    f"{told}: no text of {folder} has {', '.join(one.scores or lacking)}{_are_there(None)}"
                )
            scored = f"count(*) FILTER ({is_number(f'({one.sql})::DOUBLE')})"
            counted = f"SELECT count(*), {scored} FROM {scan(files)} WHERE source = {literal(source)}"
            ((texts, number),) = connection.execute(counted).fetchall()
            if texts and not number:
                known = _known(connection, files) if one.scores else None
                raise InputError(f"{told}, but no {source} text of {folder} has a score by it{_are_there(known)}")


def _known(connection: duckdb.DuckDBPyConnection, files: Sequence[Path]) -> list[str]:
    """The scores of judges that some text has."""
    asked = f"SELECT DISTINCT unnest(map_keys(scores)) AS name FROM {scan(files)} ORDER BY name"
    return [str(name) for (name,) in connection.execute(asked).fetchall()]


def _are_there(known: Sequence[str] | None) -> str:
    if known is None:
        return ""
    return (
        f"; of judges there are {', '.join(known)}" if known else "; no judge (caption.judges) has scored these texts"
    )
