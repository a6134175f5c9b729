"""The task of captioning: a text for each picture, and BLEU, METEOR, ROUGE-L, CIDEr and SPICE over them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from blip_bootstrap.errors import InputError
from blip_bootstrap.progress import Progress
from blip_training.benchmarks.captioned import Captioned
from blip_training.benchmarks.spice import find_java, spice
from blip_training.benchmarks.work import Work, blocks_of, check_finite
from blip_training.data.tokenizer import Tokenizer
from blip_training.decoding.generate import generate
from blip_training.decoding.sampler import resolve_sampler
from blip_training.evaluate.caption_metrics import CaptionScores, score_captions
from blip_training.evaluate.evaluate import caption_seed
from blip_training.model.med import MATCH, Med

PROMPT = "a picture of"


def measure_captioning(
    med: Med, tokenizer: Tokenizer, items: Sequence[Captioned], work: Work
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Figures of captions that `med` writes, overall and as `<name>_<domain>`, and a row for each caption.

    A domain's figures are those of COCO's evaluation run over that domain alone.
    """
    has_meteor = wants_meteor(work)
    captions = dict(zip((item.key for item in items), write_captions(med, tokenizer, items, work), strict=True))
    scores = _scores(items, captions)
    figures = _figures(scores) | ({"meteor": scores.meteor()} if has_meteor else {})
    if work.config.spice_jar:
        figures["spice"] = spice(work.config.spice_jar, captions, {item.key: item.captions for item in items})
    for domain in dict.fromkeys(item.domain for item in items if item.domain):
        own = [item for item in items if item.domain == domain]
        figures |= {f"{name}_{domain}": value for name, value in _figures(_scores(own, captions)).items()}
    return figures, [
        {
            "key": item.key, "file": item.file.name, "caption": captions[item.key],
            "references": list(item.captions), "domain": item.domain, "cider": scores.cider[item.key],
        }
        for item in items
    ]  # fmt: skip


def check_programs(work: Work) -> None:
    """Raise InputError, before any work, where METEOR or SPICE is asked for and cannot be computed."""
    wants_meteor(work)
    if work.config.spice_jar:
        find_java(work.config.spice_jar)


def wants_meteor(work: Work) -> bool:
    """Whether METEOR is computed. Raises InputError where it is asked for and there is no java."""
    has_java = shutil.which("java") is not None
    if work.config.meteor and not has_java:
        raise InputError("benchmark.meteor needs java, which is not on the PATH; install it, or leave the setting out")
    return has_java if work.config.meteor is None else work.config.meteor


def write_captions(med: Med, tokenizer: Tokenizer, items: Sequence[Captioned], work: Work) -> list[str]:
    """One caption for each picture; a sampled one depends on the seed and its key alone."""
    prompt = work.config.prompt
    if prompt is None:
        prompt = "" if MATCH in med.capabilities else PROMPT
    sampler, captions = resolve_sampler(work.sampler), []

    def write(block: Sequence[Captioned]) -> list[str]:
        texts = []
        for _, some in blocks_of(block, work.items_at_once):
            pixels = work.pixels([item.file for item in some], med.config.vision.image_size)
            seeds = [[caption_seed(work.config.seed, item.key)] for item in some]
            written = generate(med, tokenizer, med.encode_image(pixels), prompt, sampler, seeds)
            check_finite([caption.logprob for (caption,) in written], "likelihoods of captions")
            texts += [caption.text for (caption,) in written]
        return texts

    with Progress("captions", len(items), unit="pictures") as progress:
        for start, block in blocks_of(items, work.block):
            captions += work.values(f"captions-{start:07d}", len(block), partial(write, block))
            progress.advance(len(block))
    return captions


def _scores(items: Sequence[Captioned], captions: Mapping[str, str]) -> CaptionScores:
    return score_captions({item.key: captions[item.key] for item in items}, {i.key: i.captions for i in items})


def _figures(scores: CaptionScores) -> dict[str, float]:
    """bleu1..4, rouge_l (0..1) and cider (0..10)."""
    over = scores.over(list(scores.words))
    return scores.bleu() | {"rouge_l": over["rouge_l"], "cider": over["cider"]}
