"""An SQL expression over the scores and columns of a text, checked: it reads its own row alone, and always the same."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

import duckdb

from blip_bootstrap.errors import InputError
from blip_bootstrap.paths import SCORE_NAME
from blip_bootstrap.query.verdicts import SCORE_COLUMNS
from blip_bootstrap.schemas.tables import CAPTIONS

FUNCTIONS = frozenset(
    {"+", "-", "*", "/", "//", "%", "^", "**", "||", "~~", "!~~", "~~*", "!~~*", "abs", "ceil", "ceiling", "floor",
     "round", "trunc", "sign", "sqrt", "cbrt", "pow", "power", "exp", "ln", "log", "log2", "log10", "sin", "cos",
     "tanh", "greatest", "least", "if", "ifnull", "nullif", "isnan", "isfinite", "isinf", "length", "len", "strlen",
     "lower", "upper", "trim", "contains", "starts_with", "ends_with", "prefix", "suffix", "like_escape",
     "regexp_matches", "regexp_full_match", "replace", "split", "string_split", "jaccard", "levenshtein",
     "jaro_similarity", "jaro_winkler_similarity", "list_contains", "list_value", "list_min", "list_max", "list_sum",
     "list_avg"}
)  # fmt: skip
"""What may be called: of one row alone, always with the same answer, and without a look at anything else."""

CLASSES = frozenset({"COLUMN_REF", "CONSTANT", "COMPARISON", "CONJUNCTION", "CASE", "CAST", "BETWEEN", "TYPE"})

OPERATORS = frozenset(
    {"OPERATOR_NOT", "OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL", "OPERATOR_COALESCE", "COMPARE_IN", "COMPARE_NOT_IN",
     "ARRAY_EXTRACT"}
)  # fmt: skip

TYPES = frozenset(
    {"BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "FLOAT", "REAL", "DOUBLE", "VARCHAR", "DECIMAL"}
)

NUMBERS = ("BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER",
           "UBIGINT", "FLOAT", "DOUBLE", "DECIMAL")  # fmt: skip

_LOCATION = 18_446_744_073_709_551_615
"""DuckDB's mark of what stands nowhere in a text."""


@dataclass(frozen=True)
class Expression:
    """A checked expression: its SQL over rows of `captions`, the columns that it reads, and the judges' scores."""

    sql: str
    columns: tuple[str, ...]
    scores: tuple[str, ...]


@lru_cache(maxsize=256)
def expression_of(text: str) -> Expression:
    """What a text says as an expression over a row of `captions`.

    Scores go by the names that `select.score` takes, those of judges as `siglip2` or `scores.siglip2`, columns by
    theirs. Whether any text has a judge's score is not looked at. Raises InputError, in one line, where it is not one
    expression, has a subquery, a window or a function that is not among FUNCTIONS, names what is not there, or is no
    number.
    """
    with duckdb.connect() as connection:
        statement = _parsed(connection, text)
        columns: dict[str, None] = {}
        scores: dict[str, None] = {}
        (selected,) = statement["statements"][0]["node"]["select_list"]
        statement["statements"][0]["node"]["select_list"] = [_checked(selected, columns, scores)]
        asked = connection.execute("SELECT json_deserialize_sql(?::JSON)", [json.dumps(statement)])
        ((sql,),) = asked.fetchall()
        found = Expression(f"({str(sql).removeprefix('SELECT ')})", tuple(columns), tuple(scores))
        connection.from_arrow(CAPTIONS.empty).create("captions")
        try:
            (described,) = connection.execute(f"DESCRIBE SELECT {found.sql} AS score FROM captions").fetchall()
        except duckdb.Error as error:
            raise InputError(str(error).splitlines()[0]) from error
    if not str(described[1]).startswith(NUMBERS):
        raise InputError(f"it is {described[1]}, and a score is a number")
    return found


def _parsed(connection: duckdb.DuckDBPyConnection, text: str) -> dict[str, Any]:
    """The statement that selects one expression, and nothing else. Raises InputError where the text is more or less."""
    ((answer,),) = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [f"SELECT (\n{text}\n)"]).fetchall()
    parsed: dict[str, Any] = json.loads(answer)
    if parsed["error"]:
        raise InputError(str(parsed.get("error_message", "it cannot be read")).splitlines()[0])
    node = parsed["statements"][0]["node"] if len(parsed["statements"]) == 1 else {}
    bare = ("where_clause", "having", "qualify", "sample", "modifiers", "group_expressions", "group_sets")
    is_one = node.get("type") == "SELECT_NODE" and len(node.get("select_list", [])) == 1
    if not is_one or node["from_table"]["type"] != "EMPTY" or any(node[name] for name in bare) or _ctes(node):
        raise InputError("it is not one expression")
    (selected,) = node["select_list"]
    if selected.get("function_name") == "row" and not selected.get("is_operator"):  # of (a, b), and of ()
        raise InputError("it is not one expression")
    return parsed


def _ctes(node: dict[str, Any]) -> list[Any]:
    found: list[Any] = node.get("cte_map", {}).get("map", [])
    return found


def _checked(node: Any, columns: dict[str, None], scores: dict[str, None]) -> Any:
    """The node with names as columns are called; what it reads is added to `columns` and `scores`."""
    if isinstance(node, list):
        return [_checked(one, columns, scores) for one in node]
    if not isinstance(node, dict):
        return node
    kind, what = node.get("class"), str(node.get("type", ""))
    if kind == "COLUMN_REF":
        return _named(node["column_names"], columns, scores)
    if kind == "OPERATOR" and what == "ARRAY_EXTRACT" and (name := _in_scores(node)):
        return _named(["scores", name], columns, scores)
    if kind == "FUNCTION":
        _check_function(node)
    elif kind == "OPERATOR" and what not in OPERATORS:
        raise InputError(f"{what.removeprefix('OPERATOR_')} may not stand in it")
    elif kind == "TYPE" and str(node.get("type_name", "")).upper() not in TYPES:
        raise InputError(f"{node.get('type_name')} is none of the types that it may have: {', '.join(sorted(TYPES))}")
    elif kind is not None and kind not in (*CLASSES, "OPERATOR"):
        raise InputError(f"a {str(kind).lower().replace('_', ' ')} may not stand in it; it reads its own row alone")
    return {name: _checked(one, columns, scores) for name, one in node.items()}


def _check_function(node: dict[str, Any]) -> None:
    name = str(node["function_name"]).lower()
    plain = not (node.get("schema") or node.get("catalog") or node.get("filter") or node.get("distinct"))
    if name not in FUNCTIONS or not plain or node.get("order_bys", {}).get("orders"):
        near = get_close_matches(name, FUNCTIONS, n=1)
        meant = (
            f"did you mean {near[0]}?"
            if near
            else f"there are {', '.join(sorted(filter(str.isidentifier, FUNCTIONS)))}"
        )
        raise InputError(f"{name}() may not be called in it; {meant}")


def _in_scores(node: dict[str, Any]) -> str | None:
    """The name in `scores['name']`."""
    of, at = node["children"]
    is_map = of.get("class") == "COLUMN_REF" and [str(one).lower() for one in of["column_names"]] == ["scores"]
    literal = at.get("literal", {}) if at.get("class") == "CONSTANT" else {}
    return str(literal["text"]) if is_map and literal.get("kind") == "STRING" else None


def _named(path: list[str], columns: dict[str, None], scores: dict[str, None]) -> dict[str, Any]:
    """A reference to the column of this name, or to the judge's score."""
    first, *rest = (one.lower() for one in path)
    if not rest and first in SCORE_COLUMNS:
        first = SCORE_COLUMNS[first]
    if not rest and first in known_names():
        columns[first] = None
        return _column(first)
    name = rest[0] if first == "scores" and len(rest) == 1 else first if not rest else ""
    if not re.match(SCORE_NAME, name) or path == ["scores"]:
        raise InputError(f"{'.'.join(path)} is no score or column of a text; there are {', '.join(known_names())}")
    columns["scores"] = scores[name] = None
    at = {"class": "CONSTANT", "type": "VALUE_CONSTANT", "literal": {"kind": "STRING", "text": name}, **_PLACE}
    return {"class": "OPERATOR", "type": "ARRAY_EXTRACT", "children": [_column("scores"), at], **_PLACE}


_PLACE: dict[str, Any] = {"alias": "", "query_location": _LOCATION, "query_location_length": 0}


def _column(name: str) -> dict[str, Any]:
    return {"class": "COLUMN_REF", "type": "COLUMN_REF", "column_names": [name], **_PLACE}


def known_names() -> list[str]:
    """What an expression may name beside the scores of judges."""
    return list(
        dict.fromkeys([*SCORE_COLUMNS, *(one for one in CAPTIONS.schema.names if not one.startswith("scores"))])
    )
