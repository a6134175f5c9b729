"""Measures a model on a benchmark, and writes what was measured."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from blip_bootstrap import __version__
from blip_bootstrap.config import Config, VqaConfig
from blip_bootstrap.config.benchmark import BenchmarkConfig, Task
from blip_bootstrap.errors import CheckpointError, InputError
from blip_bootstrap.storage.files import check_writable, write_whole
from blip_bootstrap.storage.manifest import digest_of_path, digest_of_recipe, recipe_of
from blip_training.benchmarks.answering import find_answers, measure_answering, measure_statements
from blip_training.benchmarks.asked import Asked, Statement, read_asked, read_statements
from blip_training.benchmarks.captioned import Captioned, read_captioned
from blip_training.benchmarks.captioning import check_programs, measure_captioning
from blip_training.benchmarks.names import Benchmark, benchmark_of
from blip_training.benchmarks.places import Media, check_media, digest_of_data, find_beside, find_list
from blip_training.benchmarks.retrieval import measure_retrieval
from blip_training.benchmarks.work import Work
from blip_training.checkpoint.nlvr_file import load_nlvr
from blip_training.checkpoint.store import load_med, load_vqa, tokenizer_beside
from blip_training.data.normalise import set_normalise
from blip_training.data.questions import read_answers
from blip_training.data.tokenizer import Tokenizer
from blip_training.model.med import DECODE, EMBED, MATCH, Med
from blip_training.model.nlvr import Nlvr
from blip_training.model.vqa import Vqa
from blip_training.runtime.allocator import keep_freed_memory
from blip_training.runtime.sources import resolve_source
from blip_training.runtime.workers import resolve_device

RESULT, WORK = "result.json", "work"

Model = Med | Vqa | Nlvr

Items = Sequence[Captioned] | Sequence[Asked] | Sequence[Statement]


@dataclass(frozen=True)
class Data:
    """The items of a benchmark, or the first of them, and the lists that they were read from."""

    items: Sequence[Any]
    lists: list[Path]

    @property
    def media(self) -> list[Path]:
        """The pictures or videos of the items."""
        return list(chain.from_iterable(_media_of(item) for item in self.items))


def evaluate_on(
    model: str | Path, name: str, data_root: Path, config: Config, limit: int | None = None
) -> dict[str, float]:
    """The figures of `model` on the benchmark `name`, whose files lie in the folder `data_root` (or are that file).

    `model` is a folder of this package or of transformers, a .pth file or a hub name; settings are the sections
    `benchmark` and, for questions, `vqa`. `limit` takes the first items alone. Raises InputError, in one line, where a
    file is missing, CheckpointError where the model is damaged or can do none of the benchmark's tasks.
    """
    figures: dict[str, float] = measure(model, name, data_root, config, None, limit)["figures"]
    return figures


def measure(
    model: str | Path, name: str, data_root: Path, config: Config, out: Path | None, limit: int | None = None
) -> dict[str, Any]:
    """Evaluate as `evaluate_on`; the whole result: figures, settings, digests of model and data, versions.

    It is written into a folder of its own below `out`, as `result.json`, with a file of what the model wrote; `path`
    names it. What takes long is kept there in parts, from which the same command goes on; a result that is there
    already is returned as it is.
    """
    benchmark = benchmark_of(name)
    data = read_data(benchmark, data_root, config.benchmark, limit)
    settings, tasks = config.benchmark, _tasks(benchmark, config.benchmark)
    source = resolve_source(model)
    made_of = _read_with(source) | {
        "model": digest_of_path(source), "data": digest_of_data(data.lists, data.media),
        "benchmark": name, "limit": str(limit), "version": __version__, "torch": torch.__version__,
    }  # fmt: skip
    digest = digest_of_recipe(
        {"benchmark": recipe_of("evaluate", settings, made_of), "vqa": recipe_of("vqa", config.vqa, {})}
    )
    folder = out / name / digest[:12] if out else None
    if folder:
        if found := _result_in(folder / RESULT):
            return found
        check_writable(folder / RESULT)
    work = Work(benchmark, settings, config.vqa, folder / WORK if folder else None)
    started = time.monotonic()
    figures, written = _measure(model, tasks, data, work)
    result = {
        "benchmark": name, "model": str(model), "figures": figures, "items": len(data.items), "limit": limit,
        "data": str(data_root), "lists": [file.name for file in data.lists],
        "model_digest": made_of["model"], "data_digest": made_of["data"],
        "settings": _used(work, tasks), "version": __version__, "torch": torch.__version__,
        "device": str(resolve_device(settings.device)), "seconds": round(time.monotonic() - started, 1),
        "path": str(folder / RESULT) if folder else None,
    }  # fmt: skip
    if folder:
        for task, rows in written.items():
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            write_whole(folder / f"{task}.jsonl", "".join(lines))
        write_whole(folder / RESULT, json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    return result


def _result_in(file: Path) -> dict[str, Any] | None:
    """The result that is there; None where there is none, or it is damaged and so is made anew."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.keys() >= {"figures", "items", "seconds", "path"} else None


def _read_with(model: Path) -> dict[str, str]:
    """The digest of the tokenizer that lies beside a model's file and is no part of it."""
    beside = tokenizer_beside(model) if model.is_file() else None
    return {"tokenizer": digest_of_path(beside)} if beside else {}


def read_data(benchmark: Benchmark, data_root: Path, config: BenchmarkConfig, limit: int | None = None) -> Data:
    """The first `limit` items of a benchmark. Raises InputError where a list, a picture or a video is missing."""
    file = find_list(benchmark, data_root, config.split)
    media = Media(benchmark, config.image_root or (data_root if data_root.is_dir() else file.parent))
    beside = find_beside(benchmark, file, config.split)
    items: Items
    if "nlvr" in benchmark.tasks:
        items = read_statements(file, media)
    elif "vqa" in benchmark.tasks:
        items = read_asked(file, media, beside)
    else:
        items = read_captioned(benchmark, file, media, config.split, beside)
    answers = find_answers(config, file) if "vqa" in benchmark.tasks else None
    data = Data(items[:limit], [one for one in (file, beside, answers) if one])
    check_media(benchmark, data.media)
    return data


def _media_of(item: Captioned | Asked | Statement) -> Sequence[Path]:
    if isinstance(item, Statement):
        return item.images
    return (item.image if isinstance(item, Asked) else item.file,)


def _tasks(benchmark: Benchmark, config: BenchmarkConfig) -> tuple[Task, ...]:
    if unknown := [task for task in config.tasks if task not in benchmark.tasks]:
        raise InputError(f"benchmark.tasks: {benchmark.name} has no {unknown[0]}, only {', '.join(benchmark.tasks)}")
    return config.tasks or benchmark.tasks


def _measure(
    source: str | Path, tasks: Sequence[Task], data: Data, work: Work
) -> tuple[dict[str, float], dict[str, list[dict[str, Any]]]]:
    """Figures of all tasks that the model can do, and what it wrote, by task."""
    device, config = resolve_device(work.config.device), work.config
    if device.type == "cpu":
        keep_freed_memory()
    is_half = config.dtype == "bfloat16" or (config.dtype == "auto" and device.type == "cuda")
    answers = find_answers(config, data.lists[0]) if "vqa" in tasks else None
    candidates = read_answers(answers) if answers else []
    model, tokenizer, able = _open(source, tasks, work, device)
    figures: dict[str, float] = {}
    written: dict[str, list[dict[str, Any]]] = {}
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=is_half):
        if isinstance(model, Nlvr):
            figures, written["nlvr"] = measure_statements(model, tokenizer, data.items, work)
        elif isinstance(model, Vqa):
            figures, written["vqa"] = measure_answering(model, tokenizer, data.items, work, candidates)
        else:
            if "captioning" in able:
                figures, written["captioning"] = measure_captioning(model, tokenizer, data.items, work)
            if "retrieval" in able:
                figures |= measure_retrieval(model, tokenizer, data.items, work)
    return figures, written


def _open(
    source: str | Path, tasks: Sequence[Task], work: Work, device: torch.device
) -> tuple[Model, Tokenizer, Sequence[Task]]:
    """The model, its tokenizer, and the tasks that it can do."""
    config = work.config
    if "nlvr" in tasks:
        return *load_nlvr(source, device, config.image_size, config.normalise), tasks
    if "vqa" in tasks:
        vqa, tokenizer = load_vqa(source, device, config.image_size or work.vqa.image_size)
        set_normalise(vqa, config.normalise)
        return vqa, tokenizer, tasks
    med, tokenizer = load_med(source, device, config.image_size)
    set_normalise(med, config.normalise)
    can = {"captioning": DECODE in med.capabilities, "retrieval": bool({EMBED, MATCH} & med.capabilities)}
    able = [task for task in tasks if can[task]]
    lacks = [task for task in tasks if not can[task]]
    if not able or (lacks and config.tasks):
        has = ", ".join(sorted(med.capabilities))
        raise CheckpointError(f"{source}: cannot do {', '.join(lacks)}; it holds weights for {has} only")
    if "captioning" in able:
        check_programs(work)
    return med, tokenizer, able


def _used(work: Work, tasks: Sequence[Task]) -> dict[str, Any]:
    """The settings as they were for this benchmark, those of its tasks."""
    used = work.config.model_dump(mode="json")
    used |= {"sampler": work.sampler.model_dump(mode="json"), "rerank_top_k": work.rerank_top_k}
    if work.benchmark.is_video:
        used["frames"] = work.num_frames
    if "vqa" in tasks:
        names = ("question_tokens", "answer_tokens", "num_beams", "rank_top_k")
        used["vqa"] = VqaConfig.model_dump(work.vqa, mode="json", include=set(names))
    return used
