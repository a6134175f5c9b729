"""A run of one round in a third of a second: real steps over a dozen pictures, models of one layer, no Ray, no web.

Fetching answers from memory; captioning writes blocks of four pictures by a stand-in for the models; a training is a
linear layer in the real loop, with its log, checkpoints and weights. Everything is written by the package's own code.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import torch
from torch import nn

from blip_bootstrap.config import Config, FinetuneConfig, PretrainConfig, load_config
from blip_bootstrap.loop import rounds
from blip_bootstrap.progress import Say
from blip_bootstrap.schemas.tables import IMAGES
from blip_bootstrap.storage.files import write_whole
from blip_bootstrap.storage.parquet import parquet_files, read_parquet
from blip_pipelines.caption import blocks, step, worker
from blip_pipelines.fetch.answers import Fetched
from blip_pipelines.ingest import annotated, download, fetched_rows
from blip_pipelines.scoring.rows import CaptionRow
from blip_training.checkpoint.store import _write_weights as write_weights
from blip_training.runtime.stored import read_safetensors
from blip_training.runtime.workers import Worker
from blip_training.train.run import Run
from blip_training.watch import pace
from tests.support.decoded_here import Here, human, web
from tests.support.tiny_pipeline import encode

ROWS, ROWS_PER_PART, BLOCK_ROWS, HUMAN = 12, 6, 4, 3

Note = Callable[..., None]
"""Notes in the ledger what was paid for: `fetch` and a URL, `caption` and a key, `step` and a number."""


def write_inputs(folder: Path, first: int = 0, rows: int = ROWS) -> None:
    """The URL list and the human set; the list's rows are numbered from `first` on. One row is a 404, one is blank."""
    folder.mkdir(parents=True, exist_ok=True)
    urls = ["http://web/missing" if i == 5 else "" if i == 7 else f"http://web/{i}.jpg" for i in range(first, rows)]
    lines = [f"{url}\ta text of picture {i}" for i, url in enumerate(urls, first)]
    (folder / "web.tsv").write_text("\n".join(["url\tcaption", *lines]) + "\n")
    (folder / "tokenizer").mkdir(exist_ok=True)
    (folder / "tokenizer/vocab.txt").write_text("[PAD]\n")
    for i in range(HUMAN):
        (folder / f"{i}.jpg").write_bytes(encode(100 + i))
    listed = [{"image": f"{i}.jpg", "captions": [f"a picture {i}"]} for i in range(HUMAN)]
    (folder / "human.jsonl").write_text("".join(json.dumps(one) + "\n" for one in listed))


def config_of(root: Path, given: Path, settings: tuple[str, ...] = ()) -> Config:
    """The configuration of the run under `root` over the inputs in `given`."""
    lists = [f"download.urls=[{{path: {given / 'web.tsv'}}}]", f"human.path={given / 'human.jsonl'}"]
    lists += [
        f"held_out.path={given / 'human.jsonl'}",
        "filter_check.pictures=0",
        "select.itm_threshold=0.4",
        "controls.arms=[human_only]",
    ]
    small = [f"download.rows_per_shard={ROWS_PER_PART}", "download.num_threads=1", "caption.references=0"]
    small += [f"pretrain.model.text.tokenizer={given / 'tokenizer'}"]
    small += [f"{name}.optimizer.{one}" for name in ("pretrain", "captioner", "filter") for one in _OPTIMIZER]
    return load_config(None, [*lists, *small, *settings], root=root, ray__address="none")


_OPTIMIZER = ("steps=3", "checkpoint_every_steps=1", "log_every_steps=1", "device=cpu", "warmup_steps=0")


def run(config: Config, last: int, say: Say, note: Note, pages: bool = False) -> None:
    """Run the rounds up to `last` in this process, which is changed for good."""
    torch.set_num_threads(1)
    stand_in(note, pages)
    rounds.run_rounds(config, last, say)


def stand_in(note: Note, pages: bool = False) -> None:
    """Put stand-ins for the web, decoding children and models into this process; without `pages` also for the pages."""
    for module in (step, blocks):
        if hasattr(module, "BLOCK_ROWS"):
            _put(module, BLOCK_ROWS=BLOCK_ROWS)
    _put(fetched_rows, try_once=partial(_fetch, note))
    _put(download, WebStore=Here(web))
    _put(annotated, HumanStore=Here(human))
    _put(worker, CaptionWorker=partial(_Captions, note))
    _put(pace, time=_NoClock)
    for name in ("finetune_captioner", "finetune_filter", "pretrain"):
        _put(rounds, **{name: _named(partial(_train, note), name)})
    _put(rounds, evaluate=_named(_evaluate, "evaluate"), train_controls=_named(_controls, "train_controls"))
    _put(rounds, resolve_dtypes=lambda config, say: config, check_given=lambda config, number: [])
    if not pages:
        _put(rounds, write_overview=lambda root, run: _page(root / "report.html", root.name))
        _put(rounds, write_report=_round_page, write_figures=lambda root, number, truth, say: None)


def _put(module: object, **values: object) -> None:
    for name, value in values.items():
        setattr(module, name, value)


def _named(function: Callable[..., Any], name: str) -> Any:
    def named(*arguments: Any, config: Any) -> Any:
        return function(*arguments, config=config)

    named.__name__ = name
    return named


class _NoClock:
    """Stands for `time` where a log of a training has seconds in it, which no two runs have alike."""

    @staticmethod
    def perf_counter() -> float:
        return 0.0


def _fetch(note: Note, url: str, *_: object) -> Fetched:
    note("fetch", url)
    if "missing" in url:
        return Fetched(None, error_class="http_4xx", error_message="404")
    return Fetched(encode(int(url.rpartition("/")[2].removesuffix(".jpg"))), "image/jpeg")


class _Captions:
    """Stands for CaptionWorker: texts and scores by key, candidate and the models' weights alone."""

    batch_size = BLOCK_ROWS
    writers = judges = SimpleNamespace(are_waiting=False)

    def __init__(self, note: Note, captioner: str, filter: str, config: Any, *_: object) -> None:
        self.note, self.config = note, config
        self.weights = [float(read_safetensors(Path(one) / "model.safetensors")["bias"]) for one in (captioner, filter)]
        self.metadata = {"captioner": str(self.weights[0]), "candidates": str(config.candidates)}

    def in_blocks(self, blocks: Any) -> Iterator[tuple[list[CaptionRow], bool]]:
        for images in blocks:
            yield [row for image in images if image["status"] == "success" for row in self._of(image)], True

    def _of(self, image: Mapping[str, Any]) -> Iterator[CaptionRow]:
        self.note("caption", image["key"])
        yield self._row(image["key"], "web", 0, image["caption"])
        for candidate in range(self.config.candidates):
            told = _number(image["key"], candidate, self.config.seed, self.weights[0])
            yield self._row(image["key"], "synthetic", candidate, f"a picture like {told:.4f}")

    def _row(self, key: str, source: str, candidate: int, text: str) -> CaptionRow:
        row = CaptionRow(key, source, candidate, text, len(text.split()))
        row.itm_score, row.itc_score = _number(key, text, self.weights[1]), 0.5
        row.itm_scores, row.itc_scores = [row.itm_score], [0.5]
        if source == "synthetic":
            row.seed, row.captioner, row.logprob = candidate, "round-01/captioner", -3.0
        return row


def _number(*of: object) -> float:
    """A number in [0, 1) that these decide, exact in float32."""
    return int.from_bytes(hashlib.sha256(repr(of).encode()).digest()[:2], "big") / 2**16


def _train(
    note: Note, out: Path, *inputs: Path | None, config: PretrainConfig | FinetuneConfig
) -> dict[str, int | float]:
    """A linear layer trained on numbers made of its inputs, which are read."""
    told = [_number(*digests_in(one)) for one in inputs if one]
    torch.manual_seed(0)
    layer = nn.Linear(1, 1)
    training = Run(out, layer, config.optimizer, Worker(torch.device("cpu")))
    for number in training.count():
        note("step", f"{out.parent.name}/{out.name} {number}")
        loss = (layer(torch.tensor([[sum(told) + number]])) - 1).square().mean()
        training.backward({"lm": loss})
        training.update()
    write_weights(out / "model.safetensors", layer.state_dict())
    write_whole(out / "config.json", json.dumps({"layer": "linear"}))
    return {"steps": training.step, **training.finish()}


def digests_in(folder: Path) -> list[str]:
    """What the tables and weights of an artifact hold, as its readers see it."""
    if (weights := folder / "model.safetensors").exists():
        return [repr({name: one.tolist() for name, one in sorted(read_safetensors(weights).items())})]
    return [repr(undated(read_parquet(part)).to_pylist()) for part in parquet_files(folder)]


def undated(rows: pa.Table) -> pa.Table:
    """Rows without the columns that no two runs have alike: when hosts were asked."""
    return rows.drop_columns([name for name in IMAGES.dated if name in rows.column_names])


def _evaluate(out: Path, model: Path, held_out: Path, *_: Path | None, config: Any) -> dict[str, float]:
    figures = {"cider": _number(*digests_in(model), *digests_in(held_out))}
    write_whole(out / "metrics.json", json.dumps(figures))
    return figures


def _controls(out: Path, *_: Path | None, config: Any) -> dict[str, float]:
    (out / "human_only/model").mkdir(parents=True, exist_ok=True)
    write_whole(out / "human_only/model/config.json", "{}")
    write_whole(out / "human_only/metrics.json", json.dumps({"cider": 0.5}))
    return {"human_only_cider": 0.5}


def _page(path: Path, text: str) -> Path:
    write_whole(path, text)
    return path


def _round_page(root: Path, number: int, *_: object) -> Path:
    write_whole(root / f"round-{number:02d}" / "metrics.json", json.dumps({"round": number}))
    return _page(root / f"round-{number:02d}" / "report.html", "page")


def ledger(path: Path) -> Note:
    """Notes lines in a file, each of them whole even where the process dies."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def note(*words: object) -> None:
        os.write(descriptor, (json.dumps([str(word) for word in words]) + "\n").encode())

    return note
