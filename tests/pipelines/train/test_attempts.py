"""A training by several workers that fail again and again: what counts, and what is told."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blip_bootstrap.config import FinetuneConfig, OptimizerConfig, PretrainConfig, RayConfig
from blip_bootstrap.errors import InputError, RunFailed
from blip_pipelines.cluster.sees_root import Roots
from blip_pipelines.failures.errors import packed
from blip_pipelines.train import causes, on_ray, trainer
from blip_pipelines.train.runner import Training, train
from blip_pipelines.train.steps import sizes_of
from blip_training.train.checkpoint_files import checkpoint_path
from tests.support.drawn import pretrain_config, read_log

Happens = Callable[[int, Path], None]
"""What befalls an attempt with so many workers, which leaves in a folder what came of it."""


def job_in(out: Path, **changes: Any) -> Training:
    out.mkdir(exist_ok=True)
    return Training("pretrain", out, 9, dict, **{"num_workers": 4, **changes})


def go_through(
    monkeypatch: pytest.MonkeyPatch, job: Training, *happen: Happens, room: tuple[int, ...] = ()
) -> tuple[dict[str, Any], list[int]]:
    """Counts and numbers of workers of a training whose attempts are these; `room` is what the first of them find."""
    rooms = list(room)
    numbers: list[int] = []

    def attempt(job: Training, num_workers: int, gpu: bool, scratch: Path) -> None:
        numbers.append(num_workers)
        scratch.mkdir(exist_ok=True)
        happen[len(numbers) - 1](num_workers, scratch)

    monkeypatch.setattr(trainer, "_attempt", attempt)
    monkeypatch.setattr(trainer, "PAUSE_S", 0.0)
    monkeypatch.setattr(
        trainer, "wait_for_room", lambda job, gpu, timeout_s: rooms.pop(0) if rooms else job.num_workers
    )
    monkeypatch.setattr(trainer, "machines", dict)
    monkeypatch.setattr(causes, "machines", dict)
    return trainer.run_trainer(job, gpu=False, nodes_timeout_s=60.0), numbers


def dies(step: int = 0) -> Happens:
    """An attempt that ends by another's death, after a checkpoint of `step` where that is given."""

    def happens(number: int, scratch: Path) -> None:
        if step:
            file = checkpoint_path(scratch.parent, step)
            file.parent.mkdir(exist_ok=True)
            file.touch()
        raise RuntimeError("a worker died\nand more")

    return happens


def raises(error: Exception, file: str) -> Happens:
    def happens(number: int, scratch: Path) -> None:
        trainer._leave(scratch / file, packed(error))
        raise RuntimeError("training failed")

    return happens


def ends(number: int, scratch: Path) -> None:
    trainer._leave(scratch / trainer.OUTCOME, {"steps": 9})


def test_failures_after_progress_are_counted_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [dies(1), dies(), dies(2), dies(), dies(3), dies(), dies(4)]
    counts, numbers = go_through(monkeypatch, job_in(tmp_path / "out"), *steps, ends)
    assert (counts, numbers) == ({"steps": 9}, [4] * 8)
    assert not (tmp_path / "out" / trainer.SCRATCH).exists()


def test_failures_without_progress_end_it_with_their_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = r"^pretrain: failed 3 times in a row since its checkpoint of step 5 \(KeyError: 'gone'\); .* to go on$"
    odd = raises(KeyError("gone"), causes.RAISED)
    with pytest.raises(RunFailed, match=told):
        go_through(monkeypatch, job_in(tmp_path / "out"), dies(5), dies(), odd)


def test_who_stood_still_is_the_cause_not_who_lost_the_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stalls(number: int, scratch: Path) -> None:
        trainer._leave(scratch / causes.STALLED, "rank 3 of 4 (b) has stalled at step 7")
        raises(RuntimeError("connection closed"), causes.RAISED)(number, scratch)

    with pytest.raises(RunFailed, match=r"\(rank 3 of 4 \(b\) has stalled at step 7\)"):
        go_through(monkeypatch, job_in(tmp_path / "out"), stalls, stalls, stalls)


def test_an_error_of_ours_is_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no pairs"):
        go_through(monkeypatch, job_in(tmp_path / "out"), raises(InputError("no pairs"), trainer.OUTCOME))


def test_each_attempt_has_as_many_workers_as_there_is_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_in(tmp_path / "out", num_workers=8, sizes=(2, 4, 8))
    counts, numbers = go_through(monkeypatch, job, dies(), dies(3), ends, room=(8, 4))
    assert (counts, numbers) == ({"steps": 9}, [8, 4, 8])


def test_the_first_worker_alone_leaves_its_files_on_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one's log is of when it began, and would stand in place of the whole one."""
    put: list[list[str]] = []
    monkeypatch.setattr(on_ray, "publish_rest", lambda folder, names: put.append(names))
    (tmp_path / "metrics.jsonl").touch()
    (tmp_path / ".hidden").touch()
    for first in (False, True):
        assert on_ray.train_in_worker(dict, tmp_path, 1, Roots(), first) == {}
    assert put == [["metrics.jsonl"]]


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        (PretrainConfig(num_workers=8, optimizer=OptimizerConfig(batch_size=24)), (8,)),
        (PretrainConfig(num_workers=8, min_workers=2, optimizer=OptimizerConfig(batch_size=24)), (2, 3, 4, 6, 8)),
        (
            FinetuneConfig(num_workers=6, min_workers=1, optimizer=OptimizerConfig(batch_size=24, accumulate=4)),
            (1, 2, 3, 6),
        ),
    ],
)
def test_workers_are_as_many_as_divide_the_batch(config: PretrainConfig | FinetuneConfig, sizes: tuple[int]) -> None:
    assert sizes_of(config) == sizes


def pretraining(world: Path, out: Path, steps: int, on_step: Callable[[int], None], **changes: object) -> Training:
    """A training on Ray of two workers; rank 0 calls `on_step` at each line of the log."""
    out.mkdir(parents=True)
    config = pretrain_config(world, steps=steps, **changes)

    def call() -> dict[str, Any]:
        from blip_training.train.pretrain import pretrain_model

        (out.parent / "pids").mkdir(exist_ok=True)
        (out.parent / "pids" / str(os.getpid())).touch()
        return dict(pretrain_model(out, world / "images", world / "pairs", world / "human", config, step_noted))

    def step_noted(step: int, figures: object) -> None:
        on_step(step)

    return Training("pretrain", out, steps, call, 2, threads=1, device="cpu", stall_timeout_s=5)


@pytest.mark.long
@pytest.mark.ray
def test_workers_killed_at_random_come_to_the_same_model(world: Path, tmp_path: Path, ray_config: RayConfig) -> None:
    """Ten deaths by kill -9, of either worker, more than may come in a row."""
    rng = random.Random(0)
    deaths = sorted(rng.sample(range(2, 40), 10))

    def straight(step: int) -> None:
        """Nothing happens."""

    def dying(step: int) -> None:
        pids, done = tmp_path / "killed" / "pids", tmp_path / "killed" / f"died-{step}"
        if step in deaths and not done.exists():
            done.touch()
            victims = [int(one.name) for one in pids.iterdir()]
            alive = [pid for pid in victims if Path(f"/proc/{pid}").exists()]
            os.kill(random.Random(step).choice(alive), signal.SIGKILL)

    for name, on_step in (("straight", straight), ("killed", dying)):
        job = pretraining(world, tmp_path / name / "model", 40, on_step, checkpoint_every_steps=1)
        assert train(job, ray_config)["steps"] == 40
    folders = [tmp_path / name / "model" for name in ("straight", "killed")]
    assert read_log(folders[0]) == read_log(folders[1])
    weights = [(folder / "model.safetensors").read_bytes() for folder in folders]
    assert weights[0] == weights[1]
    assert len(list((tmp_path / "killed").glob("died-*"))) == 10


@pytest.mark.long
@pytest.mark.ray
def test_a_worker_that_stands_still_on_ray_is_started_again(
    world: Path, tmp_path: Path, ray_config: RayConfig, caplog: pytest.LogCaptureFixture
) -> None:
    def stalling(step: int) -> None:
        if step == 3 and not (tmp_path / "stalled").exists():
            (tmp_path / "stalled").touch()
            time.sleep(600)

    job = pretraining(world, tmp_path / "out" / "model", 4, stalling, checkpoint_every_steps=2, stall_timeout_s=5)
    assert train(job, ray_config)["steps"] == 4
    assert "rank 0 of 2 (" in caplog.text
    assert "stalled at step 3, in log and checkpoint" in caplog.text
    assert json.loads((tmp_path / "out" / "model" / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 4
