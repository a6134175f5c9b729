"""How many word pieces the model of a plan has: those of the tokenizer, or those that the run's texts have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from blip_bootstrap.config import Config
from blip_bootstrap.errors import CheckpointError
from blip_bootstrap.storage.parquet import parquet_files

if TYPE_CHECKING:
    from blip_training.data.tokenizer import Tokenizer

BERT, BERTS_TOKENS = "bert-base-uncased", 30_524
"""The paper's tokenizer, and its word pieces with [DEC] and [ENC]: known without fetching it."""

Say = Callable[[str], None]


def planned_tokens(config: Config, say: Say) -> int:
    """The word pieces of a fresh model, with [DEC] and [ENC]; `say` gets a line where these are the most it can have.

    A tokenizer that cannot be read counts as BERT's, and that is said.
    """
    text = config.pretrain.model.text
    if text.vocabulary == "seen" and (seen := seen_tokenizer(config)):
        return seen.num_tokens
    try:
        most = BERTS_TOKENS if text.tokenizer == BERT else _load(text.tokenizer).num_tokens
    except CheckpointError as error:
        say(f"plan: {error}; its word pieces are counted as BERT's, {BERTS_TOKENS - 2:,}")
        return BERTS_TOKENS
    if text.vocabulary == "seen":
        say(_upper_bound(most))
    return most


def with_planned_vocabulary(config: Config, scratch: Path, say: Say) -> Config:
    """The configuration with a tokenizer of just the word pieces that the run's model will have, made in `scratch`.

    A plan trains on a sample, whose own texts have fewer than all texts of the run. Where these are not there yet, all
    of the tokenizer's are planned, which is said.
    """
    text = config.pretrain.model.text
    if text.vocabulary != "seen":
        return config
    if seen := seen_tokenizer(config):
        seen.save(scratch / "seen_tokenizer")
        changes = {"tokenizer": str(scratch / "seen_tokenizer"), "vocabulary": "whole"}
    else:
        say(_upper_bound(_load(text.tokenizer).num_tokens))
        changes = {"vocabulary": "whole"}
    model = config.pretrain.model.model_copy(update={"text": text.model_copy(update=changes)})
    return config.model_copy(update={"pretrain": config.pretrain.model_copy(update={"model": model})})


def seen_tokenizer(config: Config) -> Tokenizer | None:
    """The tokenizer that `vocabulary: seen` makes of the run's texts; None where its pictures are not there yet."""
    from blip_training.data.normalise import captions_as_seen  # loads torch
    from blip_training.feed.shards import known_texts  # loads torch

    images, human = config.root / "images", config.root / "human"
    if not parquet_files(images):
        return None
    text, tokenizer = config.pretrain.model.text, _load(config.pretrain.model.text.tokenizer)
    texts = known_texts(images, human if parquet_files(human) else None)
    return tokenizer.cut_to(tokenizer.seen_pieces((captions_as_seen(text, batch) for batch in texts), text.least_seen))


def _load(source: str) -> Tokenizer:
    from blip_training.data.tokenizer import Tokenizer  # loads torch

    return Tokenizer.load(source)


def _upper_bound(most: int) -> str:
    return (
        "plan: pretrain.model.text.vocabulary seen: which word pieces the texts have is not known before the pictures "
        f"are there; planned with all {most - 2:,} of the tokenizer, an upper bound"
    )
