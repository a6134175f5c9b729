"""Scores of pictures and texts by a second model: the cosine of a dual encoder in transformers' format."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from safetensors import SafetensorError

from blip_bootstrap.errors import CheckpointError
from blip_training.checkpoint.finite import check_finite
from blip_training.checkpoint.weight_names import name_some
from blip_training.runtime.sources import resolve_source
from blip_training.runtime.weight_files import read_json, refuse_pointers

if TYPE_CHECKING:
    from jaxtyping import Float, Int64
    from PIL.Image import Image
    from torch import Tensor


PADDING = {"clip": "longest", "metaclip_2": "longest", "siglip": "max_length", "siglip2": "max_length"}
"""How texts are padded, by model_type. SigLIP was trained on texts padded to its full length, and attends to them."""

Pixels = dict[str, "Tensor"]
"""What the model's own image processor makes of one picture: pixel_values, and for SigLIP 2 of any shape two more."""

Output = Literal["cosine", "logit", "probability"]


class ClipScorer:
    """A CLIP, MetaCLIP 2, SigLIP or SigLIP 2 with its image processor and tokenizer, in eval mode on `device`.

    `source` is a folder in transformers' format or a hub name. Scores are cosines; `logit`: times the model's scale and
    with its bias, as its forward gives them; `probability`: the sigmoid of that, which is what a SigLIP was trained to
    give. Raises CheckpointError, in one line, if it is another kind of model, or lacks weights,
    preprocessor_config.json or tokenizer.
    """

    def __init__(self, source: str | Path, device: str | torch.device = "cpu", output: Output = "cosine") -> None:
        folder = resolve_source(source)
        kind = read_json(folder / "config.json").get("model_type") if folder.is_dir() else None
        if kind not in PADDING:
            raise CheckpointError(f"{source}: model_type is {kind!r}; a scorer's is one of {', '.join(PADDING)}")
        self.device, self.padding, self.output = torch.device(device), PADDING[kind], output
        self.model, self.processor, self.tokenizer = _load(folder, output)
        self.model.to(self.device).eval()
        self.max_tokens = int(self.model.config.text_config.max_position_embeddings)

    def to_pixels(self, image: Image) -> Pixels:
        """Resize, crop and normalise an RGB picture by the settings of the model's own image processor."""
        return {name: value[0] for name, value in self.processor(images=[image], return_tensors="pt").items()}

    def score(self, pixels: Sequence[Pixels], texts: Sequence[str], image_of_row: Int64[Tensor, " n"]) -> list[float]:
        """The score of each text r with image `image_of_row[r]`; texts are cut at the model's length."""
        return self.compare(self.embed_images(pixels), texts, image_of_row)

    def embed_images(self, pixels: Sequence[Pixels]) -> Float[Tensor, "b d"]:
        """The embeddings of pictures, of length 1."""
        batch = {name: torch.stack([one[name] for one in pixels]).to(self.device) for name in pixels[0]}
        return F.normalize(self.model.get_image_features(**batch).pooler_output.float(), dim=-1)

    def compare(
        self, images: Float[Tensor, "b d"], texts: Sequence[str], image_of_row: Int64[Tensor, " n"]
    ) -> list[float]:
        """The score of each text r with image `image_of_row[r]`, of embedded images."""
        tokens = self.tokenizer(
            list(texts), padding=self.padding, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        )
        given = {name: tokens[name].to(self.device) for name in self.tokenizer.model_input_names if name in tokens}
        given.pop("token_type_ids", None)
        if self.padding == "max_length":
            given.pop("attention_mask", None)
        written = self.model.get_text_features(**given).pooler_output
        scores = (images[image_of_row] * F.normalize(written.float(), dim=-1)).sum(1)
        if self.output != "cosine":
            scores = scores * self.model.logit_scale.float().exp() + getattr(self.model, "logit_bias", 0)
        if self.output == "probability":
            scores = scores.sigmoid()
        found: list[float] = scores.tolist()
        return found


NOT_NEEDED = re.compile(r"(^|\.)position_ids$")
"""Weights that may be missing or left over."""

OF_LOGITS = re.compile(r"^logit_(scale|bias)$")
"""And these: cosines do not depend on them."""


def _check_keys(folder: Path, loading: Mapping[str, Any], output: Output) -> None:
    """Raise CheckpointError if transformers drew missing weights at random, or left some out, and only warned."""
    found = {"missing": loading["missing_keys"], "left over": loading["unexpected_keys"]}
    unused = [NOT_NEEDED, OF_LOGITS] if output == "cosine" else [NOT_NEEDED]
    names = {
        what: sorted(name for name in keys if not any(one.search(name) for one in unused))
        for what, keys in found.items()
    }
    if say := [f"{name_some(keys)} {what}" for what, keys in names.items() if keys]:
        raise CheckpointError(f"{folder}: damaged, or not a scorer: {'; '.join(say)}")


def _load(folder: Path, output: Output) -> tuple[Any, Any, Any]:
    """Model, image processor and tokenizer. The processor is PIL's: the other one would need torchvision."""
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer  # start-up: seconds, for a scorer alone
    from transformers.utils import logging  # start-up: as above

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        refuse_pointers(folder)
        model, loading = AutoModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
        _check_keys(folder, loading, output)
        check_finite(model.state_dict(), folder)
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil")  # type: ignore[no-untyped-call]
        return model, processor, AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, ImportError, RuntimeError, KeyError, SafetensorError, UnpicklingError) as error:
        raise CheckpointError(f"{folder}: not a whole scorer ({' '.join(str(error).split())[:300]})") from error
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
