"""What each step costs on this machine, measured on a sample with the configured models and as many workers."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from blip_bootstrap.config import Config
from blip_bootstrap.errors import ConfigError
from blip_bootstrap.machine import num_cores
from blip_bootstrap.planning.annotated import (
    captions_of,
    cost_of_check,
    measure_annotated,
    measure_evaluation,
    web_texts,
)
from blip_bootstrap.planning.cost import Cost
from blip_bootstrap.planning.download import measure_download, measure_same_pictures
from blip_bootstrap.planning.duplicates import measure_duplicates
from blip_bootstrap.planning.report import measure_report
from blip_bootstrap.planning.sample import (
    PlannedModels,
    Sample,
    drawn_sample,
    find_models,
    stored_sample,
    table_bytes,
    with_usual_length,
    worded,
)
from blip_bootstrap.planning.training import measure_controls, measure_finetunes, measure_pretraining
from blip_bootstrap.planning.vocabulary import with_planned_vocabulary
from blip_bootstrap.progress import quiet
from blip_bootstrap.schemas.keys import part_name
from blip_bootstrap.schemas.tables import CAPTIONS, PAIRS
from blip_bootstrap.select.pairs import select_pairs
from blip_bootstrap.storage.parquet import parquet_files, rows_to_table, write_parquet
from blip_pipelines.caption.blocks import BLOCK_ROWS
from blip_pipelines.caption.probe import SampledCaptioning
from blip_pipelines.caption.step import gpus_of_actor, idle_lanes
from blip_pipelines.cluster.devices import resolve_dtypes
from blip_pipelines.cluster.resources import NO_RAY, check_cpus, num_workers, peak_bytes
from blip_pipelines.cluster.session import connect
from blip_pipelines.failures.errors import errors_in_one_line
from blip_pipelines.scoring.sources import absolute, with_absolute_models

SELECT_ROWS = 100_000

DISK_PROBE_BYTES = 64_000_000

DECODE_BOUND = 0.8
"""Share of a batch's time from which decoding its pictures bounds captioning, not the models."""

UNITS = ("requests", "prompt_tokens", "completion_tokens")
"""What captioners tell that a text cost, beside seconds."""

Say = Callable[[str], None]


def measure_steps(config: Config, count: int, limit_s: float, say: Say) -> tuple[list[Cost], float]:
    """The cost of each step of a round, measured on `count` images, and the disk's rate in bytes per second.

    The images are the run's own, else the first of the URL lists (fetched for this), else drawn ones. Captioning and
    evaluation end after `limit_s` seconds or with the sample. Writes to a temporary folder alone. Raises ConfigError
    where Ray is not wanted, CheckpointError for a model that cannot be used, RunFailed where Ray has too few CPUs.
    """
    if config.ray.address == NO_RAY:
        raise ConfigError(["ray.address: a plan measures with Ray; use --set ray.address=local"])
    config = resolve_dtypes(config, say)
    with tempfile.TemporaryDirectory(prefix="blip-plan-") as folder:
        scratch = Path(folder)
        disk_bytes_per_s = measure_disk(scratch)
        started = time.perf_counter()
        connect(config.ray)
        costs = [Cost("start", 0, 0, 0.0, "start", fixed_s=time.perf_counter() - started, scales=False)]
        sample, download = find_sample(config, scratch, count)
        costs += [download] if download else []
        annotated, folders, sizes = measure_annotated(config, count, scratch)
        config = with_planned_vocabulary(config, scratch, say)
        models = find_models(config, scratch)
        known: list[str] = []
        if not models.trained and config.caption.spares:
            say("plan: what untrained models write tells not which texts pass; every text is planned as drawn")
            config = config.model_copy(update={"caption": config.caption.with_all()})
        if not models.trained and config.caption.own_writer and not config.captioner.checkpoint:
            known = captions_of(folders["human"]) if "human" in folders else web_texts(sample.rows)
            config = with_usual_length(config, known)
        note = "" if models.trained else "; untrained models, whose captions are cut at the usual length"
        say(f"plan: {len(sample.rows)} images, {sample.origin}{note}")
        same = measure_same_pictures(config, sample, folders, sizes, scratch)
        costs += [
            *annotated,
            *measure_duplicates(config, sample, scratch),
            *([same] if same else []),
            *measure_finetunes(config, models, folders.get("human"), scratch),
        ]
        captioning, captions = measure_captioning(config, models, sample, limit_s, known, say)
        check = cost_of_check(config, sizes, captioning)
        costs += [
            captioning,
            *([check] if check else []),
            measure_select(config, captions, scratch / "select", sample.success_share),
        ]
        costs += measure_model(config, sample, folders, sizes.get("held_out", 0), limit_s, scratch)
        costs.append(measure_report(config, sample.rows, captions, scratch / "report"))
        return costs, disk_bytes_per_s


def measure_model(
    config: Config, sample: Sample, folders: Mapping[str, Path], num_held_out: int, limit_s: float, scratch: Path
) -> list[Cost]:
    """The costs of pre-training, of evaluating its model, and of the control arms; none without pre-training."""
    if not config.pretrain.optimizer.steps:
        return []
    training, model = measure_pretraining(config, sample.rows, scratch)
    if "held_out" not in folders:
        return [training]
    evaluation = measure_evaluation(config, model, folders, num_held_out, limit_s, scratch)
    controls = measure_controls(config, training, evaluation)
    return [training, evaluation, *([controls] if controls else [])]


def find_sample(config: Config, scratch: Path, count: int) -> tuple[Sample, Cost | None]:
    """Images to measure with, and the cost of the download, None where there is nothing to fetch."""
    if parquet_files(config.root / "images"):
        sample = stored_sample(config.root / "images", count, f"of {config.root}")
        return sample, None
    if config.download.urls:
        cost = measure_download(config, scratch / "images", count)
        return stored_sample(scratch / "images", count, "the first of the lists"), cost
    return drawn_sample(scratch / "drawn", count), None


def measure_captioning(
    config: Config, models: PlannedModels, sample: Sample, limit_s: float, known: Sequence[str] = (), say: Say = quiet
) -> tuple[Cost, list[dict[str, Any]]]:
    """The cost of captioning and scoring with as many actors as a run would start here; and the sample's captions.

    `known` texts take the place of what the captioner wrote: the random words of an untrained model take more room.
    `say` gets a line for each captioner and judge that is plugged in: its part of the time, and what it costs.
    """
    from blip_pipelines.cluster.probe import empty_job_s, started_actors  # ray takes two seconds to import

    caption = with_absolute_models(config.caption)
    gpus = gpus_of_actor(caption)
    num_actors = num_workers(config.ray, caption.num_actors, caption.cpus_per_actor, gpus)
    check_cpus(num_actors * caption.cpus_per_actor, "captioning")
    started = time.perf_counter()
    num_lanes = idle_lanes(caption, config.ray, num_actors)
    captioner = absolute(models.captioner) if caption.own_writer else None
    given = captioner, absolute(models.filter), caption, num_lanes
    with (
        errors_in_one_line("plan"),
        started_actors(SampledCaptioning, given, num_actors, caption.cpus_per_actor, gpus) as ask,
    ):
        ask("load")
        empty_job_s()
        fixed_s = time.perf_counter() - started
        found = ask("measure", sample.rows, limit_s)
    seconds = sum(one["seconds"] for one in found) / num_actors
    decode_s = sum(one["decode_s"] for one in found) / num_actors
    captions, images = worded(found[0]["captions"], known), found[0]["images"]
    for line in of_plugged_in(found[0]["plugged_in"], captions, images):
        say(f"plan: {line}")
    return Cost(
        "caption + score",
        rows_per_image=len(captions) / images,
        bytes_per_image=table_bytes(captions, CAPTIONS, images, config.download.rows_per_shard),
        seconds_per_image=seconds,
        bound_by="CPU decode" if decode_s > DECODE_BOUND * seconds else "model",
        fixed_s=fixed_s,
        num_workers=num_actors,
        unit=BLOCK_ROWS,
        share=sample.success_share,
        worker_bytes=max(one["peak_bytes"] for one in found),
        devices_per_worker=gpus or caption.cpus_per_actor,
        device="GPU" if gpus else "CPU",
    ), captions


def of_plugged_in(seconds: Mapping[str, float], captions: Sequence[Mapping[str, Any]], images: int) -> Iterator[str]:
    """For each captioner and judge that is plugged in, by its setting, a line of what it takes for an image.

    Part of the time of "caption + score"; a server's is that of one worker, which asks beside its other work.
    """
    for name, of_text in seconds.items():
        _, kind, own = name.split(".", 2)
        mine = [row for row in captions if (row["captioner"] == own if kind == "writers" else own_scores(row, own))]
        told = f"{name}: {len(mine) / images:.3g} texts an image, {len(mine) / images * of_text:.3g} s an image"
        sums = [(unit, sum(row[f"cost_{unit}"] or 0 for row in mine)) for unit in UNITS if kind == "writers"]
        yield ", ".join([told, *(f"{value / images:.3g} {unit.replace('_', ' ')}" for unit, value in sums if value)])


def own_scores(row: Mapping[str, Any], judge: str) -> bool:
    """Whether a text has a score of a judge, which is called as the judge is, or begins so."""
    told = [name for name, _ in [*(row["scores"] or []), *(row["scores_lacking"] or [])]]
    return any(name == judge or name.startswith(f"{judge}_") for name in told)


def measure_select(config: Config, captions: list[dict[str, Any]], folder: Path, share: float) -> Cost:
    """The cost of the selection, measured on the sample's captions, repeated until there are `SELECT_ROWS`."""
    num_images = sum(row["source"] == "web" for row in captions)
    parts = -(-SELECT_ROWS // (10 * len(captions)))  # some ten repetitions are one file
    for part in range(parts):
        rows = [row | {"key": f"{part}.{i}.{row['key']}"} for i in range(10) for row in captions]
        write_parquet(folder / "captions" / part_name(part), rows_to_table(rows, CAPTIONS), CAPTIONS)
    out = folder / "pairs"
    out.mkdir()
    started = time.perf_counter()
    select_pairs(out, folder / "captions", config=config.select)
    seconds = time.perf_counter() - started
    images = 10 * parts * num_images
    pairs = [{name: row.get(name) for name in PAIRS.schema.names} | {"kept": True} for row in captions]
    return Cost(
        "select",
        rows_per_image=len(captions) / num_images,
        bytes_per_image=table_bytes(pairs, PAIRS, num_images, config.download.rows_per_shard),
        seconds_per_image=seconds / images,
        bound_by="CPU",
        share=share,
        worker_bytes=peak_bytes(),
        devices_per_worker=num_cores(),
        scales=False,
    )


def measure_disk(folder: Path) -> float:
    """Bytes per second that a file is written with, until the disk has them (fsync)."""
    block, started = os.urandom(1_000_000), time.perf_counter()
    with (folder / "probe").open("wb") as file:
        for _ in range(DISK_PROBE_BYTES // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    (folder / "probe").unlink()
    return DISK_PROBE_BYTES / (time.perf_counter() - started)
