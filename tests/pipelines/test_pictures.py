from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from blip_bootstrap.config import DownloadConfig
from blip_pipelines.pictures import PictureError, PictureResizer, open_picture

MAX_PIXELS = 100_000


def noise(width: int = 160, height: int = 120) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


def encoded(image: Image.Image, format: str = "JPEG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def resize(body: bytes, **settings: object) -> Image.Image:
    stored = PictureResizer(DownloadConfig(max_pixels=MAX_PIXELS, **settings))(body)
    image = Image.open(io.BytesIO(stored.jpg))
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (stored.width, stored.height))
    return image


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_formats_whole_and_cut(format: str) -> None:
    body = encoded(noise(), format)
    assert resize(body, image_size=64).size == (85, 64)
    with pytest.raises(PictureError) as cut:
        open_picture(body[: int(len(body) * 0.98)], MAX_PIXELS)
    assert cut.value.error_class == "truncated_image"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF"])
def test_cut_within_the_header(format: str) -> None:
    with pytest.raises(PictureError, match="cut in the header") as cut:
        open_picture(encoded(noise(), format)[:20], MAX_PIXELS)
    assert cut.value.error_class == "truncated_image"


@pytest.mark.parametrize("body", [b"", b"<!DOCTYPE html><p>hello", b"%!PS-Adobe-3.0 EPSF-3.0"])
def test_not_an_image(body: bytes) -> None:
    with pytest.raises(PictureError) as error:
        open_picture(body, MAX_PIXELS)
    assert error.value.error_class == "not_an_image"


@pytest.mark.parametrize("side", [400, 12_000, 20_000])
def test_a_pixel_bomb_is_judged_by_its_header(side: int) -> None:
    body = encoded(Image.new("1", (side, side)), "PNG")
    with pytest.raises(PictureError) as error:
        open_picture(body, MAX_PIXELS)
    assert error.value.error_class == "too_many_pixels"


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "RGBA", "CMYK"])
def test_modes_become_rgb(mode: str) -> None:
    resize(encoded(noise().convert(mode), "TIFF" if mode == "CMYK" else "PNG"))


def test_transparent_becomes_white_and_16_bits_keep_their_range() -> None:
    clear = Image.new("RGBA", (50, 50), (0, 0, 0, 0))
    assert np.asarray(resize(encoded(clear, "PNG"))).min() == 255
    ramp = Image.fromarray(np.linspace(0, 65_535, 10_000).reshape(100, 100).astype(np.uint16))
    assert 125 < np.asarray(resize(encoded(ramp, "PNG"))).mean() < 130


def test_a_picture_lying_on_its_side_is_stored_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = PictureResizer(DownloadConfig(image_size=64))(encoded(noise(), exif=exif))
    assert (stored.width, stored.height, stored.original_width, stored.original_height) == (64, 85, 120, 160)
    assert json.loads(stored.exif or "")["Orientation"] == "6"


@pytest.mark.parametrize(
    ("settings", "error_class"),
    [({"min_image_size": 121}, "too_small"), ({"max_aspect_ratio": 1.2}, "aspect_ratio")],
)
def test_pictures_that_the_resizer_refuses(settings: dict[str, float], error_class: str) -> None:
    with pytest.raises(PictureError) as error:
        PictureResizer(DownloadConfig(**settings))(encoded(noise()))
    assert error.value.error_class == error_class


@pytest.mark.parametrize(
    ("mode", "size"),
    [("no", (160, 120)), ("keep_ratio", (85, 64)), ("keep_ratio_largest", (64, 48)), ("center_crop", (64, 64)),
     ("border", (64, 64))],
)  # fmt: skip
def test_resize_modes(mode: str, size: tuple[int, int]) -> None:
    assert resize(encoded(noise()), image_size=64, resize_mode=mode).size == size


def test_the_border_is_white() -> None:
    black = resize(encoded(Image.new("RGB", (160, 80))), image_size=64, resize_mode="border")
    assert black.getpixel((32, 2)) == (255, 255, 255)
