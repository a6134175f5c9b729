"""Progress as a log file gets it: a line when something changed, now and then, and honest about the time left."""

from __future__ import annotations

import errno
import io
import sys
import time

import pytest

from blip_bootstrap import progress as progress_module
from blip_bootstrap.progress import Progress, tell


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(time, "monotonic", found)
    return found


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line.strip() for line in capsys.readouterr().err.splitlines()]


def test_at_most_one_line_in_half_a_minute(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("download", 1200, unit="images") as progress:
        for second in range(1, 601):
            clock.now += 1
            progress.update(second * 2)
    printed = lines(capsys)
    assert len(printed) == 20  # the last of them tells the end already
    assert printed[0] == "download  60/1,200 images  2.0/s  30 s  570 s left"
    assert printed[-1] == "download  1,200/1,200 images  2.0/s  600 s"


def test_no_line_where_nothing_changed(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """A night in which a server hangs is no thousand lines."""
    with Progress("download", 100, unit="images") as progress:
        for _ in range(40_000):
            clock.now += 0.5
            progress.update(7, success=5)
        assert len(lines(capsys)) == 1
        clock.now += 1
        progress.update(8, success=5)
        clock.now += 1
        progress.update(8, success=6)  # too soon for a line of its own
        assert lines(capsys) == ["download  8/100 images  0.0/s  20001 s  230012 s left  success 5"]
        clock.now += 40
        progress.update(8, success=6)  # said now
        clock.now += 40
        progress.update(8, success=6)
        assert len(lines(capsys)) == 1


def test_the_time_left_is_of_this_runs_work_alone(clock: Clock) -> None:
    progress = Progress("caption", 1000, unit="images")
    clock.now += 50  # models are loaded
    progress.begin(900)
    assert progress.line() == "  caption  900/1,000 images  0.0/s  0 s"
    clock.now += 10
    progress.update(920)
    assert progress.line() == "  caption  920/1,000 images  2.0/s  10 s  40 s left"
    clock.now += 40
    progress.update(1000)
    assert progress.line() == "  caption  1,000/1,000 images  2.0/s  50 s"


def test_work_that_was_lost_counts_again_when_it_is_done_again(clock: Clock) -> None:
    """A training goes on from its checkpoint, which is older than the last line of its log."""
    progress = Progress("pretrain", 1000, unit="steps")
    progress.begin(500)
    clock.now += 30
    progress.update(400)
    clock.now += 10
    progress.update(500)
    assert progress.line() == "  pretrain  500/1,000 steps  10.0/s  10 s  50 s left"


def test_what_was_done_before_is_no_change(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("pretrain", 10, unit="steps") as progress:
        progress.begin(4)
        clock.now += 100
        progress.update(4)
        assert lines(capsys) == []
    assert lines(capsys) == ["pretrain  4/10 steps  0.0/s  100 s"]


class Closed(io.StringIO):
    """Standard error of a terminal that was closed, or of a pipe that nobody reads; `kind` is what a write raises."""

    kind: Exception = ValueError("I/O operation on closed file")

    def write(self, text: str) -> int:
        raise self.kind

    def isatty(self) -> bool:
        return isinstance(self.kind, OSError) and self.kind.errno == errno.EIO


@pytest.mark.parametrize(
    "kind", [ValueError("closed file"), BrokenPipeError(errno.EPIPE, "Broken pipe"), OSError(errno.EIO, "hung up")]
)
def test_work_goes_on_where_standard_error_was_closed(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: Exception
) -> None:
    """In order: a stream that was closed, a pipe without a reader (for which rich ends the process), a terminal."""
    monkeypatch.setattr(progress_module, "_failures", set())
    monkeypatch.setattr(Closed, "kind", kind)
    monkeypatch.setattr(sys, "stderr", Closed())
    with Progress("download", 100, unit="images") as progress:
        for done in range(5):
            clock.now += 60
            progress.update(done)
        tell("and a line of its own")
    assert progress.done == 4
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("progress cannot be shown (")
