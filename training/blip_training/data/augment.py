"""The augmentations of pictures in training (section 4.1), with PIL alone."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

Augment = Literal["none", "crop", "randaugment"]

# The released recipe: two operations drawn for each picture, at level 5 of 10, each applied half of the time; what a
# moved picture uncovers is grey.
NUM_OPERATIONS, ACTS = 2, 0.5

SHEAR, TRANSLATE_PX, ROTATE_DEGREES = 0.15, 5, 15.0

GREY = (128, 128, 128)

CROP_AREA = 0.5
"""The least share of the area that a crop keeps in fine-tuning; the released pre-training goes down to 0.2."""

CROP_ASPECT = (3 / 4, 4 / 3)

_SIDED = re.compile(r"\b(left|right)", re.IGNORECASE)


def resized(image: Image.Image, image_size: int) -> Image.Image:
    """Resize a picture to a square of `image_size` px, bicubic, without keeping its aspect ratio."""
    side = (image_size, image_size)
    return image if image.size == side else image.resize(side, Image.Resampling.BICUBIC)


def names_a_side(text: str) -> bool:
    """Whether the text says left or right, and so would be false of a mirrored picture."""
    return bool(_SIDED.search(text))


def augment_image(
    image: Image.Image, text: str, image_size: int, kind: Augment, rng: random.Random, crop_area: float = CROP_AREA
) -> Image.Image:
    """Augment a picture to a square of `image_size` px: `crop` crops and mirrors, `randaugment` adds to it (4.1).

    RandAugment's operations follow the resizing, as in the released code, so that 5 px are 5 of the square. A picture
    whose text names a side is not mirrored. `none` only resizes. `crop_area` (0..1] is the least share of the area.
    """
    if kind == "none":
        return resized(image, image_size)
    square = resized(random_crop(image, rng, crop_area), image_size)
    return _turned(square, not names_a_side(text) and rng.random() < 0.5, kind, rng)


def augment_view(
    image: Image.Image, number: int, image_size: int, kind: Augment, rng: random.Random, crop_area: float = CROP_AREA
) -> Image.Image:
    """Augmented view `number` of a picture, which all its texts share; views of odd numbers are mirrored."""
    square = resized(random_crop(image, rng, crop_area), image_size)
    return _turned(square, bool(number % 2), kind, rng)


def _turned(image: Image.Image, mirrored: bool, kind: Augment, rng: random.Random) -> Image.Image:
    image = ImageOps.mirror(image) if mirrored else image
    if kind == "randaugment":
        for operation in rng.choices(OPERATIONS, k=NUM_OPERATIONS):
            image = operation(image, rng) if rng.random() < ACTS else image
    return image


def random_crop(image: Image.Image, rng: random.Random, least_area: float = CROP_AREA) -> Image.Image:
    """A random rectangle of the picture: `least_area` (0..1] to all of its area, aspect ratio 3:4 to 4:3.

    Area and logarithm of the ratio are drawn evenly. If none of ten draws fits (a very wide or high picture), it is the
    picture's middle, cut to the nearest allowed ratio.
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


def _identity(image: Image.Image, rng: random.Random) -> Image.Image:
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


# Identity three times: brightness and sharpness have the factor 1.0 at level 5 and change nothing.
OPERATIONS: tuple[Callable[[Image.Image, random.Random], Image.Image], ...] = (
    _identity, _identity, _identity, _auto_contrast, _equalize, _shear_x, _shear_y, _translate_x, _translate_y, _rotate,
)  # fmt: skip
"""The ten operations of the recipe."""
