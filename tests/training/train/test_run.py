"""Schedules, optimizer groups, the log, the watch over ITM, and damaged checkpoints."""

from __future__ import annotations

import json
import logging
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from blip_bootstrap.config import ItcConfig
from blip_bootstrap.errors import CheckpointError, RunFailed
from blip_training.model.med import Med
from blip_training.runtime.workers import Worker
from blip_training.train.log import ITM_AT_REST, TrainingLog
from blip_training.train.run import Run
from blip_training.train.schedule import alpha_at, lr_at, make_optimizer, seed_step
from tests.support.drawn import model_config, optimizer_config

CPU = Worker(torch.device("cpu"))


def test_warm_up_is_linear_and_ends_at_the_rate() -> None:
    config = optimizer_config(steps=100, warmup_steps=10, lr=1.0)
    assert [lr_at(config, step) for step in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])


def test_cosine_is_half_way_in_the_middle_and_ends_at_the_minimum() -> None:
    config = optimizer_config(steps=110, warmup_steps=10, lr=1.0, min_lr=0.2)
    assert [lr_at(config, step) for step in (10, 60, 110)] == pytest.approx([1.0, 0.6, 0.2])


def test_exponential_falls_by_the_same_factor_each_step_to_the_minimum() -> None:
    config = optimizer_config(steps=50, warmup_steps=0, lr=1.0, min_lr=0.1, schedule="exponential")
    rates = [lr_at(config, step) for step in range(51)]
    factors = [b / a for a, b in pairwise(rates)]
    assert max(factors) - min(factors) < 1e-12
    assert rates[-1] == pytest.approx(0.1)


def test_constant_stays() -> None:
    config = optimizer_config(steps=50, warmup_steps=5, lr=0.3, schedule="constant")
    assert {lr_at(config, step) for step in range(5, 50)} == {0.3}


def test_the_released_pretrainings_rate() -> None:
    """Section 4.1 and the released code: warm-up from 1e-6 in the first epoch, then a tenth less after each epoch."""
    epoch = 100
    config = optimizer_config(
        steps=20 * epoch, warmup_steps=30, lr=3e-4, min_lr=1e-6, warmup_lr=1e-6, schedule="exponential",
        decay_rate=0.9, decay_every_steps=epoch,
    )  # fmt: skip
    for step in range(20 * epoch):
        expected = max(1e-6, 3e-4 * 0.9 ** (step // epoch))
        if step < 30:
            expected = min(3e-4, 1e-6 + (3e-4 - 1e-6) * step / 30)
        assert lr_at(config, step) == pytest.approx(expected)
    low = config.model_copy(update={"min_lr": 1e-4})
    assert lr_at(low, 20 * epoch - 1) == 1e-4


def test_the_released_finetunings_rate_is_a_cosine_over_epochs() -> None:
    config = optimizer_config(steps=50, warmup_steps=0, lr=1e-5, min_lr=1e-7, decay_every_steps=10)
    for step in range(50):
        expected = (1e-5 - 1e-7) * 0.5 * (1 + math.cos(math.pi * (step // 10) / 5)) + 1e-7
        assert lr_at(config, step) == pytest.approx(expected)


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_a_decay_rate_is_of_an_exponential_schedule(schedule: str) -> None:
    with pytest.raises(ValueError, match=f"decay_rate is of schedule exponential, and schedule is {schedule}"):
        optimizer_config(schedule=schedule, decay_rate=0.9)


def test_alpha_rises_to_its_value_and_stays() -> None:
    config = ItcConfig(alpha=0.4, alpha_ramp_steps=10)
    assert [alpha_at(config, step) for step in (0, 5, 10, 99)] == pytest.approx([0.0, 0.2, 0.4, 0.4])
    assert alpha_at(ItcConfig(alpha=0.4, alpha_ramp_steps=0), 0) == 0.4


def test_only_matrices_decay() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    module.register_parameter("temperature", nn.Parameter(torch.tensor(0.07)))
    module[0].weight.requires_grad_(True)
    decays, stays = make_optimizer(module, optimizer_config(weight_decay=0.05)).param_groups
    assert [p.shape for p in decays["params"]] == [(4, 4)]
    assert decays["weight_decay"] == 0.05
    assert len(stays["params"]) == 4
    assert stays["weight_decay"] == 0


def test_all_weights_decay_where_asked() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    groups = make_optimizer(module, optimizer_config(weight_decay=0.05, decayed="all")).param_groups
    assert {group["weight_decay"] for group in groups} == {0.05}
    assert sum(len(group["params"]) for group in groups) == 4


def test_what_a_start_put_in_learns_at_its_own_rate(world: Path, tmp_path: Path) -> None:
    config = model_config(world)
    config = config.model_copy(update={"text": config.text.model_copy(update={"start": "a BERT"})})
    med = Med(config, 24)
    slow_names = {"text.embeddings.both.words.weight", "text.layers.0.feed_forward.both.fc1.weight"}
    fresh_names = {"text.layers.0.cross_attention.both.query.weight", "vision.stem.patches.weight", "itm_head.weight"}
    run = Run(tmp_path, med, optimizer_config(steps=3, started_lr_scale=0.1), CPU)
    for _ in run.count():
        rate_of = {id(p): group["lr"] for group in run.optimizer.param_groups for p in group["params"]}
        assert len(rate_of) == len(list(med.parameters()))
        expected = lr_at(run.config, run.step)
        assert {rate_of[id(med.get_parameter(name))] for name in fresh_names} == {expected}
        assert {rate_of[id(med.get_parameter(name))] for name in slow_names} == {expected * 0.1}
        run.backward({"norm": torch.stack([p.square().sum() for p in med.parameters()]).sum()})
        run.update()


def test_frozen_parameters_are_not_trained() -> None:
    module = nn.Linear(2, 2)
    module.weight.requires_grad_(False)
    assert [len(group["params"]) for group in make_optimizer(module, optimizer_config()).param_groups] == [0, 1]


def test_a_step_repeats_its_random_numbers_and_workers_differ_but_share_a_generator() -> None:
    first = seed_step(7, 3, 0, CPU.device).initial_seed(), torch.rand(3)
    again = seed_step(7, 3, 0, CPU.device).initial_seed(), torch.rand(3)
    other = seed_step(7, 3, 1, CPU.device).initial_seed(), torch.rand(3)
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])
    assert first[0] == again[0] == other[0]
    assert seed_step(7, 4, 0, CPU.device).initial_seed() != first[0]


def log_itm(path: Path, values: list[float]) -> TrainingLog:
    found = TrainingLog(path, True, None)
    found.start(0)
    for step, value in enumerate(values, start=1):
        found.add({"itm": torch.tensor(value)})
        found.note()
        found.write(step, 1)
    return found


def test_the_rest_value_is_the_entropy_of_one_in_three() -> None:
    logits = torch.tensor([[2 / 3, 1 / 3]]).log().expand(3, 2)
    assert float(nn.functional.cross_entropy(logits, torch.tensor([1, 0, 0]))) == pytest.approx(ITM_AT_REST)
    assert pytest.approx(0.6365, abs=1e-4) == ITM_AT_REST


def test_a_resting_itm_loss_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = log_itm(tmp_path / "metrics.jsonl", [0.64] * 30)
    assert found.at_rest()
    assert [record.getMessage() for record in caplog.records] == [
        "step 10: the ITM loss rests at 0.6400, what guessing costs: it learns nothing"
    ]


@pytest.mark.parametrize("values", [[0.64] * 9, [0.64] * 9 + [0.5], [0.66] * 20])
def test_an_itm_loss_that_moves_or_is_elsewhere_is_not_at_rest(tmp_path: Path, values: list[float]) -> None:
    assert not log_itm(tmp_path / "metrics.jsonl", values).at_rest()


def test_a_line_is_the_mean_since_the_last_one(tmp_path: Path) -> None:
    found = TrainingLog(tmp_path / "metrics.jsonl", True, None)
    found.start(0)
    for value in (1.0, 2.0, 6.0):
        found.add({"loss": torch.tensor(value)})
        found.note(lr=value)
    found.write(3, 4)
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert (line["step"], line["loss"], line["lr"]) == (3, 3.0, 6.0)


def test_lines_after_the_checkpoint_and_cut_lines_are_dropped_on_resume(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    TrainingLog(path, True, None).start(2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_other_workers_write_no_log(tmp_path: Path) -> None:
    found = TrainingLog(tmp_path / "metrics.jsonl", False, None)
    found.start(0)
    found.note()
    found.write(1, 1)
    assert not list(tmp_path.iterdir())


def half_way(out: Path, module: nn.Module) -> Run:
    """A run of two steps that is left after the first, with its checkpoint."""
    run = Run(out, module, optimizer_config(steps=2, checkpoint_every_steps=1), CPU)
    counted = run.count()
    next(counted)
    run.backward({"loss": module(torch.ones(1, 2)).sum()})
    run.update()
    next(counted)
    return run


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (nn.Sequential(nn.Linear(2, 2)), r'Missing key\(s\) in state_dict: "0\.weight"'),
        (nn.Linear(2, 3), r"size mismatch for weight"),
    ],
)
def test_a_checkpoint_of_another_model_is_one_line_that_names_the_keys(
    tmp_path: Path, other: nn.Module, said: str
) -> None:
    half_way(tmp_path, nn.Linear(2, 2))
    with pytest.raises(CheckpointError, match=rf"0001\.pt: of another model or version \(.*{said}") as caught:
        half_way(tmp_path, other)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_without_a_part_is_one_line(tmp_path: Path) -> None:
    half_way(tmp_path, nn.Linear(2, 2))
    with pytest.raises(CheckpointError, match=r"of another model or version \(no 'queue'\); delete it"):
        Run(tmp_path, nn.Linear(2, 2), optimizer_config(), CPU, {"queue": nn.Linear(1, 1)})


def test_nothing_in_a_checkpoint_is_unpickled(tmp_path: Path) -> None:
    torch.save({"step": Path("x")}, tmp_path / "checkpoint.pt")
    with pytest.raises(RunFailed, match=r"checkpoint\.pt damaged, and there is no other"):
        Run(tmp_path, nn.Linear(2, 2), optimizer_config(), CPU)


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path: Path, accumulate: int) -> None:
    torch.manual_seed(0)
    module, inputs = nn.Linear(3, 1), torch.randn(8, 3)
    expected = torch.autograd.grad(module(inputs).square().mean(), module.weight)[0]
    run = Run(tmp_path, module, optimizer_config(accumulate=accumulate), CPU)
    for part in inputs.chunk(accumulate):
        run.backward({"loss of it": module(part).square().mean()})
    torch.testing.assert_close(module.weight.grad, expected)


def test_gradients_are_clipped_and_their_norm_is_logged(tmp_path: Path) -> None:
    module = nn.Linear(2, 1, bias=False)
    run = Run(tmp_path, module, optimizer_config(clip_norm=0.5, steps=1, lr=1e-9, weight_decay=0.0), CPU)
    for _ in run.count():
        run.backward({"loss": module(torch.tensor([[30.0, 40.0]])).sum()})
        run.update()
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["grad_norm"] == pytest.approx(50.0)
    assert math.isclose(run.finish()["steps"], 1)
