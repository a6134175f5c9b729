"""`status`: how far a run is, asked while a command is at work and after it ended in any way."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from blip_bootstrap.cli.app import app
from blip_bootstrap.errors import RunFailed
from blip_bootstrap.loop import at_work
from blip_bootstrap.loop.at_work import NOTE, noted, read_note
from blip_bootstrap.progress import Progress
from blip_bootstrap.storage.lock import held_by, locked
from blip_bootstrap.storage.remote import opened
from blip_bootstrap.stores import store
from tests.support.moto_store import Bucket, environment, moto_server
from tests.support.other_process import locked_elsewhere
from tests.support.stub_rounds import StubRounds

COUNTS = {"success": 7, "timeout": 2, "http 4xx": 1, "retries": 3}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(at_work, "EVERY_S", 0.02)


def asked(root: Path | str, *options: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["status", "--root", str(root), *options])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def told(root: Path | str) -> dict[str, Any]:
    code, said = asked(root, "--json")
    assert code == 0, said
    found: dict[str, Any] = json.loads(said)
    return found


def until(what: Callable[[], Any]) -> None:
    end = time.monotonic() + 20
    while not what():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


def work_done(root: Path) -> int:
    return int((read_note(root).get("work") or {}).get("done", -1))


def test_no_run_is_one_clear_line(tmp_path: Path) -> None:
    for folder in (tmp_path / "none", tmp_path):
        done = subprocess.run(
            [sys.executable, "-m", "blip_bootstrap", "status", "--root", str(folder)], capture_output=True, text=True
        )
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert "run has begun here" in done.stderr or "no such run" in done.stderr


def test_a_run_at_work_tells_its_step_its_holder_its_rate_and_its_failures(tmp_path: Path) -> None:
    with locked_elsewhere(tmp_path), noted(tmp_path, 1, "images", "download_images"):
        holder = held_by(tmp_path)
        assert holder
        assert (holder.alive, holder.pid != os.getpid(), bool(holder.user and holder.host)) == (True, True, True)
    with locked(tmp_path), noted(tmp_path, 1, "images", "download_images"), Progress("download", 40, "images") as bar:
        bar.begin(4)
        bar.update(10, **COUNTS)
        until(lambda: work_done(tmp_path) == 10)
        found, (_, said) = told(tmp_path), asked(tmp_path)
    assert (found["state"], found["holder"]["pid"], found["holder"]["alive"]) == ("at work", os.getpid(), True)
    assert (found["round"], found["artifact"], found["step"]) == (1, "images", "download_images")
    assert (found["done"], found["total"], found["unit"]) == (10, 40, "images")
    assert (found["failures"], found["retries"]) == ({"timeout": 2, "http_4xx": 1}, 3)
    assert found["counts"] == {"success": 7}
    assert found["seconds_left"] == pytest.approx(30 / found["per_second"], rel=0.01), "of this run's 6 alone"
    lines = said.splitlines()
    assert lines[0].startswith(f"{tmp_path}: at work since ")
    assert lines[0].endswith(f"process {os.getpid()})")
    assert lines[1].startswith("  images: download_images, since ")
    assert lines[2].startswith("  10 of 40 images, ")
    assert lines[2].endswith(" left")
    assert lines[3:] == ["  failures: timeout 2, http_4xx 1", "  counts: success 7", "  retries: 3"]


def test_a_killed_run_tells_where_it_was(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from blip_bootstrap.storage.lock import locked\n"
        "from blip_bootstrap.loop.at_work import noted; from blip_bootstrap.progress import Progress\n"
        f"root = Path({str(tmp_path)!r})\n"
        "with locked(root), noted(root, 2, 'round-02/captions', 'caption_and_score'):\n"
        "    with Progress('caption', 9, 'images') as bar: bar.update(5); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as other:
        until(lambda: work_done(tmp_path) == 5)
        other.send_signal(signal.SIGKILL)
        other.wait()
    found, (_, said) = told(tmp_path), asked(tmp_path)
    assert (found["state"], found["holder"]["pid"], found["holder"]["alive"]) == ("killed", other.pid, False)
    assert (found["artifact"], found["done"], found["total"]) == ("round-02/captions", 5, 9)
    assert f"process {other.pid}) was killed\n  round-02/captions: caption_and_score" in said
    assert " left" not in said


@pytest.mark.parametrize(
    ("error", "state", "words"),
    [
        (RunFailed("pairs: no\nspace"), "failed", "failed: pairs: no space"),
        (KeyboardInterrupt(), "interrupted", "was i"),
    ],
)
def test_a_step_that_ended_early_tells_how(error: BaseException, state: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(type(error)), locked(tmp_path), noted(tmp_path, 0, "round-00/pairs", "take_web_pairs"):
        raise error
    found = told(tmp_path)
    assert (found["state"], found["artifact"], found["done"]) == (state, "round-00/pairs", None)
    assert words in asked(tmp_path)[1]


def test_rounds_tell_what_is_made_and_leave_no_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = StubRounds(tmp_path, monkeypatch)
    during: list[dict[str, Any]] = []
    stub_step = stub._step("pretrain")

    def pretrain(out: Path, *inputs: Any, config: Any = None) -> dict[str, int]:
        until(lambda: read_note(stub.root).get("step") == "pretrain")
        during.append(told(stub.root))
        return stub_step(out, *inputs, config=config)

    monkeypatch.setattr("blip_bootstrap.loop.rounds.pretrain", pretrain)
    stub.run(1)
    assert [(one["state"], one["round"], one["artifact"]) for one in during] == [
        ("at work", 0, "round-00/model"), ("at work", 1, "round-01/model"),
    ]  # fmt: skip
    assert [one["finished"] for one in during[1]["rounds"]] == [True, False]
    assert "images" in [one["artifact"] for one in during[0]["made"]]
    found, (_, said) = told(stub.root), asked(stub.root)
    assert (found["state"], "step" in found, (stub.root / NOTE).exists()) == ("finished", False, False)
    with locked(stub.root):
        old = {"artifact": "images", "step_since": "2026-01-01T00:00:00+00:00", "ended": None, "pid": os.getpid()}
        (stub.root / NOTE).write_text(json.dumps(old | {"host": socket.gethostname()}))
        assert "step" not in told(stub.root), "it is made since the note was written"
        assert "at work" in asked(stub.root)[1]
        assert "between two steps" in asked(stub.root)[1]
    (stub.root / NOTE).unlink()
    said = asked(stub.root)[1]
    assert "finished; no command is at work\n  round 0 finished, round 1 finished\n  made: " in said
    assert "round-01/pairs (0.0 s)" in said


def test_a_note_that_cannot_be_written_stops_no_step(tmp_path: Path) -> None:
    (tmp_path / NOTE).mkdir()
    with locked(tmp_path), noted(tmp_path, 0, "images", "download_images"):
        done = True
    assert done
    assert not list(tmp_path.glob("*.tmp"))


def test_asking_disturbs_no_run_that_begins(tmp_path: Path) -> None:
    with locked(tmp_path):
        pass
    until_then = time.monotonic() + 0.3
    with subprocess.Popen(
        [sys.executable, "-c", "import sys, time\nfrom pathlib import Path\n"
         "from blip_bootstrap.storage.lock import held_by\nprint(flush=True)\n"
         f"while True: held_by(Path({str(tmp_path)!r}))"], stdout=subprocess.PIPE,
    ) as asking:  # fmt: skip
        assert asking.stdout
        asking.stdout.readline()
        while time.monotonic() < until_then:
            with locked(tmp_path):
                pass
        asking.kill()


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    with moto_server() as endpoint:
        for name, value in environment(endpoint, tmp_path / "cache").items():
            monkeypatch.setenv(name, value)
        found = Bucket(endpoint)
        found.clear()
        yield found


def test_a_run_on_a_store_is_told_on_another_machine(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, key = "s3://bucket/runs/mine", f"runs/mine/{NOTE}"
    bucket["runs/mine/config.yaml"] = b"root: x\n"
    root = opened(uri)
    with locked(root), noted(root, 1, "images", "download_images"), Progress("download", 40, "images") as bar:
        until(lambda: key in bucket.names())
        first = bucket[key]
        bar.update(10)
        until(lambda: work_done(root) == 10)
        assert bucket[key] == first, "a store is written to every half minute at most"
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
        store.forget_stores()
        found = told(uri)
        assert (found["root"], found["state"], found["step"]) == (uri, "at work", "download_images")
        assert (found["holder"]["pid"], found["holder"]["alive"]) == (os.getpid(), True)
