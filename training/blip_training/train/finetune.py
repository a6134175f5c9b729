"""Fine-tuning of a captioner (LM) and of a filter (ITC + ITM) on the human set (section 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from blip_bootstrap.config import FinetuneConfig, ItcConfig
from blip_training.checkpoint.store import load_med, save_captioner, save_filter, save_med
from blip_training.data.tokenizer import Tokenizer
from blip_training.feed.batches import Batch, TrainingData
from blip_training.feed.counts import count_samples
from blip_training.feed.left_out import read_left_out
from blip_training.feed.shards import annotated_shards
from blip_training.hard_texts.hard_texts import open_hard_texts
from blip_training.model.cross_attention import KeyValue
from blip_training.model.flops import captioning_flops
from blip_training.model.med import DECODE, EMBED, Med, require
from blip_training.objective.contrast import Contrast
from blip_training.objective.losses import drop_words, itc_loss, itm_loss, lm_loss, text_hashes
from blip_training.objective.micro_batches import MicroBatch, encode_texts, micro_batches_of, warn_of_cut_texts
from blip_training.runtime.workers import Worker, this_worker
from blip_training.train.alike import check_config
from blip_training.train.best_model import Best
from blip_training.train.contrastive_step import LmOf, contrastive_step
from blip_training.train.feed import feed_of
from blip_training.train.log import OnStep, itm_of_guessing
from blip_training.train.run import Run, prepare
from blip_training.train.schedule import alpha_at


def finetune_captioner_model(
    out: Path,
    previous_model: Path | str,
    human: Path,
    config: FinetuneConfig,
    on_step: OnStep | None = None,
    same_pictures: Path | None = None,
) -> dict[str, int | float]:
    """Fine-tune `previous_model` to write captions, and save it in `out` (in transformers' format if it has a ViT).

    Pictures have `config.image_size`, to which the position embeddings are interpolated, as the paper does. The loss is
    LM on `config.prompt` and the caption; the prompt's tokens are no targets. With `config.shared` it is
    `finetune_shared_model`. Human pictures that the table in
    `same_pictures` leaves out are neither trained on nor validated on. A killed run resumes from the checkpoint in
    `out`. Raises CheckpointError if the model cannot decode, InputError if `human` has no caption.
    """
    if config.shared:
        return finetune_shared_model(out, previous_model, human, config, on_step, same_pictures)
    worker = this_worker(config.optimizer.device)
    check_config(config, worker)
    alone = Worker(worker.device)
    med, tokenizer = _start(previous_model, DECODE, config, worker)
    prompt_tokens = len(tokenizer.piece_ids(config.prompt))

    def lm_of(batch: MicroBatch, word_dropout: float = 0.0) -> Tensor:
        states = med.encode_image(batch.images)
        read = drop_words(batch.ids, word_dropout, tokenizer.unk_id, prompt_tokens) if word_dropout else None
        return lm_loss(med, states, batch.ids, batch.mask, prompt_tokens, config.label_smoothing, read=read)

    def losses_of(batch: MicroBatch) -> dict[str, Tensor]:
        return {"lm": lm_of(batch, config.word_dropout) * batch.lm_share}

    def validate(batch: Batch) -> Tensor:
        return lm_of(micro_batches_of(med, tokenizer, [batch], alone, config.prompt)[0])

    left_out = read_left_out(same_pictures).human
    data = open_human_data(human, config, med, worker, left_out)
    best = _best(med, human, config, worker, validate, left_out)
    run = Run(out, med, config.optimizer, worker, {"best": best} if best else {}, on_step)
    if worker.first and not run.step:
        warn_of_cut_texts(med, tokenizer, [sample.text for sample in data.own_samples(0)], config.prompt)
    flops = captioning_flops(med.config, med.num_tokens, prompt_tokens)

    for _step, batches in run.steps(data):
        for batch in micro_batches_of(med, tokenizer, batches, worker, config.prompt):
            run.backward(run.losses(partial(losses_of, batch)))
            run.pace.did(flops, batch.mask)
        run.update()
        run.measure(best)

    figures = best.figures() if best else {}
    if worker.first:
        with run.published():
            save_captioner(out, best.best if best else med, tokenizer)
    return {"human_captions": data.num_samples, **run.finish(), **figures}


def finetune_filter_model(
    out: Path,
    previous_model: Path | str,
    human: Path,
    config: FinetuneConfig,
    on_step: OnStep | None = None,
    same_pictures: Path | None = None,
    captioner: Path | str | None = None,
) -> dict[str, int | float]:
    """Fine-tune `previous_model` to tell right texts from wrong ones with ITC + ITM, and save it in `out`.

    Negatives are hard, and never texts of one image. Pictures have `config.image_size`, to which the position
    embeddings are interpolated. Human pictures that the table in `same_pictures` leaves out are neither trained on nor
    validated on. `config.hard_texts` adds wrong texts to ITM; its share `captioner` needs the `captioner`, its share
    `near` the model as it starts. A killed run resumes from the checkpoint in `out`. Raises CheckpointError if the
    model has no unimodal encoders, InputError if `human` has no caption, or none of a kind of hard texts can be made.
    With `config.shared` the `captioner` is saved as the filter, and nothing is trained.
    """
    worker = this_worker(config.optimizer.device)
    check_config(config, worker)
    if config.shared and captioner is not None:
        if worker.first:
            save_filter(out, *load_med(captioner))
        return {"steps": 0}
    med, tokenizer = _start(previous_model, EMBED, config, worker)
    contrast = Contrast(med, config.itc, config.itm, worker)
    left_out = read_left_out(same_pictures).human
    data = open_human_data(human, config, med, worker, left_out)

    def validate(batch: Batch) -> Tensor:
        return validate_matching(med, tokenizer, batch, config.itc)

    hard = open_hard_texts(out, med, data.human.shards, config, worker, captioner)
    best = _best(med, human, config, worker, validate, left_out)
    kept = {"momentum": contrast.momentum, "queue": contrast.queue, **({"best": best} if best else {})}
    run = Run(out, med, config.optimizer, worker, kept, on_step)
    if hard:
        run.log.itm_rest = itm_of_guessing(2 + hard.num_per_picture)

    for step, batches in run.steps(data):
        micro_batches = micro_batches_of(med, tokenizer, batches, worker)
        if hard:
            micro_batches = hard.with_texts(med, tokenizer, step, batches, micro_batches)
        contrastive_step(run, contrast, micro_batches, alpha_at(config.itc, step))
        run.measure(best)

    figures = best.figures() if best else {}
    if worker.first:
        with run.published():
            save_filter(out, best.best if best else med, tokenizer)
    counts = hard.counts() if hard else {}
    return {"human_captions": data.num_samples, **counts, **run.finish(), **figures}


def finetune_shared_model(
    out: Path,
    previous_model: Path | str,
    human: Path,
    config: FinetuneConfig,
    on_step: OnStep | None = None,
    same_pictures: Path | None = None,
) -> dict[str, int | float]:
    """Fine-tune `previous_model` by ITC + ITM + LM to write captions and to judge them: Table 4's shared parameters.

    Saved in `out` in this package's format. All else is as in `finetune_captioner_model` and `finetune_filter_model`.
    """
    worker = this_worker(config.optimizer.device)
    check_config(config, worker)
    alone = Worker(worker.device)
    med, tokenizer = _start(previous_model, DECODE, config, worker)
    require(med, EMBED, previous_model)
    contrast = Contrast(med, config.itc, config.itm, worker)
    prompt_tokens = len(tokenizer.piece_ids(config.prompt))
    left_out = read_left_out(same_pictures).human
    data = open_human_data(human, config, med, worker, left_out)

    def lm_of(prompted: MicroBatch, states: Tensor, keys: list[KeyValue] | None) -> Tensor:
        read = None
        if config.word_dropout:
            read = drop_words(prompted.ids, config.word_dropout, tokenizer.unk_id, prompt_tokens)
        label_smoothing = config.label_smoothing
        return lm_loss(med, states, prompted.ids, prompted.mask, prompt_tokens, label_smoothing, keys, read)

    def validate(batch: Batch) -> Tensor:
        prompted = micro_batches_of(med, tokenizer, [batch], alone, config.prompt)[0]
        lm = lm_loss(med, med.encode_image(batch.images), prompted.ids, prompted.mask, prompt_tokens)
        return validate_matching(med, tokenizer, batch, config.itc) + lm

    best = _best(med, human, config, worker, validate, left_out)
    kept = {"momentum": contrast.momentum, "queue": contrast.queue, **({"best": best} if best else {})}
    run = Run(out, med, config.optimizer, worker, kept, on_step)
    for step, batches in run.steps(data):
        micro_batches = micro_batches_of(med, tokenizer, batches, worker)
        prompted = micro_batches_of(med, tokenizer, batches, worker, config.prompt)
        lm = _with_prompt(prompted, lm_of)
        contrastive_step(run, contrast, micro_batches, alpha_at(config.itc, step), lm)
        run.measure(best)
    figures = best.figures() if best else {}
    if worker.first:
        with run.published():
            save_med(out, best.best if best else med, tokenizer)
    return {"human_captions": data.num_samples, **run.finish(), **figures}


def _with_prompt(prompted: Sequence[MicroBatch], lm_of: LmOf) -> LmOf:
    """The LM loss of a step's micro-batches, on their texts with the prompt before them."""
    return lambda batch, states, keys: lm_of(prompted[batch.number], states, keys)


def validate_matching(med: Med, tokenizer: Tokenizer, batch: Batch, config: ItcConfig) -> Tensor:
    """ITC + ITM within a batch, without momentum encoder and queue; negatives are drawn by a fixed seed."""
    ids, mask = encode_texts(med, tokenizer, batch.texts)
    states = med.encode_image(batch.images)
    image, text = med.embed_image(states), med.embed_text(ids, mask)
    hashes = text_hashes(ids, mask)
    itc = itc_loss(image, text, image, text, batch.ids, med.temperature, 0.0, hashes, config.equal_texts)
    generator = torch.Generator(med.device).manual_seed(0)
    return itc.loss + itm_loss(med, states, ids, mask, batch.ids, itc, generator).loss


def open_human_data(
    human: Path, config: FinetuneConfig, med: Med, worker: Worker, left_out: frozenset[str] = frozenset()
) -> TrainingData:
    """The human set's captions for training: of all pictures, or of nine tenths if the last tenth is for validation."""
    feed = feed_of(
        med, config.optimizer, worker, config.augment, augment_views=config.augment_views, crop_area=config.crop_area
    )
    return TrainingData([], annotated_shards(human, "train" if config.validate_every_steps else "all", left_out), feed)


def _best(
    med: Med,
    human: Path,
    config: FinetuneConfig,
    worker: Worker,
    loss_of: Callable[[Batch], Tensor],
    left_out: frozenset[str],
) -> Best | None:
    """What keeps the best weights by the loss on the validation split; every worker computes it alike."""
    if not (config.validate_every_steps and config.optimizer.steps):  # without a step the model is as it was
        return None
    shards = annotated_shards(human, "validation", left_out)
    size = max(1, min(config.optimizer.batch_size, count_samples(shards).num_samples))
    alone = config.optimizer.model_copy(update={"batch_size": size, "accumulate": 1})
    feed = feed_of(med, alone, Worker(worker.device), "none")
    return Best(med, TrainingData([], shards, feed), loss_of, config.validate_every_steps)


def _start(source: Path | str, capability: str, config: FinetuneConfig, worker: Worker) -> tuple[Med, Tokenizer]:
    med, tokenizer = load_med(source, worker.device, config.image_size)
    require(med, capability, source)
    return prepare(med, config.optimizer), tokenizer
