"""What the training steps call in a worker; torch is imported there and not in the driver."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from blip_bootstrap.config import EvaluateConfig, FinetuneConfig, PretrainConfig
from blip_bootstrap.storage.files import write_whole
from blip_training.train.checkpoint_files import delete_checkpoints

Counts = dict[str, Any]

Source = Path | str

HEADLINES = ("cider", "bleu4", "rouge_l", "tr1", "ir1", "itm_auc", "meteor")


def call_pretrain(
    out: Path, images: Path | None, pairs: Path | None, human: Path | None, config: PretrainConfig,
    previous: Source | None = None, same_pictures: Path | None = None,
) -> Counts:  # fmt: skip
    """See `blip_training.train.pretrain.pretrain_model`."""
    from blip_training.train.pretrain import pretrain_model  # torch, in the worker alone

    return pretrain_model(out, images, pairs, human, config, None, previous, same_pictures)


def call_captioner(
    out: Path, previous: Source, human: Path, config: FinetuneConfig, same_pictures: Path | None = None
) -> Counts:
    """See `blip_training.train.finetune.finetune_captioner_model`."""
    from blip_training.train.finetune import finetune_captioner_model  # torch, in the worker alone

    return finetune_captioner_model(out, previous, human, config, None, same_pictures)


def call_filter(
    out: Path, previous: Source, human: Path, config: FinetuneConfig, same_pictures: Path | None = None,
    captioner: Source | None = None,
) -> Counts:  # fmt: skip
    """See `blip_training.train.finetune.finetune_filter_model`."""
    from blip_training.train.finetune import finetune_filter_model  # torch, in the worker alone

    return finetune_filter_model(out, previous, human, config, None, same_pictures, captioner)


def call_evaluate(
    out: Path, model: Source, held_out: Path, config: EvaluateConfig, captioner: Source | None = None,
    references: Path | None = None,
) -> Counts:  # fmt: skip
    """See `blip_training.evaluate.evaluate_model`; the figures of single domains are left to metrics.json."""
    from blip_training.evaluate.evaluate import evaluate_model  # torch, in the worker alone

    evaluation = evaluate_model(model, held_out, config, captioner, references)
    evaluation.save(out)
    return {key: value for key, value in evaluation.metrics.items() if key in HEADLINES}


def call_arm(
    out: Path, images: Path, pairs: Path | None, human: Path | None, held_out: Path,
    pretrain: PretrainConfig, evaluate: EvaluateConfig, same_pictures: Path | None = None,
) -> Counts:  # fmt: skip
    """One control arm: train and measure what is not there yet; `out/model` resumes where it was killed."""
    metrics, trained = out / "metrics.json", out / "model" / "counts.json"
    if not trained.exists():
        trained.parent.mkdir(parents=True, exist_ok=True)
        counts = call_pretrain(trained.parent, images, pairs, human, pretrain, same_pictures=same_pictures)
        write_whole(trained, json.dumps(counts, indent=2) + "\n")
    delete_checkpoints(trained.parent)  # the counts say that the model is whole
    if not metrics.exists():
        call_evaluate(out, trained.parent, held_out, evaluate, references=human)
    found: Counts = json.loads(metrics.read_text(encoding="utf-8"))
    return found
