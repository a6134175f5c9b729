"""Reads the released NLVR2 model, a .pth file; transformers has no such model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from blip_bootstrap.errors import CheckpointError
from blip_training.checkpoint.blip_config import ENCODER, config_from_weights
from blip_training.checkpoint.finite import check_finite
from blip_training.checkpoint.store import original_tokenizer, with_image_size
from blip_training.checkpoint.weight_names import (
    FEED_FORWARD,
    NOT_NEEDED,
    SELF_ATTENTION,
    as_floats,
    from_original,
    name_some,
    to_ours,
    vision_names,
)
from blip_training.model.nlvr import Nlvr
from blip_training.model.vision import resize_positions
from blip_training.runtime.sources import resolve_source
from blip_training.runtime.stored import plain_names, read_pickled, read_safetensors

if TYPE_CHECKING:
    from torch import Tensor

    from blip_bootstrap.settings.section import Normalise
    from blip_training.checkpoint.weight_names import Names
    from blip_training.data.tokenizer import Tokenizer


EMBEDDINGS: Names = {
    "embeddings.words.weight": (f"{ENCODER}embeddings.word_embeddings.weight",),
    "embeddings.positions.weight": (f"{ENCODER}embeddings.position_embeddings.weight",),
    "embeddings.norm.weight": (f"{ENCODER}embeddings.LayerNorm.weight",),
    "embeddings.norm.bias": (f"{ENCODER}embeddings.LayerNorm.bias",),
}

LAYER: dict[str, tuple[str, ...]] = {
    **{f"self_attention.{ours}": theirs for ours, theirs in SELF_ATTENTION.items()},
    **{f"feed_forward.{ours}": theirs for ours, theirs in FEED_FORWARD.items()},
    **{
        f"cross_attention.{ours}.{part}": tuple(f"crossattention.{name}" for name in theirs)
        for at, ours in enumerate(("first", "second"))
        for part, theirs in {
            "query": (f"self{at}.query",), "key_value": (f"self{at}.key", f"self{at}.value"),
            "output": (f"output.dense{at}",),
        }.items()
    },
    "cross_attention.norm": ("crossattention.output.LayerNorm",),
}  # fmt: skip
"""Modules of one layer beside the released file's; of a file's merged layers also `MERGE`."""

MERGE = "crossattention.output.merge_layer"

HEAD = {"head.0": "cls_head.0", "head.2": "cls_head.2"}


def load_nlvr(
    source: str | Path,
    device: str | torch.device = "cpu",
    image_size: int | None = None,
    normalise: Normalise = "auto",
) -> tuple[Nlvr, Tokenizer]:
    """Load an NLVR2 model, as model_base_nlvr.pth, and its tokenizer, in eval mode on `device`.

    The tokenizer lies beside the file (tokenizer.json or vocab.txt), else it is BERT's. Texts are normalised as the
    model was trained (`normalise`: auto). Raises CheckpointError, in one line, if it is another model or damaged.
    """
    file = resolve_source(source)
    if not file.is_file():
        raise CheckpointError(f"{source}: a folder; the NLVR2 model is the file model_base_nlvr.pth of BLIP's authors")
    read = read_safetensors if file.suffix == ".safetensors" else read_pickled
    weights = from_original(plain_names(read(file)))
    if "cls_head.0.weight" not in weights:
        raise CheckpointError(f"{source}: has no head for two pictures (cls_head); NLVR2 needs model_base_nlvr.pth")
    nlvr, tokenizer = _nlvr_from(weights, file, image_size), original_tokenizer(file)
    if tokenizer.num_tokens != nlvr.num_tokens:
        raise CheckpointError(f"{file}: {nlvr.num_tokens} tokens, its tokenizer has {tokenizer.num_tokens}")
    reads = ("blip" if tokenizer.lower_case else "none") if normalise == "auto" else normalise
    nlvr.config = nlvr.config.model_copy(update={"text": nlvr.config.text.model_copy(update={"normalise": reads})})
    check_finite(nlvr.state_dict(), file)
    return nlvr.to(device).eval(), tokenizer


def nlvr_names(vision_depth: int, merged: tuple[bool, ...]) -> Names:
    """Our weight names beside transformers' for the ViT and the released file's for the rest."""
    modules: Names = {ours: (theirs,) for ours, theirs in HEAD.items()}
    for number, has in enumerate(merged):
        own = LAYER | ({"cross_attention.merge": (MERGE,)} if has else {})
        for ours, theirs in own.items():
            modules[f"layers.{number}.{ours}"] = tuple(f"{ENCODER}encoder.layer.{number}.{name}" for name in theirs)
    names = vision_names(vision_depth) | EMBEDDINGS
    for ours, theirs in modules.items():
        names |= {f"{ours}.{kind}": tuple(f"{name}.{kind}" for name in theirs) for kind in ("weight", "bias")}
    return names


def _nlvr_from(weights: dict[str, Tensor], file: Path, image_size: int | None) -> Nlvr:
    config, num_tokens = config_from_weights(weights, file)
    config = with_image_size(config, image_size, file)
    merged = tuple(f"{ENCODER}encoder.layer.{n}.{MERGE}.weight" in weights for n in range(config.text.depth))
    names = nlvr_names(config.vision.depth, merged)
    wanted = {name for group in names.values() for name in group}
    missing = sorted(wanted - weights.keys())
    left_over = sorted(name for name in weights.keys() - wanted if not NOT_NEEDED.search(name))
    say = [f"{name_some(some)} {what}" for what, some in (("missing", missing), ("left over", left_over)) if some]
    if say:
        raise CheckpointError(f"{file}: damaged, or no NLVR2 model: {'; '.join(say)}")
    nlvr = Nlvr(config, num_tokens, merged)
    given = as_floats(to_ours(weights, names), file)
    given["vision.positions"] = resize_positions(given["vision.positions"], nlvr.vision.num_patches)
    state = nlvr.state_dict()
    if wrong := sorted(name for name, weight in given.items() if weight.shape != state[name].shape):
        raise CheckpointError(f"{file}: {name_some(wrong)} of another shape than the file's other weights say")
    nlvr.load_state_dict(given)
    return nlvr
