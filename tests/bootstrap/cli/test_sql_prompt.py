"""`blip-bootstrap sql` at a terminal and in a pipe."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from blip_bootstrap.cli.sql_prompt import run_sql
from blip_bootstrap.errors import InputError
from blip_bootstrap.query.questions import BATCH_ROWS, query_batches
from blip_bootstrap.query.views import connect

COMMAND = [sys.executable, "-m", "blip_bootstrap", "sql", "--root"]


class Terminal:
    """The other end of a process's terminal."""

    def __init__(self, master: int) -> None:
        self.master = master

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def expect(self, pattern: str, timeout_s: float = 180) -> str:
        """What was written until the pattern was; AssertionError where it is not, in time."""
        seen, end = "", time.monotonic() + timeout_s
        while not re.search(pattern, seen, re.DOTALL):
            ready, _, _ = select.select([self.master], [], [], max(0, end - time.monotonic()))
            assert ready, f"{pattern!r} not in {seen!r}"
            seen += os.read(self.master, 65536).decode(errors="replace")
        return seen


def own_the_terminal() -> None:
    """In the child: the terminal on standard input is its own, so that Ctrl-C typed there reaches it."""
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a runner in the background has it ignored


@contextmanager
def prompt(root: Path, home: Path, *options: str) -> Iterator[tuple[Terminal, subprocess.Popen[bytes]]]:
    master, slave = pty.openpty()
    environment = os.environ | {"XDG_STATE_HOME": str(home), "TERM": "dumb", "COLUMNS": "120"}
    process = subprocess.Popen(
        [*COMMAND, str(root), *options],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment,
        preexec_fn=own_the_terminal,
    )
    os.close(slave)
    try:
        yield Terminal(master), process
    finally:
        process.kill()
        process.wait()
        os.close(master)


def test_a_session(finished_run: Path, tmp_path: Path) -> None:
    with prompt(finished_run, tmp_path) as (terminal, process):
        assert "captions" in terminal.expect("sql> ")
        terminal.type("SELECT nope;\n")
        assert "error: Binder Error" in terminal.expect("Error.*sql> ")
        terminal.type("SELECT 'a;' AS x, -- not the end;\n")
        terminal.expect(r"\.\.\.> ")
        terminal.type("count(*) AS n FROM captions; SELECT 7 AS seven;\n")
        assert "seven" in terminal.expect("156.*seven.*sql> ")
        terminal.type(".columns pairs\n")
        terminal.expect("null where kept.*sql> ")
        terminal.type(".nonsense\n")
        terminal.expect(r"\.tables.*sql> ")
        terminal.type("\x04")
        assert process.wait(timeout=180) == 0
    assert "SELECT nope;" in (tmp_path / "blip-bootstrap" / "history").read_text()


def test_ctrl_c_drops_a_line_or_stops_a_question_and_not_the_session(finished_run: Path, tmp_path: Path) -> None:
    with prompt(finished_run, tmp_path) as (terminal, process):
        terminal.expect("sql> ")
        terminal.type("SELECT half of a\n")
        terminal.expect(r"\.\.\.> ")
        time.sleep(0.5)  # the prompt is written before its reader waits; an interrupt between the two is seen later
        terminal.type("\x03")
        terminal.expect("sql> ")
        terminal.type("SELECT sum(a.range * b.range) FROM range(10000000) a, range(1000000) b;\n")
        terminal.expect("range")
        time.sleep(1.5)
        terminal.type("\x03")
        terminal.expect("stopped.*sql> ")
        terminal.type("SELECT 40 + 2 AS answer;\n")
        terminal.expect("42.*sql> ")
        terminal.type("exit\n")
        assert process.wait(timeout=180) == 0


def test_parquet_is_not_written_to_a_terminal(finished_run: Path, tmp_path: Path) -> None:
    with prompt(finished_run, tmp_path, "--format", "parquet") as (terminal, process):
        terminal.expect("give --out FILE")
        assert process.wait(timeout=180) == 2


def piped(root: Path, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, str(root), *options], input=text, capture_output=True, text=True, check=False)


def test_what_comes_by_a_pipe_is_answered_without_a_prompt(finished_run: Path) -> None:
    done = piped(finished_run, "SELECT 1 AS a,\n  1 AS b", "--format", "csv")
    assert (done.returncode, done.stdout, done.stderr) == (0, "a,b\n1,1\n", "")
    done = piped(finished_run, "SELECT 'one' AS a; SELECT 'two' AS b;")
    assert re.search("one.*two", done.stdout, re.DOTALL)


@pytest.mark.parametrize(
    ("text", "options", "told"),
    [("SELECT nope", (), "Binder Error"), ("SELECT 1", ("--out", "no/such/folder/x.csv"), "cannot be written")],
)
def test_a_mistake_in_a_pipe_is_one_line_and_exit_2(
    finished_run: Path, text: str, options: tuple[str, ...], told: str
) -> None:
    done = piped(finished_run, text, *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1


LATE_ERROR = "SELECT CASE WHEN range > 900000 THEN error('read') ELSE 1 END AS a FROM range(1000000)"


def test_a_table_reads_no_more_than_it_shows(finished_run: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    run_sql(finished_run, f"{LATE_ERROR}; -- the last")
    assert b"1,000,000 rows, the first 200 of which are shown" in capsysbinary.readouterr().out


def test_the_other_forms_are_written_as_the_answer_comes(finished_run: Path, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("of before")
    with pytest.raises(InputError, match=r"^Invalid Input Error: read$"):
        run_sql(finished_run, LATE_ERROR, "csv", tmp_path / "a.csv")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.csv", "of before")]
    run_sql(finished_run, "SELECT range AS a FROM range(30000)", "parquet", tmp_path / "b.parquet")
    assert pq.read_table(tmp_path / "b.parquet")["a"].to_pylist() == list(range(30000))
    with connect(finished_run) as connection, query_batches(connection, "FROM range(30000)") as (_, batches):
        sizes = [batch.num_rows for batch in batches]
    assert sum(sizes) == 30000
    assert max(sizes) <= BATCH_ROWS


def test_nothing_or_too_much_is_no_question(finished_run: Path) -> None:
    with pytest.raises(InputError, match="no question"):
        run_sql(finished_run, "-- nothing")
    with pytest.raises(InputError, match="2 questions at once; --format json"):
        run_sql(finished_run, "SELECT 1; SELECT 2", "json")


def test_a_file_that_is_a_link_stays_one(finished_run: Path, tmp_path: Path) -> None:
    (tmp_path / "file.csv").write_text("of before")
    (tmp_path / "link.csv").symlink_to("file.csv")
    run_sql(finished_run, "SELECT 1 AS a", "csv", tmp_path / "link.csv")
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "file.csv").read_text() == "a\n1\n"
    assert len(list(tmp_path.iterdir())) == 2


def test_standard_output_by_its_name_is_written_to(finished_run: Path) -> None:
    done = piped(finished_run, "SELECT 1 AS a", "--format", "csv", "--out", "/dev/stdout")
    assert (done.returncode, done.stdout, done.stderr) == (0, "a\n1\n", "")
