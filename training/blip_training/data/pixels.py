"""Pictures as the pixels that a model takes. Apart from decoding, which processes without torch do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from blip_training.data.decode import decode_image, squash

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor


def to_pixels(image: Image.Image, image_size: int) -> Tensor:
    """The picture resized by `squash`, as a tensor: uint8 [3, image_size, image_size]."""
    return torch.from_numpy(squash(image, image_size))


def decode_pixels(encoded: bytes, image_size: int, where: str) -> Tensor:
    """Decode a stored picture and resize it: uint8 [3, image_size, image_size]. Raises InputError naming `where`."""
    return to_pixels(decode_image(encoded, where), image_size)
