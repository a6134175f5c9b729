"""A mistake in the configuration in words, with what to write instead."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

SECTION_EXPECTED = frozenset({"model_type", "model_attributes_type", "dict_type", "dataclass_type"})

LIST_EXPECTED = frozenset({"tuple_type", "list_type"})

NUMBERS = {
    "int_type": "a whole number", "int_parsing": "a whole number", "int_from_float": "a whole number",
    "float_type": "a number", "float_parsing": "a number", "finite_number": "a finite number",
}  # fmt: skip

BOOLS = frozenset({"bool_type", "bool_parsing"})

TEXTS = frozenset({"string_type", "path_type"})

LIMITS = {
    "greater_than_equal": ("at least", "ge"), "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"), "less_than": ("less than", "lt"),
}  # fmt: skip


def in_words(item: Mapping[str, Any]) -> str:
    """One of pydantic's errors (`ValidationError.errors()`) in one line: what is wrong, and what to write instead."""
    kind, value, context = str(item["type"]), item.get("input"), item.get("ctx", {})
    name = next((part for part in reversed(item["loc"]) if isinstance(part, str)), "")
    if kind == "missing":
        return "is needed, and is not given"
    if kind == "invalid_key":
        return f"a key is a text; write it in quotes: {json.dumps(str(item['loc'][-1]))}"
    if value is None and kind != "value_error":
        return "is empty; write a value, or leave the line out: then it has its default"
    if kind in SECTION_EXPECTED:
        return f"settings were expected, found {_found(value)}{_as_section(name, value)}"
    if kind in LIST_EXPECTED:
        is_entry = isinstance(item["loc"][-1], int) and isinstance(value, str | int | float)
        instead = f"; write a list in its place, [{value}]" if is_entry else _as_list(name, value)
        return f"a list was expected, found {_found(value)}{instead}"
    if kind == "too_long":
        return f"at most {context['max_length']} values were expected, found {context['actual_length']}"
    if kind in NUMBERS:
        return f"{NUMBERS[kind]} was expected (got {_shown(value)})"
    if kind in BOOLS:
        return f"true or false was expected (got {_shown(value)})"
    if kind in TEXTS:
        return f"a text was expected, found {_found(value)}{_as_text(name, value)}"
    if kind == "string_pattern_mismatch":
        return f"plain letters, digits and signs (ASCII) on one line were expected (got {_shown(value)})"
    if kind == "literal_error":
        return _choice(name, value, str(context["expected"]))
    if kind in LIMITS:
        words, limit = LIMITS[kind]
        return f"must be {words} {context[limit]} (got {_shown(value)})"
    message = " ".join(str(item["msg"]).removeprefix("Value error, ").split())
    is_small = isinstance(value, str | int | float) or value is None
    return f"{message[0].lower()}{message[1:]}{f' (got {_shown(value)})' if is_small else ''}"


def not_a_list(path: Path) -> str:
    """Why `path` cannot be read as a list: it is a folder, a pattern, or not there."""
    if path.is_dir():
        return f"{path} is a folder; name the file in it"
    if any(sign in str(path) for sign in "*?["):
        entries = "[{path: a.tsv}, {path: b.tsv}]"
        return f"{path} is a pattern, and no file; give each file an entry of its own: {entries}"
    return f"no such file: {path}"


def _as_section(name: str, value: Any) -> str:
    """What to write where settings are expected."""
    if name == "urls" and isinstance(value, str):
        return f"; write {{path: {value}}}"
    return f"; write the settings below it, a line each: `{name}:` and then `  setting: value`"


def _as_list(name: str, value: Any) -> str:
    """What to write where a list is expected and one entry is given."""
    if name == "urls" and isinstance(value, str):
        return f"; write urls: [{{path: {value}}}]"
    if isinstance(value, Mapping):
        return f"; put the entry in brackets, {name}: [{{path: ...}}], or begin it with a dash"
    return f"; write {name}: [{value}]" if isinstance(value, str | int | float) else ""


def _as_text(name: str, value: Any) -> str:
    """What to write where a text is expected: YAML reads a bare yes, no, on, 123 or 2026-01-01 otherwise."""
    if isinstance(value, bool):
        likely = "yes" if value else "no"
        return f' (so YAML reads yes, no, on and off); put the text in quotes, as {name}: "{likely}"'
    return f'; put it in quotes: {name}: "{value}"' if isinstance(value, int | float | date) else ""


def _choice(name: str, value: Any, expected: str) -> str:
    """The mistake of a value that is none of the words that a setting takes."""
    words = expected.replace("'", "").replace(" or ", ", ")
    if isinstance(value, bool) and not value and "no" in words.split(", "):
        return f'YAML reads a bare no as false; put it in quotes: {name}: "no" (one of {words})'
    return f"is one of {words}{_as_text(name, value)} (got {_shown(value)})"


def _found(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "one mapping"
    if isinstance(value, list | tuple):
        return "a list"
    return f"the text {_shown(value)}" if isinstance(value, str) else _shown(value)


def _shown(value: Any) -> str:
    """A value as one would write it in YAML, cut; lists and mappings by what they are."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple | Mapping):
        return _found(value)
    shown = repr(value) if isinstance(value, str) else str(value)
    return shown if len(shown) <= 100 else f"{shown[:100]}..."
