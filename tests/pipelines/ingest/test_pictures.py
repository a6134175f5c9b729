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
from pydantic import ValidationError

from blip_bootstrap.config import DownloadConfig
from blip_pipelines.ingest.pictures import Stored, WebStore, bring_to_size, encode, store_web
from blip_training.data.decode import PictureError
from tests.fixtures.img2dataset_pixels import cases, digest

MODES = ("no", "border", "keep_ratio", "keep_ratio_largest", "center_crop")
SIZES = ((160, 120), (120, 160), (64, 64), (65, 64), (200, 11), (97, 131), (640, 427), (70, 1), (63, 30))


def noise(width: int = 160, height: int = 120) -> Image.Image:
    coarse = np.random.default_rng(width).integers(0, 255, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, format: str = "JPEG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def store(body: bytes, most_aspect: float = 100.0, **settings: Any) -> tuple[dict[str, Any], bytes]:
    rule: dict[str, Any] = {"image_size": 64, "mode": "keep_ratio"}
    how = Stored(**(rule | settings))
    return store_web(body, 1_000_000, how, most_aspect=most_aspect)


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
    square = bring_to_size(np.zeros((80, 160, 3), np.uint8), Stored(64, "border"))
    assert square[2, 32].tolist() == [255, 255, 255]
    assert square[32, 32].tolist() == [0, 0, 0]


def test_a_picture_that_is_small_enough_is_not_touched() -> None:
    pixels = np.asarray(noise(64, 64))
    assert all(bring_to_size(pixels, Stored(64, mode)) is pixels for mode in MODES)


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


GOLDEN = Path(__file__).parents[2] / "fixtures" / "img2dataset_pixels.npz"


def golden() -> tuple[dict[str, bytes], dict[str, str]]:
    with np.load(GOLDEN) as file:
        pictures = {name: file[name].tobytes() for name in file.files if name != "digests"}
        return pictures, json.loads(str(file["digests"]))


@pytest.mark.parametrize("case", [*cases()], ids=lambda case: " ".join(map(str, case.values())))
def test_to_the_pixel_as_img2dataset_made_them(case: dict[str, Any]) -> None:
    """For every mode, interpolation and format, of JPEGs of every subsampling."""
    pictures, digests = golden()
    how = Stored.of(DownloadConfig(**case))
    found = {name: digest(store_web(body, 1_000_000, how)[1]) for name, body in pictures.items()}
    assert found == {name: digests[f"{json.dumps(case)} {name}"] for name in pictures}


@pytest.mark.parametrize("mode", MODES)
def test_a_jpeg_reduced_while_decoding_has_the_same_size_and_looks_alike(mode: str) -> None:
    body = encoded(noise(24, 16).resize((643, 427), Image.Resampling.BICUBIC), quality=90)
    exact, scaled = (
        store_web(body, 1_000_000, Stored(64, mode, format="png", quality=1, scaled=scaled)) for scaled in (False, True)
    )
    assert exact[0] == scaled[0]
    pixels = [np.asarray(Image.open(io.BytesIO(jpg)), np.int16) for _, jpg in (exact, scaled)]
    assert np.abs(pixels[0] - pixels[1]).mean() < 4
    assert (mode == "no") == np.array_equal(pixels[0], pixels[1])


def test_a_jpeg_of_less_than_twice_the_size_is_never_reduced() -> None:
    body = encoded(noise(160, 127))
    stored = [store_web(body, 1_000_000, Stored(64, "keep_ratio", scaled=scaled))[1] for scaled in (False, True)]
    assert stored[0] == stored[1]


@pytest.mark.parametrize(("format", "magic"), [("jpg", b"\xff\xd8"), ("png", b"\x89PNG"), ("webp", b"RIFF")])
def test_formats(format: str, magic: bytes) -> None:
    config = DownloadConfig(encode_format=format, encode_quality=9)
    assert store_web(encoded(noise()), 1_000_000, Stored.of(config))[1].startswith(magic)


@pytest.mark.parametrize(("format", "quality"), [("png", 10), ("png", 95), ("jpg", 0), ("webp", 0), ("jpg", 101)])
def test_a_quality_that_the_format_has_not(format: str, quality: int) -> None:
    with pytest.raises(ValidationError, match="encode_quality"):
        DownloadConfig(encode_format=format, encode_quality=quality)
