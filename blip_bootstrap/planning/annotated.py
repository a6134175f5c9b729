"""What the annotated sets cost: reading both, measuring the scores on one, and a model on the held-out one."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pyarrow as pa

from blip_bootstrap.config import AnnotatedSet, Config, EvaluateConfig
from blip_bootstrap.machine import num_cores
from blip_bootstrap.planning.cost import Cost
from blip_bootstrap.schemas.cells import text_of
from blip_bootstrap.storage.parquet import parquet_files, read_parquet
from blip_pipelines.cluster.resources import peak_bytes
from blip_pipelines.ingest.annotated import ingest_annotated, read_records
from blip_pipelines.train.steps import evaluate

FEW_PICTURES = 16

MOST_PICTURES = 192


def measure_annotated(config: Config, count: int, scratch: Path) -> tuple[list[Cost], dict[str, Path], dict[str, int]]:
    """The costs of reading the human and the held-out set, where the configuration has them.

    Returns also the folder with the first `count` rows of each set, and how many rows it has in all, by its name.
    """
    costs, folders, sizes = [], {}, {}
    for name, section in (("human", config.human), ("held_out", config.held_out)):
        if section:
            folders[name] = scratch / name
            cost, sizes[name] = _measure_ingest(name, section, count, folders[name])
            costs.append(cost)
    return costs, folders, sizes


def _measure_ingest(name: str, section: AnnotatedSet, count: int, folder: Path) -> tuple[Cost, int]:
    records = (record.cells for record in read_records(section.path, section) if not record.mistake)
    head = list(islice(records, count))
    total = len(head) + sum(1 for _ in records)
    listed = folder.with_suffix(".jsonl")
    columns = [section.image_column, section.captions_column, section.domain_column]
    listed.write_text(
        "".join(f"{json.dumps({c: row.get(c) for c in columns}, default=text_of)}\n" for row in head), encoding="utf-8"
    )
    root = section.image_root or section.path.parent
    folder.mkdir()
    started = time.perf_counter()
    ingest_annotated(folder, listed, section.model_copy(update={"image_root": root}))
    seconds = time.perf_counter() - started
    size_bytes = sum(file.stat().st_size for file in parquet_files(folder))
    return Cost(
        name, 0, 0, 0.0, "CPU decode",
        fixed_s=seconds * total / len(head),
        fixed_bytes=round(size_bytes * total / len(head)),
        worker_bytes=peak_bytes(),
        devices_per_worker=num_cores(),
        scales=False,
    ), total  # fmt: skip


def measure_evaluation(
    config: Config, model: Path, folders: Mapping[str, Path], total: int, limit_s: float, scratch: Path
) -> Cost:
    """The cost of evaluating `model` on the `total` pictures of the held-out set, from what two sizes of it take.

    `folders` has `held_out`, and `human` where there is a human set.
    """
    held_out = folders["held_out"]
    pictures = sum(len(read_parquet(file, ["key"])) for file in parquet_files(held_out))
    few = min(FEW_PICTURES, max(1, pictures // 2))
    _evaluate(config, model, folders, few, scratch / "evaluation-0")  # pays what a process does once
    few_s = _evaluate(config, model, folders, few, scratch / "evaluation-1")
    more = max(few + 1, min(pictures, MOST_PICTURES, int(few * limit_s / few_s)))
    few_bytes = more_bytes = _size(scratch / "evaluation-1")
    more_s = few_s
    if more <= pictures:
        more_s = _evaluate(config, model, folders, more, scratch / "evaluation-2")
        more_bytes = _size(scratch / "evaluation-2")
    asked = min(total, config.evaluate.limit or total)
    return Cost(
        "evaluate", 0, 0, 0.0, "model",
        fixed_s=_on_line((few, few_s), (more, more_s), asked),
        fixed_bytes=round(_on_line((few, few_bytes), (more, more_bytes), asked)),
        worker_bytes=peak_bytes(),
        scales=False,
    )  # fmt: skip


def _on_line(few: tuple[int, float], more: tuple[int, float], asked: int) -> float:
    """What `asked` pictures take, on the line through two measured points (pictures, cost); no part is negative."""
    each = max(0.0, more[1] - few[1]) / max(1, more[0] - few[0])
    return max(0.0, few[1] - few[0] * each) + asked * each


def _evaluate(config: Config, model: Path, folders: Mapping[str, Path], count: int, out: Path) -> float:
    """Seconds that evaluation takes on the first `count` pictures."""
    out.mkdir()
    settings: EvaluateConfig = config.evaluate.model_copy(update={"limit": count})
    started = time.perf_counter()
    evaluate(out, model, folders["held_out"], None, folders.get("human"), config=settings, ray=config.ray)
    return time.perf_counter() - started


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def cost_of_check(config: Config, sizes: Mapping[str, int], captioning: Cost) -> Cost | None:
    """The cost of the step `filter_check`, from what captioning an image costs; None where there is no such step.

    One worker loads the models, and captions and scores `filter_check.pictures` pictures or the whole set, one of
    `sizes`, with one more text each than an image has.
    """
    pictures = min(config.filter_check.pictures, max(sizes.values(), default=0))
    if not pictures:
        return None
    more = (captioning.rows_per_image + 1) / captioning.rows_per_image
    return replace(
        captioning, step="filter_check", rows_per_image=0, bytes_per_image=0, seconds_per_image=0.0,
        fixed_s=captioning.fixed_s + pictures * captioning.seconds_per_image,
        fixed_bytes=round(pictures * captioning.bytes_per_image * more),
        num_workers=1, unit=1, share=1.0, scales=False,
    )  # fmt: skip


def captions_of(folder: Path) -> list[str]:
    """Every caption that people wrote, of a folder of the table `annotated`."""
    tables = [read_parquet(file, ["captions"]) for file in parquet_files(folder)]
    return [text for table in tables for texts in table["captions"].to_pylist() for text in texts or ()]


def web_texts(images: pa.Table) -> list[str]:
    """The alt texts of rows of the table `images`."""
    return [text for text in images["caption"].to_pylist() if text]
