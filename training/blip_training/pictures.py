"""From encoded bytes to a picture and its pixels, without torch, which a process that only decodes need not import."""

from __future__ import annotations

import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from blip_bootstrap.errors import InputError


def decode_image(encoded: bytes, where: str, advice: str = "delete the file and make it anew") -> Image.Image:
    """The picture as RGB. `where` (file and key) names it in the InputError that broken bytes raise, with `advice`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL warns of odd EXIF and palettes; the pixels are what counts
            return Image.open(io.BytesIO(encoded)).convert("RGB")
    except UnidentifiedImageError as error:  # its message is the repr of our buffer
        raise InputError(f"{where}: the picture cannot be decoded (of no known format); {advice}") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{where}: the picture cannot be decoded ({error}); {advice}") from error


def squash(image: Image.Image, image_size: int) -> NDArray[np.uint8]:
    """Squash to a square, as BLIP does (bicubic): [3, image_size, image_size]."""
    if image.size != (image_size, image_size):
        image = image.resize((image_size, image_size), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
