"""Pre-training of MED with ITC + ITM + LM on web and human pairs (sections 3.2 and 4.1)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from blip_bootstrap.config import PretrainConfig
from blip_training.checkpoint.fresh import new_med
from blip_training.checkpoint.store import load_med, save_med
from blip_training.data.normalise import captions_as_seen
from blip_training.data.tokenizer import Tokenizer
from blip_training.feed.batches import open_training_data
from blip_training.feed.left_out import read_left_out
from blip_training.feed.shards import Drawing, Split, known_texts
from blip_training.model.cross_attention import KeyValue
from blip_training.model.med import Med
from blip_training.objective.contrast import Contrast
from blip_training.objective.losses import lm_loss
from blip_training.objective.micro_batches import MicroBatch, micro_batches_of, warn_of_cut_texts
from blip_training.runtime.workers import Worker, this_worker
from blip_training.train.alike import check_config
from blip_training.train.contrastive_step import contrastive_step
from blip_training.train.feed import feed_of
from blip_training.train.log import OnStep
from blip_training.train.run import Run, prepare
from blip_training.train.schedule import alpha_at


def pretrain_model(
    out: Path, images: Path | None, pairs: Path | None, human: Path | None, config: PretrainConfig,
    on_step: OnStep | None = None, previous: Path | str | None = None, same_pictures: Path | None = None,
) -> dict[str, int | float]:  # fmt: skip
    """Train a model on web pairs (`images` with `pairs`, kept rows) and the human set; save it in `out`.

    Either set may be None. Pictures that the table in `same_pictures` leaves out are not trained on, nor, with
    `hold_out_validation`, the tenth of the human set that fine-tuning validates on. The model starts from scratch, or
    with `start_from: previous` from `previous`. A killed run resumes from the checkpoint in `out` with equal losses.
    Under torch.distributed every process calls this. Returns the counts and the figures of the log's last line. Raises
    InputError if there is no pair or a picture is broken.
    """
    worker = this_worker(config.optimizer.device)
    check_config(config, worker)
    med, tokenizer = start_model(config, previous, worker, known_texts(images, human))
    contrast = Contrast(med, config.itc, config.itm, worker)
    feed = feed_of(
        med, config.optimizer, worker, config.augment, config.human_share, config.augment_views, config.crop_area
    )
    left_out = read_left_out(same_pictures)
    split: Split = "train" if config.hold_out_validation else "all"
    drawing = Drawing(config.texts_per_image, config.source_weights.web, config.source_weights.synthetic)
    data = open_training_data(images, pairs, human, feed, split, left_out, drawing)
    kept = {"momentum": contrast.momentum, "queue": contrast.queue}
    run = Run(out, med, config.optimizer, worker, kept, on_step)
    if worker.first and not run.step:
        warn_of_cut_texts(med, tokenizer, [sample.text for sample in data.own_samples(0)])

    def lm_of(batch: MicroBatch, states: Tensor, keys: list[KeyValue] | None) -> Tensor:
        return lm_loss(med, states, batch.ids, batch.mask, 0, config.label_smoothing, keys)

    for step, batches in run.steps(data):
        micro_batches = micro_batches_of(med, tokenizer, batches, worker)
        contrastive_step(run, contrast, micro_batches, alpha_at(config.itc, step), lm_of)

    if worker.first:
        with run.published():
            save_med(out, med, tokenizer, {"pretrained_steps": run.step})
    return {"pairs": data.web.num_samples, "human_captions": data.human.num_samples, **run.finish()}


def start_model(
    config: PretrainConfig, previous: Path | str | None, worker: Worker, texts: Iterable[Sequence[str]] = ()
) -> tuple[Med, Tokenizer]:
    """The model to pre-train, in training mode: a fresh one, drawn by `optimizer.seed`, or the previous one.

    With `text.vocabulary: seen` a fresh one has the word pieces that `texts`, given in batches, have.
    """
    if config.start_from == "previous" and previous is not None:
        med, tokenizer = load_med(previous, worker.device, config.image_size)
    else:
        torch.manual_seed(config.optimizer.seed)
        text, pieces = config.model.text, None
        tokenizer = Tokenizer.load(text.tokenizer)
        if text.vocabulary == "seen":
            pieces = tokenizer.seen_pieces((captions_as_seen(text, batch) for batch in texts), text.least_seen)
            tokenizer = tokenizer.cut_to(pieces)
        med = new_med(config.model, tokenizer.num_tokens, pieces).to(worker.device)
        torch.nn.init.constant_(med.temperature, config.itc.temperature)
    return prepare(med, config.optimizer), tokenizer
