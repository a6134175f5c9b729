"""Scores of pictures and texts by a second model: the cosine of a CLIP or SigLIP in transformers' format."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

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


PADDING = {"clip": "longest", "siglip": "max_length"}
"""SigLIP was trained on texts padded to its full length, and attends to the padding."""


class ClipScorer:
    """A CLIPModel or SiglipModel with its own image processor and tokenizer, in eval mode on `device`.

    `source` is a folder in transformers' format or a hub name. Raises CheckpointError, in one line, if it is another
    kind of model, or lacks weights, preprocessor_config.json or tokenizer.
    """

    def __init__(self, source: str | Path, device: str | torch.device = "cpu") -> None:
        folder = resolve_source(source)
        kind = read_json(folder / "config.json").get("model_type") if folder.is_dir() else None
        if kind not in PADDING:
            raise CheckpointError(f"{source}: model_type is {kind!r}; a scorer is a CLIPModel or SiglipModel folder")
        self.device, self.padding = torch.device(device), PADDING[kind]
        self.model, self.processor, self.tokenizer = _load(folder)
        self.model.to(self.device).eval()
        self.max_tokens = int(self.model.config.text_config.max_position_embeddings)

    def to_pixels(self, image: Image) -> Float[Tensor, "3 h w"]:
        """Resize, crop and normalise an RGB picture by the settings of the model's own image processor."""
        pixels: Tensor = self.processor(images=[image], return_tensors="pt")["pixel_values"][0]
        return pixels

    def score(
        self, pixels: Float[Tensor, "b 3 h w"], texts: Sequence[str], image_of_row: Int64[Tensor, " n"]
    ) -> list[float]:
        """The cosine (-1..1) of each text r with image `image_of_row[r]`; texts are cut at the model's length."""
        images = self.model.get_image_features(pixel_values=pixels.to(self.device)).pooler_output
        tokens = self.tokenizer(
            list(texts), padding=self.padding, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        )
        given = {name: tokens[name].to(self.device) for name in self.tokenizer.model_input_names if name in tokens}
        given.pop("token_type_ids", None)
        if self.padding == "max_length":
            given.pop("attention_mask", None)
        written = self.model.get_text_features(**given).pooler_output
        images, written = F.normalize(images.float(), dim=-1), F.normalize(written.float(), dim=-1)
        cosines: list[float] = (images[image_of_row] * written).sum(1).tolist()
        return cosines


NOT_NEEDED = re.compile(r"^logit_(scale|bias)$|(^|\.)position_ids$")
"""Weights that may be missing or left over: cosines do not depend on them."""


def _check_keys(folder: Path, loading: Mapping[str, Any]) -> None:
    """Raise CheckpointError if transformers drew missing weights at random, or left some out, and only warned."""
    found = {"missing": loading["missing_keys"], "left over": loading["unexpected_keys"]}
    names = {what: sorted(name for name in keys if not NOT_NEEDED.search(name)) for what, keys in found.items()}
    if say := [f"{name_some(keys)} {what}" for what, keys in names.items() if keys]:
        raise CheckpointError(f"{folder}: damaged, or not a scorer: {'; '.join(say)}")


def _load(folder: Path) -> tuple[Any, Any, Any]:
    """Model, image processor and tokenizer. The processor is PIL's: the other one would need torchvision."""
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer  # start-up: seconds, for a scorer alone
    from transformers.utils import logging  # start-up: as above

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        refuse_pointers(folder)
        model, loading = AutoModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
        _check_keys(folder, loading)
        check_finite(model.state_dict(), folder)
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil")  # type: ignore[no-untyped-call]
        return model, processor, AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, ImportError, RuntimeError, KeyError, SafetensorError, UnpicklingError) as error:
        raise CheckpointError(f"{folder}: not a whole scorer ({' '.join(str(error).split())[:300]})") from error
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
