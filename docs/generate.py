"""Writes the pages that are made from the code: configuration.md and tables.md.

    .venv/bin/python docs/generate.py          # writes both pages
    .venv/bin/python docs/generate.py --check  # writes nothing; exits with 1 where a page is out of date

A new setting, table, status, error class, reason or flag without a meaning stops it with a line that names it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from meanings import CLOSED_LISTS, PLACES

from blip_bootstrap import config
from blip_bootstrap.audit.audits import AUDITS, audit_sql
from blip_bootstrap.config import Config
from blip_bootstrap.query.views import SOME_FILES, VIEWS
from blip_bootstrap.schemas import shown_tables, tables
from blip_bootstrap.schemas.schema import Column, Table
from blip_bootstrap.settings.marks import Speed, mark_of

DOCS = Path(__file__).parent

MADE_BY = "<!-- Made by docs/generate.py; change the code that it reads, not this page. -->"

Schema = Mapping[str, Any]


def main(arguments: Sequence[str]) -> int:
    """Write the pages, or with `--check` compare them; the exit code."""
    stale = []
    for name, make in PAGES.items():
        path, text = DOCS / name, make()
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if "--check" not in arguments:
            path.write_text(text, encoding="utf-8")
    told = "out of date" if "--check" in arguments else "written"
    sys.stdout.write("".join(f"{name}: {told}\n" for name in stale))
    return 1 if stale and "--check" in arguments else 0


def configuration_page() -> str:
    """Every setting: its type, its default, what it means, and whether a change makes anything anew."""
    schema = Config.model_json_schema()
    sections = dict(_sections(schema))
    parts = [_head("Configuration", _CONFIGURATION)]
    parts.append("## The whole\n\n" + _settings_table("", schema, sections))
    for name, places in sections.items():
        section = schema["$defs"][name]
        parts.append(f"## {_title(places)}\n\n{_first_line(section)}\n")
        if own := list(_own_defaults(section, places)):
            parts.append("\n".join(own) + "\n")
        parts.append(_settings_table(name, section, sections))
    return "\n".join(parts)


def tables_page() -> str:
    """Every table, view, closed list and audit."""
    found = [one for module in (tables, shown_tables) for one in vars(module).values() if isinstance(one, Table)]
    parts = [_head("Tables", _TABLES.format(some=SOME_FILES))]
    parts += [f"## Table `{one.name}`\n\n{_place(one)}\n\n{_columns_table(one.columns)}" for one in found]
    parts.append("## Views\n\n" + _VIEWS.format(some=SOME_FILES) + "\n\n" + _views_table())
    parts.append("## Closed lists\n")
    for title, told, values, meanings in CLOSED_LISTS:
        rows = [(f"`{value}`", _meaning(meanings, value, title)) for value in values]
        parts.append(f"### {title}\n\n{told}\n\n{_table(('value', 'meaning'), rows)}")
    parts.append("## Audits\n\nWhat `blip-bootstrap audit` asks, in this order.\n\n" + _audits_table())
    return "\n".join(parts)


def _head(title: str, text: str) -> str:
    return f"{MADE_BY}\n\n# {title}\n\n{text.strip()}\n"


def _sections(schema: Schema) -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    """Every section class, in the order of the tree, with the places it stands at and its default there."""
    found: dict[str, list[tuple[str, Any]]] = {}

    def walk(node: Schema, path: str, default: Any) -> None:
        for name, field in node["properties"].items():
            inner = _reference(field)
            if inner is None:
                continue
            place = f"{path}.{name}" if path else name
            mine = default.get(name) if isinstance(default, Mapping) else field.get("default")
            found.setdefault(inner, []).append((place, mine))
            walk(schema["$defs"][inner], place, mine)

    walk(schema, "", None)
    yield from found.items()


def _reference(field: Schema) -> str | None:
    """The section class that a field holds: itself, or none, or a list of it."""
    for one in (field, field.get("items", {}), *field.get("anyOf", ())):
        if "$ref" in one:
            return str(one["$ref"]).rpartition("/")[2]
    return None


def _title(places: Sequence[tuple[str, Any]]) -> str:
    return ", ".join(f"`{place}`" for place, _ in places)


def _first_line(section: Schema) -> str:
    return " ".join(str(section.get("description", "")).split("\n\n")[0].split())


def _own_defaults(section: Schema, places: Sequence[tuple[str, Any]]) -> Iterator[str]:
    """A line for each place whose defaults are not those of the class."""
    for place, default in places:
        if not isinstance(default, Mapping):
            continue
        own = {
            name: default[name]
            for name, field in section["properties"].items()
            if _reference(field) is None and name in default and default[name] != field.get("default")
        }
        if own:
            shown = ", ".join(f"`{name}: {_shown(value)}`" for name, value in own.items())
            yield f"- Defaults of `{place}` that differ from the table: {shown}."


def _settings_table(section: str, node: Schema, sections: Mapping[str, Any]) -> str:
    rows = []
    for name, field in node["properties"].items():
        inner = _reference(field)
        if inner and "items" not in field:
            anchor = _anchor(_title(sections[inner]))
            meaning = f"see [{_first_place(sections[inner])}](#{anchor})"
            told = str(field.get("description", ""))
            rows.append(
                (f"`{name}`", "section", _default(name, node, field), f"{told}; {meaning}" if told else meaning)
            )
            continue
        whole = f"{section}.{name}" if section else name
        meaning = str(field.get("description", ""))
        if not meaning:
            raise SystemExit(f"{whole}: no meaning; give the field a description")
        section_class = getattr(config, section or "Config")
        marks = ". *Speed only.*" if mark_of(section_class.model_fields[name], Speed) else ""
        rows.append((f"`{name}`", _type(field), _default(name, node, field), _escaped(meaning) + marks))
    return _table(("setting", "type", "default", "meaning"), rows)


def _first_place(places: Sequence[tuple[str, Any]]) -> str:
    """The name of a section in a link: its first place."""
    return f"`{places[0][0]}`"


def _type(field: Schema) -> str:
    """A field's type in words."""
    if "anyOf" in field:
        return " or ".join(_type(one) for one in field["anyOf"])
    if "enum" in field:
        return _escaped(", ".join(f"`{value}`" for value in field["enum"]))
    if "const" in field:
        return f"`{field['const']}`"
    kind = field.get("type")
    if kind == "array":
        items = field.get("items", {})
        return f"list of {_type(items) if items and '$ref' not in items else 'sections'}"
    if kind == "string":
        return "path" if field.get("format") == "path" else "text"
    if kind == "object":
        return "mapping by source" if "enum" in field.get("propertyNames", {}) else "mapping"
    words = {"integer": "whole number", "number": "number", "boolean": "true or false", "null": "null"}
    return words.get(str(kind), "section") + _limits(field)


def _limits(field: Schema) -> str:
    low, above = field.get("minimum"), field.get("exclusiveMinimum")
    high, under = field.get("maximum"), field.get("exclusiveMaximum")
    told = [f"{low} or more"] if low is not None else [f"over {above}"] if above is not None else []
    told += [f"{high} or less"] if high is not None else [f"under {under}"] if under is not None else []
    return f", {', '.join(told)}" if told else ""


def _default(name: str, node: Schema, field: Schema) -> str:
    if name in node.get("required", ()):
        return "needed"
    if _reference(field) and "items" not in field:
        return "null" if field.get("default", ...) is None else ""
    return f"`{_shown(field.get('default'))}`"


def _shown(value: Any) -> str:
    """A value as YAML has it."""
    if isinstance(value, float) and value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        mantissa, _, exponent = f"{value:e}".partition("e")
        mantissa = mantissa.rstrip("0").rstrip(".")
        return f"{mantissa}{'' if '.' in mantissa else '.0'}e{int(exponent)}"
    if isinstance(value, str) and value and value not in ("no", "yes", "true", "false", "null"):
        return value
    return json.dumps(value)


def _place(table: Table) -> str:
    row = table.row[:1].upper() + table.row[1:]
    return f"{row}. Where: {PLACES.get(table.name, 'internal')}."


def _columns_table(columns: Sequence[Column]) -> str:
    rows = [(f"`{one.name}`", f"`{one.type}`", _escaped(one.meaning)) for one in columns]
    return _table(("column", "type", "meaning"), rows)


def _views_table() -> str:
    rows = [(f"`{view.name}`", _escaped(view.row), ", ".join(f"`{c.name}`" for c in view.columns)) for view in VIEWS]
    return _table(("view", "a row", "columns"), rows)


def _audits_table() -> str:
    rows = []
    for name in AUDITS:
        title, meaning = (line.removeprefix("-- ") for line in audit_sql(name).splitlines()[:2])
        rows.append((f"`{name}`", _escaped(title), _escaped(meaning)))
    return _table(("audit", "question", "how to read it"), rows)


def _meaning(meanings: Mapping[str, str], value: str, what: str) -> str:
    if value not in meanings:
        raise SystemExit(f"{what}: {value} has no meaning; add it to docs/meanings.py")
    return meanings[value]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _anchor(title: str) -> str:
    """The anchor of a heading, as GitHub and the site's generator make it."""
    kept = "".join(c for c in title.lower() if c.isalnum() or c in " -_")
    return kept.replace(" ", "-")


_CONFIGURATION = """
A run is described by one YAML file. Every setting has a default; `blip-bootstrap config show` prints all of them, and
`blip-bootstrap config check --config my.yaml` lists every mistake at once, one line each. A single setting is changed
on the command line with `--set section.name=value`, which may be repeated. Unknown keys are refused, with a guess at
what was meant.

A change of a setting makes the step that reads it anew, and every step after it. Settings marked *Speed only* decide
how fast a result comes, never what it is: changing them makes nothing anew. `dtype: auto` is bfloat16 where the device
is fast at it, else float32; it is settled when a run begins and kept where the run goes on.
"""

_TABLES = """
Everything that a run makes is Parquet or JSON under its root. This page lists every table with its columns, the views
that `blip-bootstrap sql` shows over them, the closed lists of values, and the audits. Columns that img2dataset has
keep its names. The same meanings stand in the metadata of every Parquet file and in the view `columns`.
"""

_VIEWS = """
`captions`, `pairs`, `languages`, `rounds` and `metrics` hold all rounds, with the column `round`. `some_images`,
`some_human`, `some_held_out`, `some_captions` and `some_pairs` are the same over at most {some} files of a table,
evenly spaced: enough for a share, and quick on a large run.
""".strip()

PAGES: dict[str, Callable[[], str]] = {"configuration.md": configuration_page, "tables.md": tables_page}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
