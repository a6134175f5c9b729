from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from blip_bootstrap.config import DownloadConfig
from blip_pipelines.ingest.pictures import WebStore, bring_to_size, encode, store_web
from blip_training.data.decode import PictureError

MODES = ("no", "border", "keep_ratio", "keep_ratio_largest", "center_crop")
SIZES = ((160, 120), (120, 160), (64, 64), (65, 64), (200, 11), (97, 131), (640, 427), (70, 1), (63, 30))


def noise(width: int = 160, height: int = 120) -> Image.Image:
    coarse = np.random.default_rng(width).integers(0, 255, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, format: str = "JPEG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def store(body: bytes, **settings: Any) -> tuple[dict[str, Any], bytes]:
    rule: dict[str, Any] = {"max_pixels": 1_000_000, "image_size": 64, "mode": "keep_ratio", "quality": 95}
    return store_web(body, **(rule | {"least_px": 0, "most_aspect": 100.0} | settings))


@pytest.fixture(scope="module")
def resizer_class() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports imghdr, which warns that Python 3.13 is without it
        from img2dataset.resizer import Resizer
    return Resizer


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", MODES)
def test_to_the_pixel_as_img2dataset(resizer_class: Any, mode: str) -> None:
    theirs = resizer_class(image_size=64, resize_mode=mode, resize_only_if_bigger=True, encode_quality=95)
    for size in SIZES:
        image = noise(*size)
        jpg, width, height, original_width, original_height, error = theirs(io.BytesIO(encoded(image, "PPM")))
        assert error is None
        columns, ours = store(encoded(image, "PNG"), mode=mode)
        found = [columns[n] for n in ("width", "height", "original_width", "original_height")]
        assert (ours, found) == (jpg, [width, height, original_width, original_height])


@pytest.mark.filterwarnings("ignore")
def test_real_photographs_to_the_pixel_as_img2dataset(resizer_class: Any, real_data: Path) -> None:
    theirs = resizer_class(image_size=128, resize_mode="keep_ratio", resize_only_if_bigger=True, encode_quality=95)
    for file in sorted((real_data / "flickr8k" / "images").iterdir())[:50]:
        with Image.open(file) as image:
            jpg = theirs(io.BytesIO(encoded(image.convert("RGB"), "PPM")))[0]
        assert store(file.read_bytes(), image_size=128)[1] == jpg


@pytest.mark.parametrize(
    ("mode", "size"),
    [("no", (160, 120)), ("keep_ratio", (85, 64)), ("keep_ratio_largest", (64, 48)), ("center_crop", (64, 64)),
     ("border", (64, 64))],
)  # fmt: skip
def test_resize_modes(mode: str, size: tuple[int, int]) -> None:
    columns, jpg = store(encoded(noise()), mode=mode)
    image = Image.open(io.BytesIO(jpg))
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", size)
    assert (columns["width"], columns["height"]) == size


def test_the_border_is_white() -> None:
    square = bring_to_size(np.zeros((80, 160, 3), np.uint8), 64, "border")
    assert square[2, 32].tolist() == [255, 255, 255]
    assert square[32, 32].tolist() == [0, 0, 0]


def test_a_picture_that_is_small_enough_is_not_touched() -> None:
    pixels = np.asarray(noise(64, 64))
    assert all(bring_to_size(pixels, 64, mode) is pixels for mode in MODES)


def test_a_picture_lying_on_its_side_is_stored_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    with WebStore(DownloadConfig(image_size=64)) as kept:
        columns, jpg = kept(encoded(noise(), exif=exif))
    assert json.loads(columns.pop("exif"))["Orientation"] == "6"
    assert columns == {"width": 64, "height": 85, "original_width": 120, "original_height": 160}
    assert Image.open(io.BytesIO(jpg)).size == (64, 85)


@pytest.mark.parametrize(
    ("settings", "error_class"),
    [({"min_image_size": 121}, "too_small"), ({"max_aspect_ratio": 1.2}, "aspect_ratio"),
     ({"max_pixels": 160 * 120 - 1}, "too_many_pixels")],
)  # fmt: skip
def test_pictures_that_the_settings_refuse(settings: dict[str, float], error_class: str) -> None:
    with WebStore(DownloadConfig(**settings)) as kept:
        for _ in range(2):  # the child is kept
            with pytest.raises(PictureError) as error:
                kept(encoded(noise()))
            assert error.value.error_class == error_class


def test_a_picture_longer_than_a_jpeg_can_be_is_a_row() -> None:
    with pytest.raises(PictureError, match="no JPEG can be made") as error:
        store(encoded(Image.new("RGB", (70_000, 1)), "PNG"), mode="no", most_aspect=1e6)
    assert error.value.error_class == "other"


def test_the_quality_is_opencvs() -> None:
    pixels = np.asarray(noise())
    assert encode(pixels, 70) == cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 70])[1].tobytes()
    assert len(encode(pixels, 70)) < len(encode(pixels, 95))
