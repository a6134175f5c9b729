"""Tables of weight names: this package's beside those of transformers' folders and the original .pth files.

A table maps each of our names to one or more of theirs, whose weights are stacked along the first axis. One table
serves both directions.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch

from blip_bootstrap.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from torch import Tensor

    from blip_bootstrap.config import ModelConfig
    from blip_training.model.text_stack import Reading

    Names = dict[str, tuple[str, ...]]


LM_HEAD: Names = {
    "text.lm_head.transform": ("transform.dense",),
    "text.lm_head.norm": ("transform.LayerNorm",),
}

HEADS: Names = {"vision_projection": ("vision_proj",), "text_projection": ("text_proj",), "itm_head": ("itm_head",)}

BLIP_BLOCK: Names = {
    "norm1": ("layer_norm1",), "qkv": ("self_attn.qkv",), "project": ("self_attn.projection",),
    "norm2": ("layer_norm2",), "fc1": ("mlp.fc1",), "fc2": ("mlp.fc2",),
}  # fmt: skip

VIT_BLOCK: Names = {
    "norm1": ("layernorm_before",), "qkv": tuple(f"attention.attention.{name}" for name in ("query", "key", "value")),
    "project": ("attention.output.dense",), "norm2": ("layernorm_after",), "fc1": ("intermediate.dense",),
    "fc2": ("output.dense",),
}  # fmt: skip

SELF_ATTENTION: Names = {
    "qkv": tuple(f"attention.self.{name}" for name in ("query", "key", "value")),
    "output": ("attention.output.dense",), "norm": ("attention.output.LayerNorm",),
}  # fmt: skip

CROSS_ATTENTION: Names = {
    "query": ("crossattention.self.query",),
    "key_value": ("crossattention.self.key", "crossattention.self.value"),
    "output": ("crossattention.output.dense",), "norm": ("crossattention.output.LayerNorm",),
}  # fmt: skip

FEED_FORWARD: Names = {"fc1": ("intermediate.dense",), "fc2": ("output.dense",), "norm": ("output.LayerNorm",)}

ORIGINAL = (
    (r"^visual_encoder\.cls_token$", "vision_model.embeddings.class_embedding"),
    (r"^visual_encoder\.pos_embed$", "vision_model.embeddings.position_embedding"),
    (r"^visual_encoder\.patch_embed\.proj\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual_encoder\.norm\.", "vision_model.post_layernorm."),
    (r"^visual_encoder\.blocks\.(\d+)\.norm(\d)\.", r"vision_model.encoder.layers.\1.layer_norm\2."),
    (r"^visual_encoder\.blocks\.(\d+)\.attn\.qkv\.", r"vision_model.encoder.layers.\1.self_attn.qkv."),
    (r"^visual_encoder\.blocks\.(\d+)\.attn\.proj\.", r"vision_model.encoder.layers.\1.self_attn.projection."),
    (r"^visual_encoder\.blocks\.(\d+)\.mlp\.", r"vision_model.encoder.layers.\1.mlp."),
    (r"^temp$", "temperature"),
)

NOT_NEEDED = re.compile(
    r"^text_(encoder|decoder\.bert)\.embeddings\.position_ids$"  # 0, 1, 2, ...
    r"|^(visual_encoder|vision_proj|text_encoder|text_proj|text_decoder)_m\."  # momentum copies
    r"|^(image|text|idx|ptr)_queue(_m)?$|^queue_ptr$|^ptr_queue$"  # of the contrastive training
    r"|^logit_scale$"  # the temperature of BlipModel's own loss
    r"|^text_encoder\.pooler\."  # BLIP reads the first state as it is
)
"""The keys of a BLIP that are left out: nothing that this package computes depends on them."""

NOT_NEEDED_OF_BERT = re.compile(
    r"^embeddings\.position_ids$"
    r"|^pooler\.|^cls\.seq_relationship\."  # of BERT's next-sentence task
    r"|^cls\.predictions\.decoder\.(weight|bias)$"  # handled in _bert_weights: a copy, or weights of its own
)
"""The keys of a BERT that a text stack does not start from."""

NOT_NEEDED_OF_VIT = re.compile(
    r"^pooler\.|^classifier\.|^cls_classifier\.|^distillation_classifier\."  # ImageNet's classes
    r"|^embeddings\.(distillation_token|mask_token)$|^decoder\."  # DeiT's second token; training on masked pictures
)
"""The keys of a ViT or DeiT that an image encoder does not start from."""


def vision_names(depth: int) -> Names:
    """Weight names of BLIP's ViT."""
    root = "vision_model"
    names = {
        "vision.class_token": (f"{root}.embeddings.class_embedding",),
        "vision.positions": (f"{root}.embeddings.position_embedding",),
        **_affine("vision.stem.patches", (f"{root}.embeddings.patch_embedding",)),
        **_affine("vision.norm", (f"{root}.post_layernorm",)),
    }
    for i in range(depth):
        names |= _module(f"vision.blocks.{i}", f"{root}.encoder.layers.{i}", BLIP_BLOCK)
    return names


def vit_names(depth: int) -> Names:
    """Weight names of transformers' ViTModel and DeiTModel."""
    names = {
        "vision.class_token": ("embeddings.cls_token",),
        "vision.positions": ("embeddings.position_embeddings",),
        **_affine("vision.stem.patches", ("embeddings.patch_embeddings.projection",)),
        **_affine("vision.norm", ("layernorm",)),
    }
    for i in range(depth):
        names |= _module(f"vision.blocks.{i}", f"encoder.layer.{i}", VIT_BLOCK)
    return names


def text_names(config: ModelConfig, reading: Reading, root: str, cross_attention: bool = True) -> Names:
    """Weight names of one reading of the text stack, in a BERT whose names begin with `root`."""
    share = config.share
    whole, own_self, own_cross = share == "none", share in ("all_but_sa", "none"), share in ("all_but_ca", "none")
    embeddings = f"text.embeddings.{reading if whole else 'both'}"
    names = {
        f"{embeddings}.words.weight": (f"{root}embeddings.word_embeddings.weight",),
        f"{embeddings}.positions.weight": (f"{root}embeddings.position_embeddings.weight",),
        **_affine(f"{embeddings}.norm", (f"{root}embeddings.LayerNorm",)),
    }
    for i in range(config.text.depth):
        ours, theirs = f"text.layers.{i}", f"{root}encoder.layer.{i}"
        names |= _module(f"{ours}.self_attention.{reading if own_self else 'both'}", theirs, SELF_ATTENTION)
        names |= _module(f"{ours}.feed_forward.{reading if whole else 'both'}", theirs, FEED_FORWARD)
        if cross_attention:
            names |= _module(f"{ours}.cross_attention.{reading if own_cross else 'both'}", theirs, CROSS_ATTENTION)
    return names


def lm_head_names(root: str, tied: bool = True) -> Names:
    """Weight names of the LM head, which begin with `root`; with an output layer unless that is `tied`."""
    names: Names = {"text.lm_head.bias": (f"{root}bias",)}
    if not tied:
        names["text.lm_head.output.weight"] = (f"{root}decoder.weight",)
    for ours, theirs in LM_HEAD.items():
        names |= _affine(ours, tuple(root + name for name in theirs))
    return names


def head_names(heads: Iterable[str]) -> Names:
    """Weight names of those of the ITC projections and the ITM head that `heads` names."""
    names: Names = {}
    for head in heads:
        names |= _affine(head, HEADS[head])
    return names


def from_original(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename an original file's weights to transformers' names."""
    renamed = {}
    for name, weight in weights.items():
        for pattern, new in ORIGINAL:
            name = re.sub(pattern, new, name)
        renamed[name] = weight
    return renamed


def to_ours(weights: dict[str, Tensor], names: Names) -> dict[str, Tensor]:
    """Weights by our names, from theirs, which must all be there."""
    return {
        ours: torch.cat([weights[name] for name in theirs]) if len(theirs) > 1 else weights[theirs[0]]
        for ours, theirs in names.items()
    }


def as_floats(weights: dict[str, Tensor], source: Path) -> dict[str, Tensor]:
    """The weights in single precision. Raises CheckpointError where they are whole numbers or sparse."""
    for name, weight in weights.items():
        if not weight.is_floating_point() or weight.layout != torch.strided:
            # Quantised weights mean something else than their numbers.
            kind = f"{weight.dtype}, {weight.layout}".replace("torch.", "")
            raise CheckpointError(f"{source}: {name} is no dense tensor of floats ({kind}); save the weights as floats")
    return {name: weight.float() for name, weight in weights.items()}


def to_theirs(weights: dict[str, Tensor], names: Names) -> dict[str, Tensor]:
    """Weights by their names, from ours, each with memory of its own."""
    split: dict[str, Tensor] = {}
    for ours, theirs in names.items():
        split |= {name: one.clone() for name, one in zip(theirs, weights[ours].chunk(len(theirs)), strict=True)}
    return split


def name_some(names: list[str], show: int = 3) -> str:
    """The first `show` keys, and how many more there are."""
    more = f" and {len(names) - show} more" if len(names) > show else ""
    return f"keys {', '.join(names[:show])}{more}"


def _module(ours: str, theirs: str, layers: Names) -> Names:
    names: Names = {}
    for layer, sources in layers.items():
        names |= _affine(f"{ours}.{layer}", tuple(f"{theirs}.{source}" for source in sources))
    return names


def _affine(ours: str, theirs: tuple[str, ...]) -> Names:
    return {f"{ours}.{kind}": tuple(f"{name}.{kind}" for name in theirs) for kind in ("weight", "bias")}
