"""The small real model trained on clean pairs of photographs: captioner and filter, and their figures on dev.jsonl.

    .venv/bin/python tests/bench/real_photos.py [--config configs/flickr8k_clean.yaml] [--only STAGE] [--json]

Trains on the human set and on the web rows that web_truth.tsv calls clean: an upper line, for which alone the truth is
read. Takes up again what was killed. Minutes are those of training, evaluation not counted.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from blip_bootstrap.config import Config, FinetuneConfig, ItmConfig, load_config
from blip_pipelines.annotated import ingest_annotated
from blip_training.checkpoint import save_med
from blip_training.evaluate import evaluate_model
from blip_training.finetune import finetune_captioner_model, finetune_filter_model
from blip_training.pretrain import start_model
from blip_training.workers import this_worker

HUMAN, WEB = "human.jsonl", "web.tsv"
TRAININGS = {
    "captioner": finetune_captioner_model, "contrast": finetune_filter_model, "filter": finetune_filter_model,
}  # fmt: skip


def write_pairs(path: Path, truth: Path) -> None:
    """JSON lines of the human set and of the clean web rows, as an annotated set."""
    lines = (truth.parent / HUMAN).read_text(encoding="utf-8").splitlines()
    clean = {row["image"] for row in _rows(truth) if row["kind"] == "clean"}
    for row in _rows(truth.parent / WEB):
        if row["image"] in clean:
            lines.append(json.dumps({"image": row["image"], "captions": [row["alt_text"]]}))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def ingest(config: Config, root: Path) -> tuple[Path, Path]:
    """The tables of the training and of the held-out pairs."""
    assert config.human is not None, "the configuration names no human set"
    assert config.held_out is not None, "the configuration names no held-out set"
    assert config.truth is not None, "the configuration names no truth file"
    if not config.human.path.exists():
        write_pairs(config.human.path, config.truth)
    for name, annotated in (("human", config.human), ("held_out", config.held_out)):
        (root / name).mkdir(parents=True, exist_ok=True)
        ingest_annotated(root / name, annotated.path, annotated)
    return root / "human", root / "held_out"


def start(config: Config, out: Path) -> Path:
    """The untrained model that both trainings start from."""
    if not (out / "config.json").exists():
        med, tokenizer = start_model(config.pretrain, None, this_worker("cpu"))
        out.mkdir(parents=True, exist_ok=True)
        save_med(out, med, tokenizer, {"pretrained_steps": 0})
    return out


def stage(name: str, config: Config, root: Path) -> tuple[FinetuneConfig, Path]:
    """The settings of a training and what it starts from: the filter from `contrast`, which is ITC alone."""
    if name == "captioner":
        return config.captioner, start(config, root / "start")
    if name == "filter":
        return config.filter, root / "contrast"
    first = config.pretrain
    settings = {"optimizer": first.optimizer, "itc": first.itc, "augment": first.augment}
    settings |= {"augment_views": first.augment_views, "itm": ItmConfig(start_step=first.optimizer.steps)}
    return config.filter.model_copy(update=settings), start(config, root / "start")


def train(name: str, config: Config, root: Path, human: Path) -> dict[str, float]:
    """Train one of the three where it is not there yet; its figures, and the minutes of the run that ended it."""
    out, noted = root / name, root / f"{name}.json"
    if noted.exists():
        return dict(json.loads(noted.read_text()))
    out.mkdir(parents=True, exist_ok=True)
    section, previous = stage(name, config, root)
    clock = time.perf_counter()

    def show(step: int, figures: Mapping[str, float]) -> None:
        shown = "  ".join(f"{key} {value:.4g}" for key, value in figures.items())
        print(f"{name} {step}/{section.optimizer.steps}  {time.perf_counter() - clock:.0f} s  {shown}", file=sys.stderr)

    counts = TRAININGS[name](out, previous, human, section, show)
    figures = {"minutes": round((time.perf_counter() - clock) / 60, 1), **counts}
    noted.write_text(json.dumps(figures))
    return figures


def measure(name: str, config: Config, root: Path, held_out: Path) -> dict[str, float]:
    """CIDEr of the captioner; recalls by ITC, the same with ITM re-ranking, and ITM AUC of the filter."""
    if name == "captioner":
        return evaluate_model(root / name, held_out, config.evaluate, captioner=root / name).metrics
    plain = config.evaluate.model_copy(update={"rerank_top_k": 0})
    figures = evaluate_model(root / name, held_out, plain).metrics
    if name == "contrast":
        return figures
    reranked = evaluate_model(root / name, held_out, config.evaluate).metrics
    return figures | {f"reranked_{key}": value for key, value in reranked.items() if key != "itm_auc"}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/flickr8k_clean.yaml"))
    parser.add_argument("--only", choices=list(TRAININGS))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as in blip-bootstrap run")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    config = load_config(options.config, options.set)
    root = Path(config.root)
    human, held_out = ingest(config, root)
    found: dict[str, Any] = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    for name in (options.only,) if options.only else list(TRAININGS):
        found[name] = train(name, config, root, human) | measure(name, config, root, held_out)
        if not options.json:
            print("  ".join(f"{key} {value:.4g}" for key, value in found[name].items()))
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
