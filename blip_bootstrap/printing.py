"""An Arrow table as text for people and programs: table, csv, json, markdown, parquet."""

from __future__ import annotations

import base64
import csv
import datetime
import io
import json
import shutil
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.markup import escape
from rich.table import Table

TEXT_WIDTH, MAX_TURNED = 20, 8
"""A column of text may be as narrow as this; a table that is too wide is turned if it has no more rows than this."""

FORMS = ("table", "csv", "json", "markdown", "parquet")
"""How an answer can be printed; `json` is one object per row in a list, with bytes in base64."""


def render(data: pa.Table, form: str) -> bytes:
    """`data` in one of `FORMS`, UTF-8. Raises ValueError for another form."""
    if form == "parquet":
        sink = io.BytesIO()
        pq.write_table(data, sink, compression="zstd")
        return sink.getvalue()
    writers = {"table": _table, "csv": _csv, "json": _json, "markdown": _markdown}
    if form not in writers:
        raise ValueError(f"form {form!r} is none of {', '.join(FORMS)}")
    return writers[form](data).encode()


def rich_table(data: pa.Table, width: int) -> Table:
    """`data` as a rich table that fits `width` characters: too wide, its rows become columns, or blocks of lines."""
    names = data.schema.names
    rows = [[shown(value) for value in row.values()] for row in data.to_pylist()]
    sizes = [max(len(cell) for cell in column) for column in zip(names, *rows, strict=True)]
    numeric = [pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in data.schema.types]
    least = [size if right else min(size, TEXT_WIDTH) for size, right in zip(sizes, numeric, strict=True)]
    if sum(least) + 3 * len(least) + 1 <= width:
        return _plain_table(names, rows, numeric, least)
    if len(rows) <= MAX_TURNED and sum(_widest(row) + 3 for row in rows) + max(map(len, names)) < width:
        turned = [list(line) for line in zip(names, *rows, strict=True)]
        return _plain_table(["", *map(str, range(1, len(rows) + 1))], turned, [False] + [True] * len(rows), None)
    blocks: list[list[str]] = []
    for row in rows:
        blocks += [[name, cell] for name, cell in zip(names, row, strict=True) if cell]
        blocks.append(["", ""])
    return _plain_table(["", ""], blocks, [False, False], None)


def _plain_table(names: list[str], rows: list[list[str]], numeric: list[bool], least: list[int] | None) -> Table:
    table = Table(header_style="bold", show_header=any(names))
    for at, (name, right) in enumerate(zip(names, numeric, strict=True)):
        narrowest = least[at] if least else None
        table.add_column(name, justify="right" if right else "left", overflow="fold", min_width=narrowest)
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _widest(cells: list[str]) -> int:
    return max(map(len, cells), default=0)


def shown(value: Any) -> str:
    """One value for people: thousands separated, four digits of a fraction, bytes by their number."""
    match value:
        case None:
            return ""
        case bytes():
            return f"<{len(value):,} bytes>"
        case bool():
            return str(value).lower()
        case int():
            return f"{value:,}"
        case Decimal():
            return shown(float(value))
        case float():
            return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.1f}"
        case list():
            return ", ".join(shown(one) for one in value)
        case _:
            return str(value)


def _table(data: pa.Table) -> str:
    out = io.StringIO()
    width = shutil.get_terminal_size((120, 40)).columns
    Console(file=out, width=width).print(rich_table(data, width), f"{data.num_rows:,} rows", highlight=False)
    return out.getvalue()


def _csv(data: pa.Table) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(data.schema.names)
    writer.writerows([_plain(value) for value in row.values()] for row in data.to_pylist())
    return out.getvalue()


def _json(data: pa.Table) -> str:
    rows = [{name: _plain(value, nested=True) for name, value in row.items()} for row in data.to_pylist()]
    return json.dumps(rows, indent=1, ensure_ascii=False) + "\n"


def _markdown(data: pa.Table) -> str:
    names = data.schema.names
    lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    for row in data.to_pylist():
        cells = [shown(value).replace("|", "\\|").replace("\n", " ") for value in row.values()]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _plain(value: Any, nested: bool = False) -> Any:
    """A value as JSON or CSV can carry it."""
    match value:
        case bytes():
            return base64.b64encode(value).decode()
        case Decimal():
            return float(value)
        case datetime.date() | datetime.time() | datetime.timedelta():
            return str(value)
        case list():
            plain = [_plain(one, nested=True) for one in value]
            return plain if nested else json.dumps(plain, ensure_ascii=False)
        case dict():
            plain_dict = {str(k): _plain(v, nested=True) for k, v in value.items()}
            return plain_dict if nested else json.dumps(plain_dict, ensure_ascii=False)
        case _:
            return value
