"""How far a training is: as its log here says where it is written here, else as the run's store has it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from blip_pipelines.train import runner
from blip_pipelines.train.runner import Followed


def log_of(steps: int) -> str:
    return "".join(f"{json.dumps({'step': step, 'loss': 1.0})}\n" for step in range(1, steps + 1))


def test_a_log_of_a_run_on_a_disk_is_read_from_the_first_line_on(tmp_path: Path) -> None:
    log = Followed(tmp_path / "metrics.jsonl")
    assert log.last_line() == {}
    log.file.write_text(log_of(2) + '{"step": 3, "lo')
    assert log.last_line() == {}, "a line that is being written"
    log.file.write_text(log_of(3))
    assert log.last_line() == {"step": 3, "loss": 1.0}


def test_a_copy_of_the_command_before_does_not_hide_what_another_machine_has_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text(log_of(20))
    log = Followed(file)
    monkeypatch.setattr(runner, "open_input", lambda path: io.BytesIO(log_of(35).encode()))
    assert (log.last_line()["step"], log.is_written_here) == (35, False)
    file.write_text(log_of(21))
    assert (log.last_line()["step"], log.is_written_here) == (21, True)
