"""Measures a model on a held-out set: captions, zero-shot retrieval and image-text matching, overall and by domain."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from blip_bootstrap.config import EvaluateConfig
from blip_bootstrap.errors import InputError
from blip_bootstrap.schemas.tables import EVALUATED
from blip_bootstrap.storage.files import write_whole
from blip_bootstrap.storage.parquet import rows_to_table, write_parquet
from blip_training.checkpoint.store import load_med
from blip_training.data.held_out import HeldOut, read_held_out
from blip_training.data.tokenizer import Tokenizer
from blip_training.decoding.generate import generate
from blip_training.decoding.sampler import Sampler, resolve_sampler
from blip_training.evaluate.caption_metrics import score_captions
from blip_training.evaluate.consensus import choose
from blip_training.evaluate.matching import Judge, measure_matching, text_similarities
from blip_training.model.med import DECODE, EMBED, MATCH, Med, require
from blip_training.runtime.allocator import keep_freed_memory
from blip_training.runtime.workers import resolve_device

FIGURES_FILE, CAPTIONS_FILE = "metrics.json", "captions.parquet"

CONSENSUS_TOP_P = 0.95

REFERENCE_PICTURES = 5000
"""Pictures of the human set among which the references for `rerank_by: lm` are chosen."""

Similarity = Callable[[Mapping[str, Sequence[str]]], Mapping[str, Sequence[float]]]
"""ITC similarities (-1..1) of texts with their picture, both by the picture's key."""


@dataclass(frozen=True)
class WrittenCaption:
    """What the model wrote about a held-out picture beside what people wrote: a row of the table `evaluated`."""

    key: str
    name: str
    domain: str | None
    caption: str
    references: list[str]
    cider: float


@dataclass
class Evaluation:
    """What was measured.

    `metrics` are cider, bleu4, rouge_l, tr1 tr5 tr10, ir1 ir5 ir10 and itm_auc, each also as `<key>_<domain>`.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    captions: list[WrittenCaption] = field(default_factory=list)

    def save(self, out: Path) -> None:
        """Write captions.parquet, then metrics.json into `out`; the latter means that both are whole."""
        write_parquet(out / CAPTIONS_FILE, rows_to_table([vars(row) for row in self.captions], EVALUATED), EVALUATED)
        write_whole(out / FIGURES_FILE, json.dumps(self.metrics, indent=2) + "\n")


def evaluate_model(
    model: Path | str, held_out: Path, config: EvaluateConfig, captioner: Path | str | None = None,
    references: Path | None = None,
) -> Evaluation:  # fmt: skip
    """Measure what `model` can do on an annotated set: captions, retrieval (zero-shot ITC) and matching (ITM).

    `captioner`, if given, writes the captions in place of the model, after `config.prompt`; a pre-trained model never
    saw a prompt and is given none. A text that stands with several pictures is right for each of them. `references` is
    another annotated set (the human set), which `rerank_by: lm` needs. Raises InputError if the set has no readable
    picture or references are missing, CheckpointError if a model is damaged or cannot write.
    """
    device = resolve_device(config.device)
    if device.type == "cpu":
        keep_freed_memory()
    data = read_held_out(held_out, config.limit)
    med, tokenizer = load_med(model, device)
    writer, writers_tokenizer = load_med(captioner, device) if captioner else (med, tokenizer)
    prompt = config.prompt if captioner else ""
    if captioner:
        require(writer, DECODE, captioner)
    evaluation = Evaluation()
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=config.dtype == "bfloat16"):
        if {EMBED, MATCH} <= med.capabilities:
            judge = None
            if config.wants_references:
                require(writer, DECODE, captioner or model)
                judge = Judge(writer, writers_tokenizer, prompt, _references(references))
            evaluation.metrics |= measure_matching(med, tokenizer, data, config, judge)
        if DECODE in writer.capabilities:
            itc = partial(text_similarities, med, tokenizer, data, config) if EMBED in med.capabilities else None
            written = write_captions(writer, writers_tokenizer, data, prompt, config, itc)
            evaluation.captions = judge_captions(data, written)
            evaluation.metrics |= measure_captions(data, written, config.meteor)
    return evaluation


def _references(folder: Path | None) -> HeldOut:
    if folder is None:
        raise InputError("evaluate.rerank_by lm needs a human-annotated set (human) beside the held-out one")
    return read_held_out(folder, REFERENCE_PICTURES)


def write_captions(
    med: Med, tokenizer: Tokenizer, data: HeldOut, prompt: str, config: EvaluateConfig, itc: Similarity | None = None
) -> dict[str, str]:
    """One caption for each picture, by key; a sampled one depends on `config.seed` and the key alone.

    With `config.consensus_samples` it is the sampler's beam that agrees most with that many sampled captions
    (consensus.py), half of them of the mirrored picture if `config.mirrored`. `itc` gives the similarities that
    `config.consensus_itc_weight` weighs.
    """
    sampler, count = resolve_sampler(config.sampler), config.consensus_samples
    nucleus = dataclasses.replace(
        sampler, sample=True, num_beams=1, top_p=CONSENSUS_TOP_P, temperature=config.consensus_temperature
    )
    written: dict[str, list[str]] = {}
    drawn: dict[str, list[str]] = {}
    for rows, pixels in data.pixels(med.config.vision.image_size, config.batch_size):
        keys = [data.pictures[i].key for i in rows]
        write = partial(_write, med, tokenizer, keys=keys, prompt=prompt, seed=config.seed)
        states = med.encode_image(pixels)
        written |= write(states, sampler=sampler, numbers=range(sampler.num_beams if count else 1))
        seen = [states] if count else []
        if count and config.mirrored:
            seen.append(med.encode_image(pixels.flip(-1)))
        for at, own in enumerate(seen):
            for key, texts in write(own, sampler=nucleus, numbers=range(count)[at :: len(seen)]).items():
                drawn.setdefault(key, []).extend(texts)
    if not count:
        return {key: texts[0] for key, texts in written.items()}
    return choose(written, drawn, itc(written) if itc else None, config.consensus_itc_weight)


def _write(
    med: Med,
    tokenizer: Tokenizer,
    states: Tensor,
    *,
    keys: list[str],
    prompt: str,
    seed: int,
    sampler: Sampler,
    numbers: range,
) -> dict[str, list[str]]:
    """The captions of these numbers for each picture, by key."""
    seeds = [[caption_seed(seed, key if at == 0 else f"{key}/{at}") for at in numbers] for key in keys]
    captions = generate(med, tokenizer, states, prompt, sampler, seeds)
    return {key: [one.text for one in own] for key, own in zip(keys, captions, strict=True)}


def measure_captions(data: HeldOut, written: Mapping[str, str], meteor: bool = False) -> dict[str, float]:
    """cider, bleu4 and rouge_l, overall and as `<key>_<domain>`; with `meteor` also meteor, overall.

    A domain's CIDEr has the document frequencies of the whole set.
    """
    keys = [picture.key for picture in data.pictures]
    scores = score_captions(written, {p.key: p.captions for p in data.pictures})
    metrics = scores.over(keys)
    for domain, rows in data.domains.items():
        metrics |= {f"{name}_{domain}": value for name, value in scores.over([keys[i] for i in rows]).items()}
    return metrics | ({"meteor": scores.meteor()} if meteor else {})


def judge_captions(data: HeldOut, written: Mapping[str, str]) -> list[WrittenCaption]:
    """The rows of the table `evaluated`: captions beside what people wrote, each with its CIDEr."""
    cider = score_captions(written, {p.key: p.captions for p in data.pictures}).cider
    return [
        WrittenCaption(p.key, p.name, p.domain, written[p.key], list(p.captions), cider[p.key]) for p in data.pictures
    ]


def caption_seed(seed: int, key: str) -> int:
    """The seed of a sampled caption, by the seed of the evaluation and the picture's key alone."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{key}".encode(), digest_size=8).digest(), "big") >> 1
