"""A second judge of pictures and texts: the cosine of a CLIP-like model of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from blip_bootstrap.errors import CheckpointError
from blip_training.checkpoint import read_json
from blip_training.finite import check_finite
from blip_training.sources import resolve_source

if TYPE_CHECKING:
    from jaxtyping import Float, Int64
    from PIL.Image import Image
    from torch import Tensor

PADDING = {"clip": "longest", "siglip": "max_length"}
"""SigLIP was trained on texts padded to its full length, and attends to the padding."""


class ClipScorer:
    """A CLIPModel or SiglipModel with its own image processor and tokenizer, in eval mode on `device`.

    `source` is a folder that transformers wrote, or a hub name. Raises CheckpointError, in one line, where it is
    another kind of model, or lacks weights (safetensors), preprocessor_config.json or tokenizer.
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
        """An RGB picture as the model was trained to see it: resized, cropped and normalised by its own settings."""
        pixels: Tensor = self.processor(images=[image], return_tensors="pt")["pixel_values"][0]
        return pixels

    def score(
        self, pixels: Float[Tensor, "b 3 h w"], texts: Sequence[str], image_of_row: Int64[Tensor, " n"]
    ) -> list[float]:
        """The cosine, -1..1, of each text with image `image_of_row[r]`; longer texts are cut at the model's length."""
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


def _load(folder: Path) -> tuple[Any, Any, Any]:
    """Model, image processor and tokenizer. The processor is PIL's: the other one would need torchvision."""
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model = AutoModel.from_pretrained(folder, use_safetensors=True, dtype=torch.float32)
        check_finite(model.state_dict(), folder)
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil")  # type: ignore[no-untyped-call]
        return model, processor, AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, ImportError, RuntimeError, KeyError) as error:
        raise CheckpointError(f"{folder}: not a whole scorer ({' '.join(str(error).split())[:300]})") from error
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
