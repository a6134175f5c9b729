"""From encoded bytes to uint8 pixels, and the augmentations of the recipe; PIL alone."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

Augment = Literal["none", "crop", "randaugment"]

# The released recipe: two operations drawn for each picture, at level 5 of 10, each carried out half of the time; grey
# where a picture is moved away.
NUM_OPERATIONS, ACTS = 2, 0.5

SHEAR, TRANSLATE_PX, ROTATE_DEGREES = 0.15, 5, 15.0

GREY = (128, 128, 128)

CROP_AREA = 0.5
"""The least share of the area that a crop keeps in fine-tuning; in pre-training the released code goes down to .2."""

CROP_ASPECT = (3 / 4, 4 / 3)

_SIDED = re.compile(r"\b(left|right)", re.IGNORECASE)


def resized(image: Image.Image, image_size: int) -> Image.Image:
    """Squashed to a square of `image_size` px, bicubic."""
    side = (image_size, image_size)
    return image if image.size == side else image.resize(side, Image.Resampling.BICUBIC)


def names_a_side(text: str) -> bool:
    """Whether the text says left or right: it would become false of a flipped picture."""
    return bool(_SIDED.search(text))


def augment_image(
    image: Image.Image, text: str, image_size: int, kind: Augment, rng: random.Random, crop_area: float = CROP_AREA
) -> Image.Image:
    """The picture as a square of `image_size` px: cropped and perhaps flipped, for `randaugment` more (section 4.1).

    RandAugment's operations come after the resizing, as in the released code, so that 5 px are 5 of the square's. A
    picture is not flipped where its text names a side. `none` only squashes. `crop_area` is as in `random_crop`.
    """
    if kind == "none":
        return resized(image, image_size)
    square = resized(random_crop(image, rng, crop_area), image_size)
    return _turned(square, not names_a_side(text) and rng.random() < 0.5, kind, rng)


def augment_view(
    image: Image.Image, number: int, image_size: int, kind: Augment, rng: random.Random, crop_area: float = CROP_AREA
) -> Image.Image:
    """View `number` of a picture, to be kept for all its texts: as `augment_image`, the odd ones flipped."""
    square = resized(random_crop(image, rng, crop_area), image_size)
    return _turned(square, bool(number % 2), kind, rng)


def _turned(image: Image.Image, mirrored: bool, kind: Augment, rng: random.Random) -> Image.Image:
    image = ImageOps.mirror(image) if mirrored else image
    if kind == "randaugment":
        for operation in rng.choices(OPERATIONS, k=NUM_OPERATIONS):
            image = operation(image, rng) if rng.random() < ACTS else image
    return image


def random_crop(image: Image.Image, rng: random.Random, least_area: float = CROP_AREA) -> Image.Image:
    """A rectangle of `least_area` (0..1] to all of the area with an aspect ratio of 3:4 to 4:3, drawn evenly in area
    and in the logarithm of the ratio.

    Where ten tries find none that fits (a very long or high picture), the middle of it, cut to the nearest of these
    ratios.
    """
    width, height = image.size
    for _ in range(10):
        area = width * height * rng.uniform(least_area, 1.0)
        aspect = np.exp(rng.uniform(*np.log(CROP_ASPECT)))
        w, h = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.randint(0, width - w), rng.randint(0, height - h)
            return image.crop((left, top, left + w, top + h))
    return _middle(image)


def _middle(image: Image.Image) -> Image.Image:
    """The largest rectangle in the middle whose aspect ratio is in CROP_ASPECT."""
    width, height = image.size
    narrowest, widest = CROP_ASPECT
    w, h = min(width, max(1, round(height * widest))), min(height, max(1, round(width / narrowest)))
    left, top = (width - w) // 2, (height - h) // 2
    return image.crop((left, top, left + w, top + h))


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


# Identity, then brightness and sharpness, whose factor at level 5 is 1.0, so that they do nothing either.
OPERATIONS: tuple[Callable[[Image.Image, random.Random], Image.Image], ...] = (
    _same, _same, _same, _auto_contrast, _equalize, _shear_x, _shear_y, _translate_x, _translate_y, _rotate,
)  # fmt: skip
"""The ten operations of the recipe."""
