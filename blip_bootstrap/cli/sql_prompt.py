"""`blip-bootstrap sql`: answers one question, those of standard input, or what is typed at a prompt."""

from __future__ import annotations

import atexit
import io
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO

import duckdb

from blip_bootstrap.errors import InputError
from blip_bootstrap.paths import user_folder
from blip_bootstrap.query.formats import MAX_ROWS, open_file, render, terminal_encoding, write_batches
from blip_bootstrap.query.questions import is_whole, query, query_batches, query_first, split_questions
from blip_bootstrap.query.views import VIEWS, connect

HELP = """A question may have several lines, and ends with `;`.
.tables          list the views
.columns VIEW    list the columns of a view, with what they mean
.help            print this
.exit            leave; Ctrl-D does, too
some_images, some_captions and some_pairs read 64 files at most, for quick looks at a large run. wilson_low(hits,
number) and wilson_high(hits, number) are the ends of a share's 95 % interval; words(text) is a list of words.
Ctrl-C drops what is typed, or stops a question. Tab completes names; history is kept between sessions.
"""

JOINED = ("table", "markdown")
"""Forms that can hold several answers, one below the other."""


def run_sql(root: Path, text: str, form: str = "table", out: Path | None = None) -> None:
    """Ask the run under `root` and print the answers, or write them to `out`; `form` is one of `formats.FORMS`.

    Raises InputError where a question cannot be answered, or several are to go into one CSV, JSON or Parquet file.
    """
    _check_place(form, out)
    with connect(root) as connection:
        asked = split_questions(connection, text) or [""]
        if len(asked) > 1 and form not in JOINED:
            raise InputError(f"{len(asked)} questions at once; --format {form} holds the answer to one")
        encoding = "utf-8" if out else terminal_encoding()
        with open_file(out) if out else nullcontext(sys.stdout.buffer) as file:
            for at, one in enumerate(asked):
                file.write(b"\n" if at else b"")
                _answer(connection, one, form, file, encoding)
            file.flush()


def _answer(
    connection: duckdb.DuckDBPyConnection, question: str, form: str, out: BinaryIO, encoding: str = "utf-8"
) -> None:
    """Write the answer while it is read, in batches; of a table only the rows that are shown are read."""
    if form == "table":
        data, num_rows = query_first(connection, question, MAX_ROWS)
        out.write(render(data, form, num_rows, encoding))
    else:
        with query_batches(connection, question) as (schema, batches):
            write_batches(schema, batches, form, out)


def prompt_sql(root: Path, form: str = "table", out: Path | None = None) -> None:
    """Answer questions typed at a prompt until Ctrl-D or `.exit`; a mistake is printed and ends nothing.

    Where standard input is no terminal, its whole text is answered as by `run_sql`.
    """
    if not sys.stdin.isatty() or out:
        run_sql(root, _piped(), form, out)
        return
    _check_place(form, out)
    with connect(root) as connection:
        _use_readline()
        sys.stdout.write(f"{root}: {', '.join(table.name for table in VIEWS)}. Type `.help` for more.\n")
        while (typed := _typed()) is not None:
            sys.stdout.write(_reply(connection, typed, form))


def _piped() -> str:
    """The text of standard input, read as UTF-8 whatever the locale. Raises InputError where it is not."""
    binary = getattr(sys.stdin, "buffer", None)
    if binary is None:  # a test's own
        return sys.stdin.read() if sys.stdin else ""
    try:
        text: str = binary.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"standard input: not UTF-8 text ({error})") from error
    return text


def _check_place(form: str, out: Path | None) -> None:
    if form == "parquet" and out is None and sys.stdout.isatty():
        raise InputError("--format parquet is no text for a terminal; give --out FILE, or redirect the output to one")


def _reply(connection: duckdb.DuckDBPyConnection, typed: str, form: str) -> str:
    """What the prompt prints for a command (`.tables`), or for one or several questions."""
    try:
        if typed.startswith("."):
            return _command(connection, typed.rstrip(";").split())
        answers = []
        for one in split_questions(connection, typed):
            encoding = terminal_encoding() if form == "table" else "utf-8"
            _answer(connection, one, form, out := io.BytesIO(), encoding)
            answers.append(out.getvalue().decode(encoding, errors="replace"))
        return "\n".join(answers)
    except InputError as error:
        return f"error: {error}\n"
    except KeyboardInterrupt:
        return "stopped\n"


def _command(connection: duckdb.DuckDBPyConnection, words: Sequence[str]) -> str:
    tables = {table.name: table for table in VIEWS}
    if words[0] in (".tables", ".views"):
        return "".join(f"{name:10} {table.row}\n" for name, table in tables.items())
    if words[0] in (".columns", ".schema") and len(words) == 2 and words[1] in tables:
        told = f"""SELECT "column", type, meaning FROM columns WHERE "view" = '{words[1]}'"""
        return render(query(connection, told), "table", encoding=terminal_encoding()).decode(terminal_encoding())
    return HELP


def _typed() -> str | None:
    """The next question or command from the terminal, which may have several lines; None at Ctrl-D or `.exit`."""
    text = ""
    while not is_whole(text):
        try:
            line = input("...> " if text else "sql> ")
        except EOFError:
            sys.stdout.write("\n")
            return text or None
        except KeyboardInterrupt:
            sys.stdout.write("\n")
            text = ""
            continue
        if not text and line.strip().rstrip(";").lower() in ("exit", "quit", ".exit", ".quit"):
            return None
        if not text and line.strip().startswith("."):
            return line.strip()
        text = f"{text}\n{line}" if text else line.strip()
    return text


def _use_readline() -> None:
    """Switch on line editing, history between sessions and completion, where Python has readline."""
    try:
        import readline  # not in every build of Python
    except ImportError:
        return
    try:
        history = user_folder("XDG_STATE_HOME", ".local", "state") / "blip-bootstrap" / "history"
        history.parent.mkdir(parents=True, exist_ok=True)
        history.touch()
        readline.read_history_file(history)
    except OSError:  # a home that cannot be written to: a session without memory is better than none
        pass
    else:
        atexit.register(readline.write_history_file, history)
    readline.set_history_length(1000)
    names = sorted({name for table in VIEWS for name in (table.name, *table.schema.names)})
    readline.set_completer(lambda start, at: [*(one for one in names if one.startswith(start)), None][at])
    readline.parse_and_bind("tab: complete")
