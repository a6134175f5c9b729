"""The training steps of a round: pre-train, fine-tune captioner and filter, evaluate, and the control arms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from blip_bootstrap.config import EvaluateConfig, FinetuneConfig, PretrainConfig, RayConfig, TrainControlsConfig
from blip_pipelines.train.calls import call_arm, call_captioner, call_evaluate, call_filter, call_pretrain
from blip_pipelines.train.control_pairs import check_arms, take_arm, write_arm_pairs
from blip_pipelines.train.runner import METRICS, Call, Counts, Training, following, place_of_task, run_tasks, train

Source = Path | str

CONTROL_FIGURES = ("cider", "tr1", "ir1")


def pretrain(
    out: Path, images: Path | None, pairs: Path | None, human: Path | None, previous: Source | None = None,
    same_pictures: Path | None = None, *, config: PretrainConfig, ray: RayConfig,
) -> Counts:  # fmt: skip
    """Pre-train a model on web pairs and the human set (either may be None) into `out` (sections 3.2 and 4.1)."""
    call = _call(call_pretrain, out, images, pairs, human, config, previous, same_pictures)
    return train(_job("pretrain", out, call, config), ray)


def finetune_captioner(
    out: Path, previous: Source, human: Path, same_pictures: Path | None = None, *, config: FinetuneConfig,
    ray: RayConfig,
) -> Counts:  # fmt: skip
    """Fine-tune the previous model to write captions (section 3.3)."""
    call = _call(call_captioner, out, previous, human, config, same_pictures)
    return train(_job("captioner", out, call, config), ray)


def finetune_filter(
    out: Path, previous: Source, human: Path, same_pictures: Path | None = None, captioner: Source | None = None, *,
    config: FinetuneConfig, ray: RayConfig,
) -> Counts:  # fmt: skip
    """Fine-tune the previous model to tell right texts from wrong ones (section 3.3).

    `captioner` is what `hard_texts.captioner` wants.
    """
    call = _call(call_filter, out, previous, human, config, same_pictures, captioner)
    return train(_job("filter", out, call, config), ray)


def evaluate(
    out: Path, model: Source, held_out: Path, captioner: Source | None = None, references: Path | None = None, *,
    config: EvaluateConfig, ray: RayConfig,
) -> Counts:  # fmt: skip
    """Measure a model on the held-out set: metrics.json and captions.parquet in `out`; returns the overall figures.

    `references` (the human set) is what `rerank_by: lm` wants.
    """
    call = _call(call_evaluate, out, model, held_out, config, captioner, references)
    return run_tasks([Training("evaluate", out, 0, call)], 1, place_of_task(ray, config.device))[0]


def train_controls(
    out: Path, images: Path, captions: Path, pairs: Path, human: Path | None, held_out: Path,
    truth_pairs: Path | None = None, same_pictures: Path | None = None, *,
    config: TrainControlsConfig, ray: RayConfig, elsewhere: Mapping[str, Sequence[Path]] = MappingProxyType({}),
) -> Counts:  # fmt: skip
    """Train and measure the arms of Table 1 beside the round's model, with its settings and seed on other pairs.

    Each arm has a folder with its pairs, model and metrics.json; one that has its metrics is not made again. Of the
    folders `elsewhere` of an arm, made of the same but for its pairs, one with equal pairs is taken as it is. `oracle`
    trains on `truth_pairs`, a folder like `pairs`. Texts set aside in `pairs` are no pairs of any arm. Raises
    ConfigError where an arm lacks its input.
    """
    check_arms(config.arms, human, truth_pairs)
    place = place_of_task(ray, config.pretrain.optimizer.device)
    jobs = []
    for arm in config.arms:
        arm_pairs = write_arm_pairs(out / arm / "pairs", arm, captions, pairs, truth_pairs)
        take_arm(out / arm, elsewhere.get(arm, ()))
        data = images, arm_pairs, human, held_out
        call = _call(call_arm, out / arm, *data, config.pretrain, config.evaluate, same_pictures)
        jobs.append(_job(arm, out / arm, call, config.pretrain))
    files, steps = [job.out / "model" / METRICS for job in jobs], sum(job.steps for job in jobs)
    with following(files, "controls", steps):
        found = run_tasks(jobs, config.num_parallel, place)
    counts = dict(zip(config.arms, found, strict=True))
    return {f"{arm}_{key}": counts[arm][key] for arm in counts for key in CONTROL_FIGURES if key in counts[arm]}


def _job(name: str, out: Path, call: Call, config: PretrainConfig | FinetuneConfig) -> Training:
    optimizer = config.optimizer
    return Training(
        name, out, optimizer.steps, call, config.num_workers, optimizer.threads, optimizer.device,
        sizes_of(config), optimizer.stall_timeout_s,
    )  # fmt: skip


def sizes_of(config: PretrainConfig | FinetuneConfig) -> tuple[int, ...]:
    """The numbers of workers that can share a batch, from `min_workers` to `num_workers`."""
    each, most = config.optimizer.accumulate, config.num_workers
    sizes = range(config.min_workers or most, most + 1)
    return tuple(size for size in sizes if not config.optimizer.batch_size % (size * each))


def _call(function: Callable[..., Mapping[str, Any]], *arguments: object) -> Call:
    """The call as a worker makes it, whose working directory may be another: paths are made absolute."""
    return partial(function, *map(_absolute, arguments))


def _absolute(one: object) -> object:
    if isinstance(one, (PretrainConfig, FinetuneConfig)) and one.optimizer.grids:
        optimizer = one.optimizer.model_copy(update={"grids": one.optimizer.grids.resolve()})
        return one.model_copy(update={"optimizer": optimizer})
    return one.resolve() if isinstance(one, Path) else one
