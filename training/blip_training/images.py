"""From encoded bytes to uint8 pixels, and the augmentations of the recipe; PIL alone."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from blip_training.pictures import decode_image, squash

Augment = Literal["none", "crop", "randaugment"]

# The recipe: two operations a picture, at level 5 of 10; grey where a picture is moved away.
NUM_OPERATIONS = 2
SHEAR, TRANSLATE_PX, ROTATE_DEGREES = 0.15, 5, 15.0
GREY = (128, 128, 128)
CROP_AREA = (0.5, 1.0)
CROP_ASPECT = (3 / 4, 4 / 3)

_SIDED = re.compile(r"\b(left|right)", re.IGNORECASE)


def to_pixels(image: Image.Image, image_size: int) -> Tensor:
    """Squash to a square, as BLIP does (bicubic): uint8 [3, image_size, image_size]."""
    return torch.from_numpy(squash(image, image_size))


def decode_pixels(encoded: bytes, image_size: int, where: str) -> Tensor:
    """Encoded bytes to uint8 [3, image_size, image_size]; InputError names `where` for broken bytes."""
    return to_pixels(decode_image(encoded, where), image_size)


def names_a_side(text: str) -> bool:
    """Whether the text says left or right: it would become false of a flipped picture."""
    return bool(_SIDED.search(text))


def augment_image(image: Image.Image, text: str, kind: Augment, rng: random.Random) -> Image.Image:
    """Crop and flip, for `randaugment` two random operations more (section 4.1); `none` returns the picture.

    A picture is not flipped where its text names a side.
    """
    if kind == "none":
        return image
    image = random_crop(image, rng)
    return _turned(image, not names_a_side(text) and rng.random() < 0.5, kind, rng)


def augment_view(image: Image.Image, number: int, kind: Augment, rng: random.Random) -> Image.Image:
    """View `number` of a picture, to be kept for all its texts: as `augment_image`, the odd ones flipped."""
    return _turned(random_crop(image, rng), bool(number % 2), kind, rng)


def _turned(image: Image.Image, mirrored: bool, kind: Augment, rng: random.Random) -> Image.Image:
    image = ImageOps.mirror(image) if mirrored else image
    if kind == "randaugment":
        for operation in rng.choices(OPERATIONS, k=NUM_OPERATIONS):
            image = operation(image, rng)
    return image


def random_crop(image: Image.Image, rng: random.Random) -> Image.Image:
    """A rectangle of 50-100 % of the area with an aspect ratio of 3:4 to 4:3; the whole picture where none fits."""
    width, height = image.size
    for _ in range(10):
        area = width * height * rng.uniform(*CROP_AREA)
        aspect = np.exp(rng.uniform(*np.log(CROP_ASPECT)))
        w, h = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.randint(0, width - w), rng.randint(0, height - h)
            return image.crop((left, top, left + w, top + h))
    return image


def _sign(rng: random.Random) -> int:
    return rng.choice((-1, 1))


def _affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=GREY)


def _same(image: Image.Image, rng: random.Random) -> Image.Image:
    return image


def _auto_contrast(image: Image.Image, rng: random.Random) -> Image.Image:
    return ImageOps.autocontrast(image)


def _equalize(image: Image.Image, rng: random.Random) -> Image.Image:
    return ImageOps.equalize(image)


def _shear_x(image: Image.Image, rng: random.Random) -> Image.Image:
    return _affine(image, (1, _sign(rng) * SHEAR, 0, 0, 1, 0))


def _shear_y(image: Image.Image, rng: random.Random) -> Image.Image:
    return _affine(image, (1, 0, 0, _sign(rng) * SHEAR, 1, 0))


def _translate_x(image: Image.Image, rng: random.Random) -> Image.Image:
    return _affine(image, (1, 0, _sign(rng) * TRANSLATE_PX, 0, 1, 0))


def _translate_y(image: Image.Image, rng: random.Random) -> Image.Image:
    return _affine(image, (1, 0, 0, 0, 1, _sign(rng) * TRANSLATE_PX))


def _rotate(image: Image.Image, rng: random.Random) -> Image.Image:
    return image.rotate(_sign(rng) * ROTATE_DEGREES, Image.Resampling.BILINEAR, fillcolor=GREY)


# Brightness and sharpness have factor 1.0 at level 5, so they stand here as what they do: nothing.
OPERATIONS: tuple[Callable[[Image.Image, random.Random], Image.Image], ...] = (
    _same, _same, _same, _auto_contrast, _equalize, _shear_x, _shear_y, _translate_x, _translate_y, _rotate,
)  # fmt: skip
"""The ten operations of the recipe."""
