"""Several workers train as one: equal losses at 1, 2 and 4, at another number after a death, and who disagrees."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from blip_bootstrap.config import PretrainConfig
from blip_bootstrap.errors import InputError
from blip_training.feed.batches import TrainingData
from blip_training.runtime import stall
from blip_training.runtime.agreement import check_alike, differing, from_first
from blip_training.runtime.stall import STALLED, Position, verdict
from blip_training.runtime.workers import Worker, this_worker
from blip_training.train import pretrain as pretrain_module
from blip_training.train.pretrain import pretrain_model
from blip_training.train.run import Run
from tests.support.drawn import pretrain_config, read_log
from tests.support.ranks import run_ranks

pretraining: Any = pretrain_module

STEPS = 8

HALF = torch.full((2, 2), 0.5, dtype=torch.float16)


def config_of(world: Path, start_step: int = 0, **changes: object) -> PretrainConfig:
    """Without dropout; negatives of ITM come from all workers, from step `start_step` on; a queue of 40."""
    config = pretrain_config(world, **{"steps": STEPS, **changes})
    itm = config.itm.model_copy(update={"negatives": "all_workers", "start_step": start_step})
    return config.model_copy(update={"itm": itm})


def cut_config(world: Path, steps: int = STEPS) -> PretrainConfig:
    """Two micro-batches, checkpointed activations; no ITM, whose negatives are of one micro-batch."""
    return config_of(world, start_step=10_000, steps=steps, accumulate=2, activation_checkpointing=True)


def pretrain(world: Path, out: Path, config: PretrainConfig, on_step: Any = None) -> None:
    out.mkdir(parents=True, exist_ok=True)
    pretrain_model(out, world / "images", world / "pairs", world / "human", config, on_step)


def train_all(world: Path, out: Path, steps: int = STEPS) -> None:
    """What each number of workers trains; all of them hold one model at the end."""
    ends: list[Run] = []
    finish = Run.finish

    def noted(run: Run) -> dict[str, int | float]:
        ends.append(run)
        return finish(run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "finish", noted)
        pretrain(world, out / "whole", config_of(world, start_step=3, steps=steps))
        pretrain(world, out / "cut", cut_config(world, steps))
    for run in ends:
        if run.worker.world > 1:
            states = {name: module.state_dict() for name, module in run.modules.items()}
            assert not differing(states | {"optimizer": run.optimizer.state_dict()}, run.worker)


def check_equal(folder: Path, worlds: tuple[int, ...], tolerance: float) -> None:
    for name in ("whole", "cut"):
        alone = read_log(folder / "1" / name)
        for number in worlds:
            for one, shared in zip(alone, read_log(folder / str(number) / name), strict=True):
                assert shared == pytest.approx(one, rel=tolerance), (name, number, one["step"])


def test_two_and_four_workers_have_the_losses_of_one(world: Path, tmp_path: Path) -> None:
    train_all(world, tmp_path / "1")
    for number in (2, 4):
        assert run_ranks(number, train_all, world, tmp_path / str(number)) == [0] * number
    check_equal(tmp_path, (2, 4), 1e-3)
    assert "itm" in read_log(tmp_path / "4" / "whole")[-1]
    assert "itm" not in read_log(tmp_path / "4" / "whole")[0]


@pytest.mark.long
def test_fifty_steps_have_the_losses_of_one(world: Path, tmp_path: Path) -> None:
    train_all(world, tmp_path / "1", 50)
    for number in (2, 4):
        assert run_ranks(number, train_all, world, tmp_path / str(number), 50) == [0] * number
    check_equal(tmp_path, (2, 4), 0.02)


def train_compiled(world: Path, out: Path) -> None:
    pretrain(world, out / f"{dist.get_world_size()}", config_of(world, steps=3, compile=True))


@pytest.mark.long
def test_compiled_blocks_have_the_losses_of_one_worker(world: Path, tmp_path: Path) -> None:
    """Compiling takes some minutes on two slow cores."""
    pretrain(world, tmp_path / "1", config_of(world, steps=3))
    assert run_ranks(2, train_compiled, world, tmp_path) == [0, 0]
    for one, shared in zip(read_log(tmp_path / "1"), read_log(tmp_path / "2"), strict=True):
        assert shared == pytest.approx(one, rel=1e-3)


def train_till(world: Path, out: Path, last: int) -> None:
    """Rank 0 dies once the line of step `last` is written; there is a checkpoint at every second step."""

    def on_step(step: int, figures: object) -> None:
        if step == last:
            os._exit(9)

    pretrain(world, out, config_of(world, checkpoint_every_steps=2, log_every_steps=1), on_step)


def test_a_training_goes_on_with_another_number_of_workers(world: Path, tmp_path: Path) -> None:
    """Two workers die at step 3, one at step 5; four come to the end: the losses of one that was never disturbed."""
    pretrain(world, tmp_path / "straight", config_of(world))
    for number, last in ((2, 3), (1, 5)):
        codes = run_ranks(number, train_till, world, tmp_path / "out", last)
        assert codes[0] == 9
        assert 0 not in codes
    assert run_ranks(4, train_till, world, tmp_path / "out", 0) == [0] * 4
    for one, shared in zip(read_log(tmp_path / "straight"), read_log(tmp_path / "out"), strict=True):
        assert shared == pytest.approx(one, rel=1e-3)


def check_spread() -> None:
    """Any state comes to the other worker as it is: nested, of any type, empty."""
    worker = this_worker("cpu")
    state = {"a": [torch.arange(3), (torch.tensor(True), 2)], "b": {"none": torch.zeros(0, 4), "half": HALF}, "c": "d"}
    found: Any = from_first(lambda: state if worker.first else None, worker)
    assert torch.equal(found["a"][0], torch.arange(3))
    assert torch.equal(found["b"]["half"], HALF)
    assert (bool(found["a"][1][0]), found["a"][1][1], found["b"]["none"].shape, found["c"]) == (True, 2, (0, 4), "d")
    assert not differing(found, worker)
    other = found | {"b": {"none": torch.zeros(0, 4), "half": HALF + worker.rank}}
    assert differing(other, worker) == {1: ["b"]}


def start_unlike(world: Path, out: Path) -> None:
    """Rank 1 has drawn other weights, reads another configuration, and has fewer pictures."""
    check_spread()
    start, rank = pretraining.start_model, dist.get_rank()

    def other(config: PretrainConfig, *inputs: Any) -> Any:
        seed = config.optimizer.model_copy(update={"seed": 7})
        return start(config.model_copy(update={"optimizer": seed}) if rank else config, *inputs)

    pretraining.start_model = other
    pretrain(world, out / "mended", config_of(world, steps=2))
    pretraining.start_model = start
    mistaken = config_of(world, steps=2, lr=0.5 if rank else 0.25)
    with pytest.raises(InputError, match=r"rank 1 \(.*\): optimizer.lr is 0.5, and rank 0 \(.*\) has 0.25; start all"):
        pretrain(world, out / "mistaken", mistaken)
    human = None if rank else world / "human"
    with pytest.raises(InputError, match=r"rank 1 \(.*\): training data.files is '3 .*', and rank 0 \(.*\) has '4 "):
        pretrain_model(out / "mistaken", world / "images", world / "pairs", human, config_of(world, steps=2))


def test_a_worker_that_begins_unlike_the_first_is_told_or_mended(
    world: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_ranks(2, start_unlike, world, tmp_path) == [0, 0]
    said = capfd.readouterr().err
    assert said.count("momentum) began with other weights than rank 0") == 1
    assert "rank 1 (" in said
    pretrain(world, tmp_path / "straight", config_of(world, steps=2))
    for one, shared in zip(read_log(tmp_path / "straight"), read_log(tmp_path / "mended"), strict=True):
        assert shared == pytest.approx(one, rel=1e-3)


def train_stalled(world: Path, out: Path) -> None:
    """Rank 1 gets no batch for the third step."""
    make = TrainingData.micro_batches

    def slow(data: TrainingData, step: int) -> Any:
        if step == 2 and dist.get_rank() == 1:
            time.sleep(200)
        return make(data, step)

    said = out / f"{dist.get_rank()}"

    def note(line: str) -> None:
        said.write_text(line)

    stall.last_words.append(note)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingData, "micro_batches", slow)
        pretrain(world, out / "model", config_of(world, stall_timeout_s=5))


def test_a_worker_that_stands_still_is_told_by_name_and_ends_the_attempt(world: Path, tmp_path: Path) -> None:
    codes = run_ranks(2, train_stalled, world, tmp_path)
    assert STALLED in codes  # one that sees the other's end first has an error
    assert set(codes) <= {STALLED, 1}
    for rank in "01":
        assert "rank 1 of 2 (" in (tmp_path / rank).read_text()
        assert ") has stalled at step 3, in the feed, for " in (tmp_path / rank).read_text()


def train_stopped(world: Path, out: Path, victim: int) -> None:
    """Every thread of rank `victim` stops before the third step, as those of a frozen machine; who tells ends it."""
    make, stopped = TrainingData.micro_batches, out / "stopped"

    def stops(data: TrainingData, step: int) -> Any:
        if step == 2 and dist.get_rank() == victim:
            stopped.write_text(f"{os.getpid()}")
            os.kill(os.getpid(), signal.SIGSTOP)
        return make(data, step)

    def note(line: str) -> None:
        (out / f"{dist.get_rank()}").write_text(line)
        os.kill(int(stopped.read_text()), signal.SIGKILL)

    stall.last_words.append(note)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingData, "micro_batches", stops)
        pretrain(world, out / "model", config_of(world, stall_timeout_s=5))


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_is_stopped_is_told_by_the_others(world: Path, tmp_path: Path, victim: int) -> None:
    """Of rank 0, which keeps what all have reported, too."""
    codes = run_ranks(2, train_stopped, world, tmp_path, victim)
    assert codes[victim] == -signal.SIGKILL
    assert codes[1 - victim] in (STALLED, 1)  # 1: it saw the other's end before its own
    told = (tmp_path / f"{1 - victim}").read_text()
    assert told.startswith(f"rank {victim} of 2 ({socket.gethostname()}) has stalled")


HOSTS = ("a (10.0.0.1)", "b (10.0.0.2)", "b (10.0.0.2)")


def test_who_is_behind_all_others_has_stalled() -> None:
    own = Position(7, "the optimizer's step", 11.0)
    behind, waiting = Position(7, "the micro-batches", 12.0), Position(7, "the optimizer's step", 10.0)
    line, ranks = verdict(own, {0: own, 1: behind, 2: waiting}, HOSTS)
    assert ranks == [1]
    assert line.startswith("rank 1 of 3 (b (10.0.0.2)) has stalled at step 7, in the micro-batches, for 12 s; the oth")
    line, ranks = verdict(own, {0: own, 1: own, 2: waiting}, HOSTS)
    assert (ranks, "an exchange between them hangs" in line) == ([], True)


def test_each_that_is_behind_is_told_with_its_machine() -> None:
    own, behind = Position(7, "the optimizer's step", 11.0), Position(6, "the feed", 12.0)
    line, ranks = verdict(own, {0: behind, 1: own, 2: behind}, HOSTS)
    assert (ranks, line.startswith("ranks 0 (a (10.0.0.1)), 2 (b (10.0.0.2)) of 3 have stalled at step 6,")) == (
        [0, 2],
        True,
    )
    line, _ = verdict(own, {0: own, 1: behind, 2: behind}, HOSTS)
    assert line.startswith("ranks 1, 2 (b (10.0.0.2)) of 3 have stalled at step 6, in the feed, for 12 s")
    many = [f"host{rank // 8}" for rank in range(64)]
    line, ranks = verdict(own, {rank: own if rank < 8 else behind for rank in range(64)}, many)
    assert len(ranks) == 56
    assert "39 (host4) and those of 3 more machines of 64 have stalled" in line


def test_who_has_said_nothing_is_told_with_its_machine() -> None:
    own = Position(7, "the optimizer's step", 11.0)
    silent = verdict(own, {0: own, 2: own}, HOSTS)
    assert silent == ("rank 1 of 3 (b (10.0.0.2)) has stalled before the first step", [1])
    line, ranks = verdict(own, {}, HOSTS)
    assert (ranks, line.startswith("rank 0 of 3 (a (10.0.0.1)) has stalled: it has not answered for 11 s")) == (
        [0],
        True,
    )


def test_alone_nothing_is_compared(tmp_path: Path) -> None:
    worker = Worker(torch.device("cpu"))
    check_alike({"a": 1}, worker)
    assert from_first(lambda: 3, worker) == 3
