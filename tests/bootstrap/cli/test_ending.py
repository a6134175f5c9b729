"""SIGTERM, terminals of few letters, runs that cannot be written, and the label page beside an idle connection."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from blip_bootstrap.errors import InputError
from blip_bootstrap.labels.page import HOST, serve_labels
from blip_bootstrap.labels.sample import draw_sample
from blip_bootstrap.report.overview_page import write_overview
from blip_bootstrap.report.round_page import write_report
from blip_bootstrap.schemas import tables
from blip_bootstrap.storage import parquet
from blip_bootstrap.storage.labels import read_labels
from tests.support.finished_run import make_run

WAITS = """
import sys, time, typer
from contextlib import suppress
from blip_bootstrap.__main__ import _end, _prepare
from blip_bootstrap.ending import ended_early, sigterm_held
_prepare()
try:
    with ended_early("the same command goes on from here"):
        {body}
except SystemExit as end:
    _end(end.code)
except typer.Exit as end:
    _end(end.exit_code)
"""
GO = "print('go', flush=True); time.sleep"
BODIES = {
    "waits": f"{GO}(60)",
    "catches Exception and Ctrl-C": f"with suppress(Exception, KeyboardInterrupt): {GO}(60)",
    "loses the first": f"\n        with suppress(SystemExit): {GO}(60)\n        time.sleep(60)",
    "holds it": f"\n        with sigterm_held(): {GO}(2); print('kept', flush=True)\n        time.sleep(60)",
}


@pytest.mark.parametrize("body", BODIES)
def test_sigterm_ends_with_143_and_a_line(body: str) -> None:
    command = [sys.executable, "-c", WAITS.format(body=BODIES[body])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout
        child.stdout.readline()
        child.terminate()
        if body != "loses the first":
            child.terminate()  # `timeout` sends two
        out, told = child.communicate(timeout=60)
    assert (child.returncode, told) == (143, "terminated; the same command goes on from here\n")
    assert ("kept" in out) == (body == "holds it")


@pytest.mark.parametrize("body", ["waits", "loses the first"])
def test_ctrl_c_ends_with_130_and_a_line(body: str) -> None:
    lost = "loses the first"
    bodies = BODIES | {lost: f"\n        with suppress(KeyboardInterrupt): {GO}(60)\n        time.sleep(60)"}
    command = [sys.executable, "-c", WAITS.format(body=bodies[body])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout
        child.stdout.readline()
        child.send_signal(signal.SIGINT)
        told = child.communicate(timeout=60)[1]
    assert (child.returncode, told) == (130, "interrupted; the same command goes on from here\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_no_exception_ends_is_left_after_a_while(number: signal.Signals) -> None:
    """As where a library that was interrupted waits for itself."""
    stuck = "\n        while True:\n            with suppress(BaseException): print('go', flush=True); time.sleep(60)"
    soon = "import blip_bootstrap.ending as ending\nending.AGAIN_S, ending.ENOUGH_S = .2, .5\n"
    command = [sys.executable, "-c", soon + WAITS.format(body=stuck)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout
        child.stdout.readline()
        child.send_signal(number)
        told = child.communicate(timeout=60)[1]
    word, code = {signal.SIGINT: ("interrupted", 130), signal.SIGTERM: ("terminated", 143)}[number]
    assert (child.returncode, told) == (code, f"{word}; the same command goes on from here\n")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_every_terminal_shows_something(tmp_path: Path, encoding: str) -> None:
    make_run(tmp_path)
    for name, table in (
        ("images", tables.IMAGES),
        ("round-01/captions", tables.CAPTIONS),
        ("round-01/pairs", tables.PAIRS),
    ):
        file = tmp_path / name / "part-00000.parquet"
        rows = [row | {"caption": "кот é \U0001f600"} for row in parquet.read_parquet(file).to_pylist()]
        parquet.write_parquet(file, parquet.rows_to_table(rows, table), table)
    commands = [
        [*words, "--root", str(tmp_path)]
        for words in (
            ["why", "0000000001"], ["audit"], ["diff", "--rounds", "0", "1"],
            ["sql", "SELECT caption FROM pairs WHERE round = 1 ORDER BY key LIMIT 3"],
        )
    ]  # fmt: skip
    for words, told in zip([*commands, ["--help"]], said_by([*commands, ["--help"]], encoding), strict=True):
        said = told.decode(encoding)
        assert "\\u250" not in said, "lines of a table as escapes"
        if words[0] in ("why", "sql"):
            assert ("кот" if encoding == "utf-8" else r"\u043a\u043e\u0442") in said


ONE_AFTER_ANOTHER = """
import json, sys
from blip_bootstrap.__main__ import _prepare
_prepare()
from blip_bootstrap.cli.app import app
for words in json.loads(sys.argv[1]):
    try:
        app(words)
    except SystemExit as end:
        assert not end.code, words
    print("\\n== end ==", flush=True)
"""


def said_by(commands: list[list[str]], encoding: str) -> list[bytes]:
    """What each command prints on a terminal of an encoding; one process has its start but once."""
    command = [sys.executable, "-c", ONE_AFTER_ANOTHER, json.dumps(commands)]
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run(command, capture_output=True, env=environment, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    *told, rest = done.stdout.split(b"\n== end ==\n")
    assert not rest
    return told


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    """A run that nothing can be written to, for root either: where a folder would be, there is a file."""
    make_run(tmp_path)
    (tmp_path / "labels").write_text("")
    return tmp_path


def test_a_run_that_cannot_be_written_is_one_line(sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"labels/round-01\.parquet: cannot be written"):
        draw_sample(sealed, 1, size=4)

    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(InputError, match=r"round-01/report.html: cannot be written \(Read-only"):
        write_report(sealed, 1)
    with pytest.raises(InputError, match=r"report.html: cannot be written \(Read-only"):
        write_overview(sealed)


def test_a_stranger_asks_and_cannot_write(tmp_path: Path) -> None:
    """As another user, whom the run's folders do not let write."""
    if os.getuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("needs root and setpriv")
    command = ["setpriv", "--reuid=65534", "--clear-groups", sys.executable, "-m", "blip_bootstrap"]
    root = Path("/var/tmp") / f"blip-bootstrap-test-{os.getpid()}"
    try:
        make_run(root)
        root.chmod(0o755)
        if subprocess.run([*command, "--version"], capture_output=True, check=False).returncode:
            pytest.skip("another user cannot run this Python")
        for words, code in ((["sql", "SELECT 1"], 0), (["report"], 2), (["audit", "sample"], 2)):
            done = subprocess.run(
                [*command, *words, "--root", str(root)], capture_output=True, text=True, timeout=120, check=False
            )
            assert done.returncode == code, done.stderr
            assert code == 0 or ("cannot be written" in done.stderr and done.stderr.count("\n") == 1), done.stderr
    finally:
        shutil.rmtree(root, ignore_errors=True)


def test_an_idle_connection_does_not_hold_up_the_label_page(tmp_path: Path) -> None:
    make_run(tmp_path)
    path = draw_sample(tmp_path, 1, size=2)
    said: list[str] = []
    told = threading.Event()

    def say(line: str) -> None:
        said.append(line)
        told.set()

    serving = threading.Thread(target=serve_labels, args=(tmp_path, 1, 0, say))
    serving.start()
    assert told.wait(60)
    port = int(said[0].split("/")[2].rpartition(":")[2])
    with socket.create_connection((HOST, port)), socket.create_connection((HOST, port)) as half:
        half.sendall(b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 50\r\n\r\nat=")
        with urllib.request.urlopen(f"http://{HOST}:{port}/", timeout=30) as response:
            page = response.read().decode()
        token = page.partition('name="token" value="')[2].partition('"')[0]
        for at in ("0", "1"):
            body = urllib.parse.urlencode({"at": at, "token": token, "answer": "yes"}).encode()
            with urllib.request.urlopen(f"http://{HOST}:{port}/", data=body, timeout=30) as response:
                page = response.read().decode()
    assert "All texts have an answer" in page
    serving.join(60)
    assert not serving.is_alive()
    assert {row["answer"] for row in read_labels(path)} == {"yes"}
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


ABORTS = """
import atexit, ctypes, sys
from blip_bootstrap.ending import skip_farewells

libc = ctypes.CDLL(None)
libc.on_exit(libc.abort, None)  # stands for what is destroyed below a thread of a library
atexit.register(print, "what Python does last")
if "skip" in sys.argv:
    atexit.register(skip_farewells)
print("said")
sys.exit(7)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="on_exit is of glibc")
def test_a_process_ends_without_what_libraries_do_at_the_end_of_one() -> None:
    command = [sys.executable, "-c", ABORTS]
    died = subprocess.run(command, capture_output=True, text=True)
    assert died.returncode == -signal.SIGABRT, "what this is against"
    done = subprocess.run([*command, "skip"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (7, "said\nwhat Python does last\n", "")
