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
from rich.table import Table

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


def rich_table(data: pa.Table, title: str = "") -> Table:
    """`data` as a rich table, numbers to the right."""
    table = Table(title=title or None, title_justify="left", header_style="bold")
    for field in data.schema:
        right = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
        table.add_column(field.name, justify="right" if right else "left", overflow="fold", no_wrap=right)
    for row in data.to_pylist():
        table.add_row(*(shown(value) for value in row.values()))
    return table


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
    Console(file=out, width=width).print(rich_table(data), f"{data.num_rows:,} rows", highlight=False)
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
