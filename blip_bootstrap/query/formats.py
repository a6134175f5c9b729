"""An Arrow table as text for people and programs: table, csv, json, markdown, parquet."""

from __future__ import annotations

import base64
import csv
import datetime
import io
import json
import math
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from blip_bootstrap.errors import InputError, writing
from blip_bootstrap.storage.files import staged_file

TEXT_WIDTH, MAX_TURNED = 20, 8
"""Least width of a column of text; most rows of a table that is turned, rows to columns, where it is too wide."""

MAX_ROWS = 200
"""Rows that are printed of a table for people; the other forms hold all."""

_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Control characters, with which a text from the web could write over the terminal."""

FORMS = ("table", "csv", "json", "markdown", "parquet")
"""The forms of an answer; `json` is a list with an object for each row, bytes as base64, NaN and infinities as null."""


class PipedConsole(Console):
    """A console that raises BrokenPipeError, as other output does, where its reader leaves early, as `| head` does."""

    def on_broken_pipe(self) -> None:
        """Let the command line end as for any other output."""
        raise BrokenPipeError


def render(data: pa.Table, form: str, num_rows: int | None = None, encoding: str = "utf-8") -> bytes:
    """An answer in one of `FORMS`, as bytes in UTF-8.

    The form `table` is for this terminal: `data` then holds the first of `num_rows` rows, and characters that
    `encoding` lacks are shown as `\\u00e9`. Raises ValueError for another form, InputError for a value that the form
    cannot hold, such as an infinite date.
    """
    if form == "table":
        with _told_by_form(form):
            return _table(data, data.num_rows if num_rows is None else num_rows, encoding)
    out = io.BytesIO()
    write_batches(data.schema, data.to_batches(), form, out)
    return out.getvalue()


def write_batches(schema: pa.Schema, batches: Iterable[pa.RecordBatch], form: str, out: BinaryIO) -> None:
    """Write rows as they come, in any of `FORMS` except `table`. Raises ValueError and InputError as `render` does."""
    writers = {"csv": _csv, "json": _json, "markdown": _markdown, "parquet": _parquet}
    if form not in writers:
        raise ValueError(f"form {form!r} is none of {', '.join(FORMS)}")
    with _told_by_form(form):
        writers[form](schema, batches, out)


@contextmanager
def _told_by_form(form: str) -> Iterator[None]:
    try:
        yield
    except (OverflowError, ValueError, pa.ArrowException) as error:
        raise InputError(f"--format {form} cannot hold this ({error}); cast the column to VARCHAR") from error


@contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that the user asked for; a new one appears once it is whole. Raises InputError where it cannot."""
    with writing(path):
        if path.is_symlink() or (path.exists() and not path.is_file()):  # /dev/stdout, a pipe
            with path.open("wb") as file:
                yield file
            return
        with staged_file(path) as staged, staged.open("wb") as file:
            yield file


def write_file(path: Path, content: bytes) -> None:
    """Write a file that the user asked for, whole or not at all. Raises InputError where it cannot be written."""
    with open_file(path) as file:
        file.write(content)


def print_table(data: pa.Table) -> None:
    """Print a small table on standard output, as wide as the terminal."""
    console = PipedConsole()
    console.print(rich_table(data, console.width))


def print_columns(data: pa.Table) -> None:
    """Print a small table on standard output; one too wide for it in several, each with the first column."""
    console = PipedConsole()
    for part in column_parts(data, console.width):
        console.print(rich_table(part, console.width))


def print_by(data: pa.Table, name: str) -> None:
    """Print a small table on standard output; one too wide for it in several, one for each value of the column `name`.

    Such a value stands above its table.
    """
    console = PipedConsole()
    if rich_table(data, console.width).row_count == data.num_rows:  # no row became a block of lines
        console.print(rich_table(data, console.width))
        return
    for value in data[name].unique():
        console.print(escape(shown(value.as_py())))
        console.print(rich_table(data.filter(pc.equal(data[name], value)).drop_columns([name]), console.width))


def column_parts(data: pa.Table, width: int) -> Iterator[pa.Table]:
    """`data` as tables of as many of its columns as fit `width` characters, each with the first column."""
    names = [shown(name).replace("_", "_\n") for name in data.schema.names]
    rows = [[shown(value) for value in row.values()] for row in _rows(data)]
    first, *others = [size + 3 for size in _least_widths(names, rows, [True] * len(names))]  # each cell in one line
    taken, used = [0], first + 1
    for at, size in enumerate(others, 1):
        if used + size > width and len(taken) > 1:
            yield data.select(taken)
            taken, used = [0], first + 1
        taken.append(at)
        used += size
    yield data.select(taken)


def rich_table(data: pa.Table, width: int) -> Table:
    """`data` as a rich table that fits `width` characters.

    A table that is too wide gets headings broken at underscores, then cells without padding; if that is not enough, its
    rows become columns, or blocks of lines.
    """
    names = [shown(name) for name in data.schema.names]
    rows = [[shown(value) for value in row.values()] for row in _rows(data)]
    numeric = [_is_number(kind) for kind in data.schema.types]
    broken = [name.replace("_", "_\n") for name in names]
    for heads, air in ((names, 1), (broken, 1), (broken, 0)):
        least = _least_widths(heads, rows, numeric)
        if sum(least) + (1 + 2 * air) * len(least) + 1 <= width:
            return _plain_table(heads, rows, numeric, least, air)
    if (
        len(rows) <= MAX_TURNED
        and sum(max(map(len, row), default=0) + 3 for row in rows) + max(map(len, names)) < width
    ):
        turned = [list(line) for line in zip(names, *rows, strict=True)]
        return _plain_table(["", *map(str, range(1, len(rows) + 1))], turned, [False] + [True] * len(rows), None)
    blocks: list[list[str]] = []
    for row in rows:
        blocks += [[name, cell] for name, cell in zip(names, row, strict=True) if cell]
        blocks.append(["", ""])
    return _plain_table(["", ""], blocks, [False, False], None)


def _least_widths(heads: list[str], rows: list[list[str]], numeric: list[bool]) -> list[int]:
    """The least width of each column: numbers are never folded, texts may be folded to TEXT_WIDTH."""
    widest = [
        max(len(line) for cell in column for line in cell.split("\n")) for column in zip(heads, *rows, strict=True)
    ]
    return [size if right else min(size, TEXT_WIDTH) for size, right in zip(widest, numeric, strict=True)]


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _plain_table(
    names: list[str], rows: list[list[str]], numeric: list[bool], least: list[int] | None, air: int = 1
) -> Table:
    table = Table(header_style="bold", show_header=any(names), padding=(0, air))
    for at, (name, right) in enumerate(zip(names, numeric, strict=True)):
        narrowest = least[at] if least else None
        table.add_column(escape(name), justify="right" if right else "left", overflow="fold", min_width=narrowest)
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def shown(value: Any) -> str:
    """A value for people: thousands separated, fractions to four digits, of bytes only how many there are."""
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
        case dict():  # a struct
            return "{" + ", ".join(map(_entry, value.items())) + "}"
        case (_, _):  # an entry of a map
            return _entry(value)
        case _:
            return _UNSEEN.sub(lambda found: f"\\x{ord(found[0]):02x}", str(value))


def _entry(pair: tuple[Any, Any]) -> str:
    name, value = pair
    return f"{shown(name)}: {'null' if value is None else shown(value)}"


def terminal_encoding() -> str:
    """The encoding of standard output."""
    return getattr(sys.stdout, "encoding", None) or "utf-8"


def _table(data: pa.Table, num_rows: int, encoding: str) -> bytes:
    content = io.BytesIO()
    out = io.TextIOWrapper(content, encoding, errors="backslashreplace", newline="", write_through=True)
    width = shutil.get_terminal_size((120, 40)).columns
    told = "1 row" if num_rows == 1 else f"{num_rows:,} rows"
    if num_rows > MAX_ROWS:
        told += f", the first {MAX_ROWS} of which are shown; --format csv has all"
    Console(file=out, width=width).print(rich_table(data.slice(0, MAX_ROWS), width), told, highlight=False)
    out.flush()
    return content.getvalue()


def _csv(schema: pa.Schema, batches: Iterable[pa.RecordBatch], out: BinaryIO) -> None:
    text = io.TextIOWrapper(out, "utf-8", newline="", write_through=True)
    try:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(schema.names)
        for batch in batches:
            writer.writerows([_plain(value) for value in row.values()] for row in _rows(batch))
    finally:
        text.detach()


def _json(schema: pa.Schema, batches: Iterable[pa.RecordBatch], out: BinaryIO) -> None:
    told = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
    names, before = [told(name) for name in schema.names], "["
    for batch in batches:
        for row in _rows(batch):
            values = (told(_plain(value, nested=True)) for value in row.values())
            lines = ",\n  ".join(f"{name}: {value}" for name, value in zip(names, values, strict=True))
            out.write(f"{before}\n {{\n  {lines}\n }}".encode())
            before = ","
    out.write(b"[]\n" if before == "[" else b"\n]\n")


def _markdown(schema: pa.Schema, batches: Iterable[pa.RecordBatch], out: BinaryIO) -> None:
    names = [_cell(name) for name in schema.names]
    out.write(f"| {' | '.join(names)} |\n|{'---|' * len(names)}\n".encode())
    for batch in batches:
        for row in _rows(batch):
            out.write(f"| {' | '.join(_cell(shown(value)) for value in row.values())} |\n".encode())


def _parquet(schema: pa.Schema, batches: Iterable[pa.RecordBatch], out: BinaryIO) -> None:
    with pq.ParquetWriter(out, schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)


def _rows(data: pa.Table | pa.RecordBatch) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = data.to_pylist(maps_as_pydicts="strict")
    return rows


def _cell(text: str) -> str:
    """A text escaped so that it stays in its cell of a Markdown table and is not read as HTML."""
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").split("\n"))


def _plain(value: Any, nested: bool = False) -> Any:
    """A value as JSON or CSV can carry it."""
    match value:
        case bytes():
            return base64.b64encode(value).decode()
        case float():
            return value if math.isfinite(value) or not nested else None
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
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
