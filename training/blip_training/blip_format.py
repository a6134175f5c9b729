"""BLIP models in transformers' format and the original .pth: configuration and weights, to MED and from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError

from blip_bootstrap.config import ModelConfig, TextConfig, VisionConfig
from blip_bootstrap.errors import CheckpointError
from blip_training.med import DECODE, EMBED, MATCH, Med
from blip_training.vision import CLIP_MEAN, CLIP_STD, NORM_EPS, resize_positions
from blip_training.vqa import READINGS, Vqa
from blip_training.weight_names import (
    HEADS,
    NOT_NEEDED,
    head_names,
    lm_head_names,
    text_names,
    to_ours,
    to_theirs,
    vision_names,
)

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from blip_training.text import Tokenizer
    from blip_training.weight_names import Names

ENCODER, DECODER, LM = "text_encoder.", "text_decoder.bert.", "text_decoder.cls.predictions."
CAPTIONER_CLASS, FILTER_CLASS = "BlipForConditionalGeneration", "BlipForImageTextRetrieval"
VQA_CLASS = "BlipForQuestionAnswering"
HEAD_WIDTH = 64
"""Of BLIP's attention heads, base and large; the .pth files do not say how many heads there are."""


def config_from_transformers(content: dict[str, Any], source: Path) -> tuple[ModelConfig, int]:
    """Model configuration and number of tokens of a transformers BLIP; what is absent has transformers' default.

    The norms' epsilons and the dropout are BLIP's own, whatever the file says: the published folders carry defaults
    that the models were not trained with.
    """
    if content.get("model_type") != "blip":
        raise CheckpointError(f"{source}: model_type is {content.get('model_type')!r}; a BLIP folder says 'blip'")
    text, vision = content.get("text_config") or {}, content.get("vision_config") or {}
    width = vision.get("hidden_size", 768)
    if vision.get("intermediate_size", 3072) != 4 * width:
        raise CheckpointError(f"{source}: vision intermediate_size is not 4 x {width}; no BLIP has such a ViT")
    tokens = text.get("vocab_size", 30524)
    if text.get("bos_token_id", 30522) != tokens - 2:
        raise CheckpointError(f"{source}: bos_token_id {text.get('bos_token_id')} is not vocab_size - 2, BLIP's [DEC]")
    try:
        return _model_config(text, vision, content.get("image_text_hidden_size", 256)), tokens
    except ValidationError as error:
        raise CheckpointError(f"{source}: not a BLIP configuration ({' '.join(str(error).split())})") from error


def _model_config(text: dict[str, Any], vision: dict[str, Any], embed_dim: int) -> ModelConfig:
    return ModelConfig(
        vision=VisionConfig(
            image_size=vision.get("image_size", 384),
            patch_size=vision.get("patch_size", 16),
            width=vision.get("hidden_size", 768),
            depth=vision.get("num_hidden_layers", 12),
            heads=vision.get("num_attention_heads", 12),
        ),
        text=TextConfig(
            width=text.get("hidden_size", 768),
            depth=text.get("num_hidden_layers", 12),
            heads=text.get("num_attention_heads", 8),
            intermediate=text.get("intermediate_size", 3072),
            max_positions=text.get("max_position_embeddings", 512),
            max_tokens=min(30, text.get("max_position_embeddings", 512)),
        ),
        embed_dim=embed_dim,
    )


def config_from_weights(weights: dict[str, Tensor], source: Path) -> tuple[ModelConfig, int]:
    """The same from the shapes of an original file's weights, by transformers' names."""
    root = DECODER if any(name.startswith(DECODER) for name in weights) else ENCODER
    try:
        patches = weights["vision_model.embeddings.patch_embedding.weight"]
        positions = weights["vision_model.embeddings.position_embedding"].shape[1]
        words, intermediate = (
            weights[f"{root}{name}.weight"]
            for name in ("embeddings.word_embeddings", "encoder.layer.0.intermediate.dense")
        )
        max_positions = len(weights[f"{root}embeddings.position_embeddings.weight"])
    except KeyError as error:
        raise CheckpointError(f"{source}: not a BLIP checkpoint: key {error} is missing") from error
    width = patches.shape[0]
    vision = {
        "image_size": int((positions - 1) ** 0.5) * patches.shape[2], "patch_size": patches.shape[2],
        "hidden_size": width, "num_attention_heads": width // HEAD_WIDTH,
        "num_hidden_layers": _depth(weights, "layers"),
    }  # fmt: skip
    text = {
        "hidden_size": words.shape[1], "num_attention_heads": words.shape[1] // HEAD_WIDTH,
        "num_hidden_layers": _depth(weights, "layer"), "intermediate_size": len(intermediate),
        "max_position_embeddings": max_positions,
    }  # fmt: skip
    embed_dim = len(weights["vision_proj.weight"]) if "vision_proj.weight" in weights else 256
    return _model_config(text, vision, embed_dim), len(words)


def _depth(weights: dict[str, Tensor], kind: str) -> int:
    numbers = [name.split(f".encoder.{kind}.")[1].split(".")[0] for name in weights if f".encoder.{kind}." in name]
    return 1 + max(map(int, numbers), default=-1)


def med_from_blip(weights: dict[str, Tensor], config: ModelConfig, num_tokens: int, source: Path) -> Med:
    """MED with the weights of a BLIP, by transformers' names; `capabilities` tells what they hold.

    What the file does not hold stays as a fresh model has it. An encoder and a decoder without any head are a Vqa.
    Raises CheckpointError naming keys that are missing or left over.
    """
    has_decoder = any(name.startswith("text_decoder.") for name in weights)
    has_encoder = any(name.startswith(ENCODER) for name in weights)
    heads = [head for head, (name,) in HEADS.items() if f"{name}.weight" in weights]
    if has_decoder and has_encoder and not heads:
        return _vqa_from_blip(weights, config, num_tokens, source)
    if has_decoder and has_encoder and not _shares(weights):
        config = config.model_copy(update={"share": "none"})
    names: Names = vision_names(config.vision.depth)
    theirs = {name for group in names.values() for name in group}
    tables = [head_names(heads)]
    if has_decoder:
        tables += [text_names(config, "causal", DECODER), lm_head_names(LM)]
    if has_encoder:
        tables += [text_names(config, "bidirectional", ENCODER)]
    if "temperature" in weights:
        tables += [{"temperature": ("temperature",)}]
    for table in tables:
        names |= table
        theirs |= {name for group in table.values() for name in group}
    _check_names(weights, theirs, source)
    med = Med(config, num_tokens)
    _fill(med, weights, names, source)
    holds = {DECODE: has_decoder, EMBED: has_encoder and len(heads) >= 2, MATCH: has_encoder and "itm_head" in heads}
    med.capabilities = frozenset(what for what, held in holds.items() if held)
    return med


def _vqa_from_blip(weights: dict[str, Tensor], config: ModelConfig, num_tokens: int, source: Path) -> Vqa:
    vqa = Vqa(config, num_tokens)
    names = vqa_names(vqa.config)
    _check_names(weights, {name for group in names.values() for name in group}, source)
    _fill(vqa, weights, names, source)
    return vqa


def _shares(weights: dict[str, Tensor]) -> bool:
    """Whether encoder and decoder have the same feed-forward weights, so are one stack and not two."""
    name = "encoder.layer.0.intermediate.dense.weight"
    mine, yours = weights.get(ENCODER + name), weights.get(DECODER + name)
    return mine is not None and yours is not None and torch.equal(mine, yours)


def _check_names(weights: dict[str, Tensor], wanted: set[str], source: Path) -> None:
    missing = sorted(wanted - weights.keys())
    left_over = sorted(name for name in weights.keys() - wanted if not NOT_NEEDED.search(name))
    say = [f"{name_some(names)} {what}" for what, names in (("missing", missing), ("left over", left_over)) if names]
    if say:
        raise CheckpointError(f"{source}: damaged, or not a BLIP: {'; '.join(say)}")


def name_some(names: list[str], show: int = 3) -> str:
    """The first of the keys, and how many more there are."""
    more = f" and {len(names) - show} more" if len(names) > show else ""
    return f"keys {', '.join(names[:show])}{more}"


def _fill(med: Med, weights: dict[str, Tensor], names: Names, source: Path) -> None:
    state = med.state_dict()
    given = {name: weight.float() for name, weight in to_ours(weights, names).items()}
    given["vision.positions"] = resize_positions(given["vision.positions"], med.vision.num_patches)
    wrong = sorted(name for name, weight in given.items() if weight.shape != state[name].shape)
    if wrong:
        raise CheckpointError(f"{source}: {name_some(wrong)} of another shape than the configuration says")
    med.load_state_dict(state | given)


def vqa_names(config: ModelConfig) -> Names:
    """Of BlipForQuestionAnswering, for a configuration that shares nothing."""
    names = vision_names(config.vision.depth) | lm_head_names(LM)
    for reading, root in zip(READINGS, (ENCODER, DECODER), strict=True):
        names |= text_names(config, reading, root)
    return names


def captioner_weights(med: Med) -> dict[str, Tensor]:
    """Of BlipForConditionalGeneration."""
    names = vision_names(med.config.vision.depth) | text_names(med.config, "causal", DECODER) | lm_head_names(LM)
    return to_theirs(med.state_dict(), names)


def filter_weights(med: Med) -> dict[str, Tensor]:
    """Of BlipForImageTextRetrieval."""
    names = vision_names(med.config.vision.depth) | text_names(med.config, "bidirectional", ENCODER)
    return to_theirs(med.state_dict(), names | head_names(HEADS))


def vqa_weights(vqa: Vqa) -> dict[str, Tensor]:
    """Of BlipForQuestionAnswering."""
    return to_theirs(vqa.state_dict(), vqa_names(vqa.config))


def transformers_config(med: Med, tokenizer: Tokenizer, architecture: str) -> dict[str, Any]:
    """config.json with which transformers computes the same: heads, epsilons, token ids are not its defaults."""
    vision, text = med.config.vision, med.config.text
    dropout = {"hidden_dropout_prob": text.dropout, "attention_probs_dropout_prob": text.dropout}
    return {
        "architectures": [architecture],
        "model_type": "blip",
        "image_text_hidden_size": med.config.embed_dim,
        "projection_dim": med.config.embed_dim,
        "tie_word_embeddings": True,
        "dtype": "float32",
        "vision_config": {
            "model_type": "blip_vision_model", "hidden_size": vision.width, "intermediate_size": 4 * vision.width,
            "num_hidden_layers": vision.depth, "num_attention_heads": vision.heads, "image_size": vision.image_size,
            "patch_size": vision.patch_size, "layer_norm_eps": NORM_EPS, "hidden_act": "gelu",
        },
        "text_config": {
            "model_type": "blip_text_model", "vocab_size": med.num_tokens, "hidden_size": text.width,
            "encoder_hidden_size": vision.width, "intermediate_size": text.intermediate,
            "num_hidden_layers": text.depth, "num_attention_heads": text.heads, "layer_norm_eps": 1e-12,
            "max_position_embeddings": text.max_positions, "hidden_act": "gelu", "is_decoder": True,
            "tie_word_embeddings": True, "bos_token_id": tokenizer.dec_id, "eos_token_id": tokenizer.sep_id,
            "sep_token_id": tokenizer.sep_id, "pad_token_id": tokenizer.pad_id, **dropout,
        },
    }  # fmt: skip


def image_processor_config(image_size: int) -> dict[str, Any]:
    """preprocessor_config.json of transformers' BlipProcessor."""
    return {
        "processor_class": "BlipProcessor", "image_processor_type": "BlipImageProcessor",
        "do_resize": True, "size": {"height": image_size, "width": image_size}, "resample": 3, "do_convert_rgb": True,
        "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
        "image_mean": list(CLIP_MEAN), "image_std": list(CLIP_STD),
    }  # fmt: skip
