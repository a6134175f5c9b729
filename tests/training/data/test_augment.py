"""The augmentation of the released recipe: crop, resize, flip, and RandAugment on the square."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageOps

from blip_bootstrap.config import FinetuneConfig, PretrainConfig, VqaConfig
from blip_training.data import augment
from blip_training.data.augment import OPERATIONS, augment_image, augment_view, random_crop, resized
from blip_training.data.pixels import to_pixels


def sided() -> Image.Image:
    image = Image.new("RGB", (40, 40), "blue")
    image.paste((255, 0, 0), (0, 0, 20, 40))
    return image


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def is_flipped(image: Image.Image) -> bool:
    left = to_pixels(image, 40)[0, :, 0].float().mean()
    return bool(left < 128)


def cropped(text: str, seed: int) -> Image.Image:
    return augment_image(sided(), text, 40, "crop", random.Random(seed))


@pytest.mark.parametrize("number", range(4))
def test_odd_views_are_flipped(number: int) -> None:
    views = (augment_view(sided(), number, 40, "crop", random.Random(i)) for i in range(20))
    assert all(is_flipped(view) == number % 2 for view in views)


@pytest.mark.parametrize("text", ["a red square left of a blue one", "Right: a blue square", "the leftmost is red"])
def test_pictures_with_sides_in_their_text_are_never_flipped(text: str) -> None:
    assert not any(is_flipped(cropped(text, i)) for i in range(40))


def test_other_pictures_are_flipped_half_of_the_time() -> None:
    assert 70 < sum(is_flipped(cropped("red and blue", i)) for i in range(200)) < 130


@pytest.mark.parametrize("least", [0.2, 0.5, 1.0])
def test_crops_are_spread_evenly_from_the_least_area_to_the_whole(least: float) -> None:
    whole, shares, aspects = Image.new("RGB", (400, 400)), [], []
    for seed in range(400):
        width, height = random_crop(whole, random.Random(seed), least).size
        shares.append(width * height / 160_000)
        aspects.append(width / height)
    assert min(shares) >= least - 0.01
    assert 0.74 < min(aspects) <= max(aspects) < 1.34
    if least < 1:  # a large crop fits less often, so that the mean lies a little below the middle
        assert min(shares) < least + 0.05
        assert max(shares) > 0.95
        assert abs(np.mean(shares) - (least + 1) / 2) < 0.07
        assert abs(np.mean(np.log(aspects))) < 0.03


@pytest.mark.parametrize(
    ("size", "middle"),
    [
        ((400, 20), (186, 0, 213, 20)),
        ((20, 400), (0, 186, 20, 213)),
        ((1, 300), (0, 149, 1, 150)),
        ((1, 1), (0, 0, 1, 1)),
    ],
)
def test_of_a_picture_in_which_no_crop_fits_the_middle_is_taken(
    size: tuple[int, int], middle: tuple[int, int, int, int]
) -> None:
    picture = noise(*size)
    assert random_crop(picture, random.Random(0)).tobytes() == picture.crop(middle).tobytes()


def test_the_released_code_crops_from_a_fifth_in_pretraining_and_from_a_half_in_fine_tuning() -> None:
    assert (PretrainConfig().crop_area, FinetuneConfig().crop_area, VqaConfig().crop_area) == (0.2, 0.5, 0.5)


def test_operations_come_after_the_resizing_in_pixels_of_the_square(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two translations of a large picture: the square is moved by 10 px or not at all, whatever the picture's size."""
    monkeypatch.setattr(augment, "OPERATIONS", (augment._translate_x,))
    monkeypatch.setattr(augment, "ACTS", 1.0)
    picture = noise(300, 300)
    moved = set()
    for seed in range(20):
        found = np.asarray(augment_image(picture, "left", 60, "randaugment", random.Random(seed), 1.0))
        plain = np.asarray(resized(random_crop(picture, random.Random(seed), 1.0), 60))
        shift = next(x for x in (-10, 0, 10) if (found[:, 12:48] == plain[:, 12 - x : 48 - x]).all())
        grey = found[:, :10] if shift > 0 else found[:, 50:]
        assert shift == 0 or (grey == 128).all()
        moved.add(shift)
    assert moved == {-10, 0, 10}


def test_two_operations_are_drawn_and_each_acts_half_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    acted: list[int] = []
    operations = tuple(lambda image, rng, at=at: (acted.append(at), image)[1] for at in range(10))
    monkeypatch.setattr(augment, "OPERATIONS", operations)
    numbers: Counter[int | str] = Counter()
    for seed in range(2000):
        acted.clear()
        augment_image(sided(), "red", 40, "randaugment", random.Random(seed))
        numbers[len(acted)] += 1
        numbers.update(f"operation {at}" for at in acted)
    assert [numbers[n] / 2000 for n in (0, 1, 2)] == pytest.approx([0.25, 0.5, 0.25], abs=0.04)
    assert all(abs(numbers[f"operation {at}"] / 2000 - 0.1) < 0.03 for at in range(10))


def test_the_operations_are_the_released_ten_at_level_five() -> None:
    """By what they make of a picture: three leave it, as brightness and sharpness do at factor 1.0."""
    picture = noise(64, 64).point(lambda value: 40 + value // 2)
    made = [operation(picture, random.Random(1)) for operation in OPERATIONS]
    assert len(made) == 10
    assert [one.tobytes() == picture.tobytes() for one in made] == [True] * 3 + [False] * 7
    assert made[3].tobytes() == ImageOps.autocontrast(picture).tobytes()
    assert made[4].tobytes() == ImageOps.equalize(picture).tobytes()
    white = Image.new("RGB", (100, 100), "white")
    signs = {operation: [operation(white, random.Random(i)) for i in range(8)] for operation in OPERATIONS[5:]}
    shear_x, shear_y, translate_x, translate_y, rotate = (
        {int((np.asarray(one)[:, :, 0] < 200).sum()) for one in both} for both in signs.values()
    )
    assert translate_x == translate_y == {500}
    assert all(abs(area - 15 * 100 / 2) < 30 for area in shear_x | shear_y)  # a triangle of 15 by 100
    assert all(600 < area < 1800 for area in rotate)


def test_every_operation_keeps_the_size_and_depends_on_its_generator_alone() -> None:
    for operation in OPERATIONS:
        one, other = (operation(sided(), random.Random(5)) for _ in range(2))
        assert one.size == (40, 40)
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("kind", ["none", "crop", "randaugment"])
def test_the_result_is_a_square_of_the_asked_size(kind: augment.Augment) -> None:
    for size in ((7, 300), (300, 7), (1, 1), (64, 64)):
        assert augment_image(noise(*size), "a dog", 48, kind, random.Random(2), 0.2).size == (48, 48)
