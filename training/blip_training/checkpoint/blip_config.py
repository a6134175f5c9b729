"""Reads a BLIP's sizes from its config.json or the shapes of its weights, and refuses settings that no BLIP has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from blip_bootstrap.config import ModelConfig, TextConfig, VisionConfig
from blip_bootstrap.errors import CheckpointError
from blip_training.model.vision import CLIP_MEAN, CLIP_STD

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor


ENCODER, DECODER, LM = "text_encoder.", "text_decoder.bert.", "text_decoder.cls.predictions."

HEAD_WIDTH = 64
"""The width of attention heads in BLIP base and large: the .pth files do not give the number of heads."""

COMPUTED: dict[str, dict[str, tuple[Any, ...]]] = {
    "text_config": {"hidden_act": ("gelu",), "layer_norm_eps": (1e-12,), "position_embedding_type": ("absolute",)},
    "vision_config": {"hidden_act": ("gelu",), "layer_norm_eps": (1e-5, 1e-6), "num_channels": (3,)},
}
"""Settings that change what a model computes, and the values that are computed here. The published folders state
transformers' default epsilon of 1e-5 for image encoders that were trained with 1e-6."""

SIZES = (
    "image_size", "patch_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "max_position_embeddings", "vocab_size", "bos_token_id",
)  # fmt: skip

SEEN: dict[str, Any] = {
    "do_normalize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_center_crop": False, "resample": 3,
    "image_mean": CLIP_MEAN, "image_std": CLIP_STD,
}  # fmt: skip
"""Settings of preprocessor_config.json, all optional, and how pictures are turned into pixels here."""


def config_from_transformers(content: dict[str, Any], source: Path) -> tuple[ModelConfig, int]:
    """Model configuration and number of tokens from a transformers BLIP's config.json; defaults are transformers'.

    Epsilons and dropout are BLIP's own, whatever the file says: the published folders carry defaults that the models
    were not trained with. Raises CheckpointError if it is no BLIP's.
    """
    if content.get("model_type") != "blip":
        raise CheckpointError(f"{source}: model_type is {content.get('model_type')!r}; a BLIP folder says 'blip'")
    text, vision = (_sizes(content, part, source) for part in COMPUTED)
    for part, values in COMPUTED.items():
        check_computed(content.get(part) or {}, values, f"{source}: {part}.")
    width = vision.get("hidden_size", 768)
    if vision.get("intermediate_size", 3072) != 4 * width:
        raise CheckpointError(f"{source}: vision intermediate_size is not 4 x {width}; no BLIP has such a ViT")
    tokens = text.get("vocab_size", 30524)
    if text.get("bos_token_id", 30522) != tokens - 2:
        raise CheckpointError(
            f"{source}: bos_token_id {text.get('bos_token_id')} is not vocab_size - 2, BLIP's [DEC]; "
            f"the {tokens} tokens must end with [DEC] and [ENC]"
        )
    try:
        return _model_config(text, vision, content.get("image_text_hidden_size", 256)), tokens
    except ValidationError as error:
        raise CheckpointError(f"{source}: not a BLIP configuration ({' '.join(str(error).split())})") from error


def _sizes(content: dict[str, Any], part: str, source: Path) -> dict[str, Any]:
    """A section of config.json whose sizes are numbers."""
    section = content.get(part) or {}
    if not isinstance(section, dict):
        raise CheckpointError(f"{source}: {part} is {section!r}; it must be a section of settings")
    for name in SIZES:
        check_number(section.get(name, 1), f"{source}: {part}.{name}")
    return section


def check_number(value: object, where: str) -> None:
    """Raise CheckpointError where a size that config.json gives is no whole number."""
    if type(value) is not int or value < 0:
        raise CheckpointError(f"{where} is {value!r}; it must be a whole number")


def check_computed(section: Mapping[str, Any], values: Mapping[str, tuple[Any, ...]], where: str) -> None:
    """Raise CheckpointError if a setting has another value than those that are computed here."""
    for name, computed in values.items():
        if section.get(name, computed[0]) not in computed:
            raise CheckpointError(f"{where}{name} is {section[name]!r}; only {computed[0]!r} is computed here")


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
    """Model configuration and number of tokens from the shapes of an original file's weights, by transformers' names.

    Raises CheckpointError if a weight is missing.
    """
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


def check_processor(content: Mapping[str, Any], source: Path) -> None:
    """Raise CheckpointError if a preprocessor_config.json describes other pixels than are made here.

    A processor_config.json holds these settings under `image_processor`.
    """
    content = content.get("image_processor") or content
    for name, wanted in SEEN.items():
        found = content.get(name)
        if found is not None and not _alike(found, wanted):
            raise CheckpointError(f"{source}: {name} is {found}; pictures are made pixels with {wanted} here")


def _alike(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, (tuple, float)):
        numbers, other = (one if isinstance(one, (list, tuple)) else [one] for one in (found, wanted))
        if len(numbers) != len(other) or not all(isinstance(one, (int, float)) for one in numbers):
            return False
        return all(abs(a - b) < 1e-4 for a, b in zip(numbers, other, strict=True))
    return bool(found == wanted)
