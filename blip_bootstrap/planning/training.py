"""What the trainings of a round cost, measured by a few steps of each, with the configured model, on a sample."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from blip_bootstrap.config import Config, FinetuneConfig, OptimizerConfig, PretrainConfig
from blip_bootstrap.planning.cost import Cost
from blip_bootstrap.planning.sample import PlannedModels
from blip_bootstrap.schemas.tables import IMAGES
from blip_bootstrap.select.pairs import take_web_pairs
from blip_bootstrap.storage.parquet import write_parquet
from blip_pipelines.cluster.resources import peak_bytes
from blip_pipelines.scoring.sources import absolute
from blip_pipelines.train.steps import finetune_captioner, finetune_filter, pretrain

FEW_IMAGES, FEW_STEPS, MOST_STEPS = 16, 4, 24
"""A training is tried with few images a step; then with the configured batch, for more steps, where time allows."""

ENOUGH_S = 10.0
"""Seconds that the steps of the second try may take."""

AnyTraining = TypeVar("AnyTraining", PretrainConfig, FinetuneConfig)

Try = Callable[[Path, OptimizerConfig], Any]


@dataclass(frozen=True)
class Timed:
    """Seconds of a step of the configured batch, seconds of all else (start, loading, saving), and bytes written."""

    step_s: float
    fixed_s: float
    size_bytes: int


def measure_finetunes(config: Config, models: PlannedModels, human: Path | None, scratch: Path) -> list[Cost]:
    """The costs of making the captioner and the filter; none for one that is given, or where there is no human set."""
    costs: list[Cost] = []
    if human and config.needs_captioner and not config.captioner.checkpoint:
        own, start = config.captioner, absolute(models.captioner)

        def captioner(out: Path, few: OptimizerConfig) -> Any:
            return finetune_captioner(out, start, human, config=_with(own, few), ray=config.ray)

        costs.append(_cost("captioner", own, time_training(captioner, own, scratch / "plan-captioner")))
    if human and not config.filter.checkpoint:
        own_filter, start_filter = config.filter, absolute(models.filter)

        def filter(out: Path, few: OptimizerConfig) -> Any:
            return finetune_filter(out, start_filter, human, config=_with(own_filter, few), ray=config.ray)

        costs.append(_cost("filter", own_filter, time_training(filter, own_filter, scratch / "plan-filter")))
    return costs


def measure_pretraining(config: Config, rows: pa.Table, scratch: Path) -> tuple[Cost, Path]:
    """The cost of `pretrain.optimizer.steps` steps, and a model of a few of them."""
    images, pairs, own = scratch / "train_images", scratch / "train_pairs", config.pretrain
    write_parquet(images / "part-00000.parquet", rows, IMAGES)
    pairs.mkdir()
    take_web_pairs(pairs, images)

    def train(out: Path, few: OptimizerConfig) -> Any:
        return pretrain(out, images, pairs, None, config=_with(own, few), ray=config.ray)

    timed = time_training(train, own, scratch / "plan-model")
    return _cost("pretrain", own, timed), scratch / "plan-model" / "0"


def measure_controls(config: Config, training: Cost, evaluation: Cost) -> Cost | None:
    """The cost of the control arms, each a pre-training and an evaluation; None without arms.

    `controls.num_parallel` arms are trained at a time. Where `threads` is not set they share the cores, and take as
    long together as one after the other.
    """
    arms, at_once = len(config.controls.arms), config.controls.num_parallel
    if not arms:
        return None
    turns = -(-arms // at_once) if config.pretrain.optimizer.threads else arms
    return replace(
        training,
        step="controls",
        fixed_s=turns * (training.fixed_s + evaluation.fixed_s),
        fixed_bytes=arms * (training.fixed_bytes + evaluation.fixed_bytes),
        num_workers=min(arms, at_once),
    )


def time_training(run: Try, config: PretrainConfig | FinetuneConfig, folder: Path) -> Timed:
    """Time `run(folder for the model, optimizer settings)`, which trains as `config` says but for those settings."""
    wanted = config.optimizer.batch_size
    few = _parts_of(min(wanted, FEW_IMAGES), config)
    first = _time(run, config.optimizer, few, FEW_STEPS, folder / "0")
    step_s = first.step_s * wanted / few
    if few == wanted or step_s * FEW_STEPS > ENOUGH_S:
        return replace(first, step_s=step_s)
    steps = max(FEW_STEPS, min(MOST_STEPS, int(ENOUGH_S / step_s)))
    return replace(first, step_s=_time(run, config.optimizer, wanted, steps, folder / "1").step_s)


def _time(run: Try, optimizer: OptimizerConfig, batch_size: int, steps: int, out: Path) -> Timed:
    out.mkdir(parents=True)
    short: dict[str, Any] = {"steps": steps, "batch_size": batch_size, "warmup_steps": 0, "log_every_steps": 1}
    short["trackers"] = ()  # a plan is no run of anybody's project
    if batch_size < optimizer.batch_size:
        short["accumulate"] = 1
    started = time.perf_counter()
    run(out, optimizer.model_copy(update=short))
    seconds = time.perf_counter() - started
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    each = [batch_size / line["samples_per_s"] for line in lines]
    step_s = statistics.median(each[1:])  # the first one pays what is done once
    size_bytes = sum(file.stat().st_size for file in out.iterdir() if file.is_file())
    return Timed(step_s, max(0.0, seconds - sum(each[1:]) - step_s), size_bytes)


def _cost(step: str, config: PretrainConfig | FinetuneConfig, timed: Timed) -> Cost:
    return Cost(
        step, 0, 0, 0.0, "model",
        fixed_s=timed.fixed_s + config.optimizer.steps * timed.step_s,
        fixed_bytes=timed.size_bytes,
        num_workers=config.num_workers,
        worker_bytes=peak_bytes(),
        scales=False,
    )  # fmt: skip


def _parts_of(batch_size: int, config: PretrainConfig | FinetuneConfig) -> int:
    """The batch size as a multiple of the workers."""
    return max(1, batch_size // config.num_workers) * config.num_workers


def _with(config: AnyTraining, optimizer: OptimizerConfig) -> AnyTraining:
    """The section with other optimizer settings, and without what a sample has not: human pairs, a previous model."""
    settings: dict[str, Any] = {"optimizer": optimizer}
    if isinstance(config, PretrainConfig):
        settings |= {"human_share": 0.0, "start_from": "scratch"}
    else:
        settings |= {"validate_every_steps": 0}
    return config.model_copy(update=settings)
