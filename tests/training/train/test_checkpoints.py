"""Checkpoints: the last two, whole; damaged ones, other settings and devices, full disks, and that of the last step."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from blip_bootstrap.errors import CheckpointError, RunFailed
from blip_training.feed.batches import FEED
from blip_training.runtime.workers import Worker
from blip_training.train import checkpoints
from blip_training.train.checkpoint_files import (
    checkpoint_path,
    checkpoints_in,
    delete_checkpoints,
    newest_step,
    step_of,
)
from blip_training.train.run import Run
from tests.support.checkpoints import damage, newest_state
from tests.support.drawn import optimizer_config, read_log

CPU = Worker(torch.device("cpu"))

STEPS = 8


def train(out: Path, until: int = STEPS, **settings: Any) -> tuple[nn.Module, dict[str, int | float], list[int]]:
    """Train a layer, up to a step after which the process would be dead: the layer, the counts, and the steps done."""
    out.mkdir(exist_ok=True)
    torch.manual_seed(0)
    module = nn.Linear(3, 1)
    done: list[int] = []
    config = {"steps": STEPS, "checkpoint_every_steps": 2, "log_every_steps": 3, **settings}
    run = Run(out, module, optimizer_config(**config), CPU)
    for step in run.count():
        if step == until:
            return module, {}, done
        done.append(step)
        run.backward({"loss": module(torch.randn(4, 3, generator=run.generator)).square().mean()})
        run.update()
    return module, run.finish(), done


def steps_kept(out: Path) -> list[int]:
    return [step_of(one) for one in checkpoints_in(out)]


def same(one: nn.Module, other: nn.Module) -> bool:
    both = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(*pair) for pair in both)


def test_the_last_two_are_kept_by_their_steps(tmp_path: Path) -> None:
    train(tmp_path, until=3)
    assert steps_kept(tmp_path) == [2]
    train(tmp_path, until=7)
    assert steps_kept(tmp_path) == [6, 4]
    assert checkpoints_in(tmp_path)[0] == tmp_path / ".checkpoints/checkpoint-00000006.pt"
    assert not list(tmp_path.rglob("*.tmp"))


def turn_a_weight(path: Path) -> None:
    """Turn a bit of a weight: torch itself loads such a file."""
    data = bytearray(path.read_bytes())
    data[data.index(torch.load(path, weights_only=True)["model"]["weight"].numpy().tobytes()) + 2] ^= 4
    path.write_bytes(data)
    assert step_of(path) == torch.load(path, weights_only=True)["step"]


@pytest.mark.parametrize("how", ["emptied", "cut", "turned"])
def test_a_damaged_one_is_told_and_the_one_before_it_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    straight, counts, _ = train(tmp_path / "straight")
    train(tmp_path / "killed", until=7)
    newest = checkpoints_in(tmp_path / "killed")[0]
    if how == "turned":
        turn_a_weight(newest)
    else:
        damage(newest, how)
    killed, again, done = train(tmp_path / "killed")
    assert done == [4, 5, 6, 7]
    assert same(straight, killed)
    assert again.keys() == counts.keys()
    assert read_log(tmp_path / "killed") == read_log(tmp_path / "straight")
    told = f"{tmp_path / 'killed'}: checkpoint-00000006.pt damaged; going on from checkpoint-00000004.pt"
    assert caplog.messages == [told]
    assert steps_kept(tmp_path / "killed") == [8, 6]


def test_both_damaged_end_it_in_a_line_and_nothing_is_deleted(tmp_path: Path) -> None:
    train(tmp_path, until=7)
    for path in checkpoints_in(tmp_path):
        turn_a_weight(path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(
        RunFailed, match=r"checkpoint-00000006\.pt and .*4\.pt damaged, .*put one back .*step 0$"
    ) as told:
        train(tmp_path)
    assert told.value.exit_code == 1
    assert "\n" not in str(told.value)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_after_a_damaged_one_of_a_later_step_two_whole_ones_are_kept(tmp_path: Path) -> None:
    train(tmp_path, until=7)
    damage(checkpoints_in(tmp_path)[0], "cut")
    train(tmp_path, until=6, checkpoint_every_steps=5)
    assert steps_kept(tmp_path) == [5, 4]


def as_before(out: Path) -> None:
    """Leave the newest checkpoint as versions before would have left it."""
    state = newest_state(out)
    delete_checkpoints(out)
    state["log"] = {name: value for name, value in state["log"].items() if name not in ("lines", "last")}
    torch.save(
        {name: value for name, value in state.items() if name not in ("feed", "settings")}, out / "checkpoint.pt"
    )


def test_that_of_versions_before_is_the_oldest_and_told_since_its_samples_come_in_another_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, _, _ = train(tmp_path / "straight")
    train(tmp_path / "killed", until=5)
    as_before(tmp_path / "killed")
    assert steps_kept(tmp_path / "killed") == [0]
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: .* \(feed 1, now 2\); go on with the version"):
        train(tmp_path / "killed")
    monkeypatch.setattr(checkpoints, "FEED", 1)
    killed, _, done = train(tmp_path / "killed")
    assert done == [4, 5, 6, 7]
    assert same(straight, killed)
    assert read_log(tmp_path / "killed") == read_log(tmp_path / "straight")
    assert steps_kept(tmp_path / "killed") == [8, 6]


def test_after_the_last_step_nothing_is_trained_again(tmp_path: Path) -> None:
    straight, counts, _ = train(tmp_path)
    killed, again, done = train(tmp_path)
    assert done == []
    assert same(straight, killed)
    assert again == counts
    delete_checkpoints(tmp_path)
    assert not (tmp_path / ".checkpoints").exists()


def test_a_model_without_a_checkpoint_is_told_and_not_trained_anew(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(
        RunFailed, match=r"model\.safetensors: a model, without .*; put that back from a copy, or delete"
    ):
        train(tmp_path)
    train(tmp_path, steps=0)  # nothing would be lost


def test_samples_in_another_order_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path, until=3)
    monkeypatch.setattr(checkpoints, "FEED", FEED + 1)
    with pytest.raises(CheckpointError, match=r"0002\.pt: .* samples in another order \(feed 2, now 3\)"):
        train(tmp_path)
    assert steps_kept(tmp_path) == [2]


def test_other_settings_are_told_and_what_changes_no_sample_is_not(tmp_path: Path) -> None:
    train(tmp_path, until=3)
    with pytest.raises(CheckpointError, match=r"by other settings \(lr 0.\d+, now 0\.5; steps 8, now 9\); delete it"):
        train(tmp_path, steps=9, lr=0.5)
    _, _, done = train(tmp_path, dtype="bfloat16", log_every_steps=1)
    assert done[0] == 2


def test_how_another_device_computes_adamw_is_not_taken_over(tmp_path: Path) -> None:
    straight, _, _ = train(tmp_path / "straight")
    train(tmp_path / "killed", until=3)
    state = newest_state(tmp_path / "killed")
    for group in state["optimizer"]["param_groups"]:
        group["capturable"] = True  # of a GPU; on a CPU AdamW refuses it
    torch.save(state, checkpoint_path(tmp_path / "killed", 2))
    killed, _, _ = train(tmp_path / "killed")
    assert same(straight, killed)
    assert not newest_state(tmp_path / "killed")["optimizer"]["param_groups"][0]["capturable"]


@pytest.mark.parametrize("how", ["deleted", "emptied", "cut", "turned"])
def test_a_damaged_log_costs_no_step_and_no_line(tmp_path: Path, how: str) -> None:
    train(tmp_path / "straight")
    train(tmp_path / "killed", until=7)
    damage(tmp_path / "killed/metrics.jsonl", how)
    _, _, done = train(tmp_path / "killed")
    assert done == [6, 7]
    assert read_log(tmp_path / "killed") == read_log(tmp_path / "straight")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.ESTALE, errno.EROFS])
def test_a_line_that_the_disk_refuses_is_written_with_the_next_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    train(tmp_path / "straight", log_every_steps=1)
    real: Any = Path.open
    appended: list[Path] = []

    def opened(path: Path, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if mode == "a" and path.name == "metrics.jsonl":
            appended.append(path)
            if len(appended) == 3:
                raise OSError(number, os.strerror(number))
        return real(path, mode, *rest, **options)

    monkeypatch.setattr(Path, "open", opened)
    _, _, done = train(tmp_path / "refused", log_every_steps=1)
    assert done == [*range(STEPS)]
    assert read_log(tmp_path / "refused") == read_log(tmp_path / "straight")
    assert len([line for line in caplog.messages if "metrics.jsonl: a line cannot be written (" in line]) == 1


def full_between(monkeypatch: pytest.MonkeyPatch, steps: Callable[[int], bool]) -> None:
    """Let the disk be full where a checkpoint of such a step is written."""
    real = torch.save

    def save(state: dict[str, Any], file: Any) -> None:
        file.write(b"half")
        if steps(state["step"]):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        file.seek(0)
        real(state, file)

    monkeypatch.setattr(torch, "save", save)


def test_a_full_disk_is_told_and_the_training_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, _, _ = train(tmp_path / "straight")
    full_between(monkeypatch, lambda step: step in (4, 6))
    train(tmp_path / "full", until=7)
    assert steps_kept(tmp_path / "full") == [2]
    assert caplog.messages[0] == (
        "the checkpoint of step 4 could not be written (no space left); the training goes on, and would start again "
        "after step 2"
    )
    full, counts, done = train(tmp_path / "full")
    assert done == [2, 3, 4, 5, 6, 7]
    assert counts["checkpoints_failed"] == 2
    assert same(straight, full)
    assert steps_kept(tmp_path / "full") == [8, 2]
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_disk_that_stays_full_ends_it_and_the_older_checkpoint_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_between(monkeypatch, lambda step: step > 2)
    with pytest.raises(RunFailed, match=r": 3 checkpoints in a row cannot be written \(no space left\); make room, or"):
        train(tmp_path, checkpoint_every_steps=1)
    assert steps_kept(tmp_path) == [2, 1]


def test_a_large_one_is_written_behind_the_steps_and_holds_the_weights_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path / "straight", until=5)
    monkeypatch.setattr(checkpoints, "BACKGROUND_BYTES", 1)
    train(tmp_path / "behind", until=5)
    while newest_step(tmp_path / "behind") < 4:  # the thread goes on after who asked it
        time.sleep(0.01)
    straight, behind = newest_state(tmp_path / "straight"), newest_state(tmp_path / "behind")
    assert straight["step"] == behind["step"] == 4
    assert all(torch.equal(straight["model"][name], behind["model"][name]) for name in straight["model"])


def test_what_counts_as_progress_needs_no_torch(tmp_path: Path) -> None:
    assert newest_step(tmp_path) == 0
    checkpoint_path(tmp_path, 1200).parent.mkdir()
    for step in (1200, 123456789):
        checkpoint_path(tmp_path, step).touch()
    (tmp_path / ".checkpoints/.checkpoint-00002000.pt.tmp").touch()
    assert newest_step(tmp_path) == 123456789
