"""The one decoder: every kind of samples to the right colours, and nothing beside the pixels costs a picture."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from blip_bootstrap.schemas.closed_lists import ERROR_CLASSES
from blip_training.data.decode import PictureError, open_picture
from blip_training.data.picture_metadata import orientation, split_metadata
from blip_training.data.samples import to_8_bits

MAX_PIXELS = 100_000
LYING = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
"""An EXIF block with one tag: orientation 6."""


def noise(width: int = 160, height: int = 120) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


def encoded(image: Image.Image, format: str = "JPEG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def decoded(body: bytes) -> np.ndarray[Any, Any]:
    image = open_picture(body, MAX_PIXELS).image
    assert image.mode == "RGB"
    return np.asarray(image)


def greys(body: bytes) -> list[int]:
    """The picture's first row, which must be grey."""
    pixels = decoded(body)
    assert (pixels == pixels[..., :1]).all()
    return [int(value) for value in pixels[0, :, 0]]


def tiff(values: Any, dtype: str, **options: Any) -> bytes:
    return encoded(Image.fromarray(np.array([values], dtype)), "TIFF", **options)


def png(chunks: list[tuple[bytes, bytes]], body: bytes, before: bytes = b"IDAT", spoil: bool = False) -> bytes:
    """A PNG with chunks put in, with a wrong checksum where `spoil`."""
    inserted = b""
    for name, content in chunks:
        inserted += struct.pack(">I", len(content)) + name + content
        inserted += struct.pack(">I", zlib.crc32(name + content) ^ spoil)
    at = body.index(before) - 4
    return body[:at] + inserted + body[at:]


def error_of(body: bytes, max_pixels: int = MAX_PIXELS) -> str:
    with pytest.raises(PictureError) as error:
        open_picture(body, max_pixels)
    assert error.value.error_class in ERROR_CLASSES
    return error.value.error_class


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_formats_whole_and_cut(format: str) -> None:
    body = encoded(noise(), format)
    assert decoded(body).shape == (120, 160, 3)
    assert error_of(body[: int(len(body) * 0.98)]) == "truncated_image"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF"])
def test_cut_within_the_header(format: str) -> None:
    assert error_of(encoded(noise(), format)[:20]) == "truncated_image"


@pytest.mark.parametrize("body", [b"", b"<!DOCTYPE html><p>hello", b"%!PS-Adobe-3.0 EPSF-3.0", b"II*\0\x08\0\0\0"])
def test_not_an_image(body: bytes) -> None:
    assert error_of(body) == "not_an_image"


@pytest.mark.parametrize("side", [400, 12_000, 20_000])
def test_a_pixel_bomb_is_judged_by_its_header(side: int) -> None:
    assert error_of(encoded(Image.new("1", (side, side)), "PNG")) == "too_many_pixels"


def test_a_bomb_of_samples_that_pil_does_not_know_is_judged_by_its_header() -> None:
    ok, body = cv2.imencode(".tif", np.zeros((400, 400, 3), np.float32))
    assert ok
    assert error_of(body.tobytes()) == "too_many_pixels"


def many_scans(count: int) -> bytes:
    body = encoded(Image.new("RGB", (64, 64), "red"), progressive=True)
    last = body.rindex(b"\xff\xda")
    return body[:-2] + body[last:-2] * (count - body.count(b"\xff\xda")) + b"\xff\xd9"


def test_scans_of_a_progressive_jpeg() -> None:
    assert decoded(many_scans(100)).shape == (64, 64, 3)
    assert error_of(many_scans(101)) == "too_many_scans"
    after = b"\xff\xda" * 200  # a film that a telephone puts behind its picture
    assert decoded(many_scans(10) + after).shape == (64, 64, 3)
    thumbnail = b"\xff\xe1" + struct.pack(">H", 5_000 + 2) + (b"\xff\xda" * 2_500)
    body = many_scans(10)
    assert decoded(body[:2] + thumbnail + body[2:]).shape == (64, 64, 3)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "RGBA", "CMYK", "I;16", "YCbCr", "LAB"])
def test_modes_become_rgb(mode: str) -> None:
    image = Image.new(mode, (4, 4)) if mode in ("I;16", "LAB") else noise().convert(mode)
    decoded(encoded(image, "TIFF" if mode in ("CMYK", "YCbCr", "LAB") else "PNG"))


def test_lab_and_cmyk_have_their_colours() -> None:
    lab = Image.new("LAB", (8, 8), (255 * 53 // 100, 128 + 80, 128 + 67))  # red
    red, green, blue = decoded(encoded(lab, "TIFF"))[0, 0]
    assert red > 240 > 30 > max(green, blue)
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    for format in ("TIFF", "JPEG"):  # Adobe's JPEG holds it inverted
        red, green, blue = decoded(encoded(cyan, format))[8, 8]
        assert red < 5 < 250 < min(green, blue)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "AVIF", "GIF"])
def test_transparent_is_white(format: str) -> None:
    clear = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    lossless = {"lossless": True} if format == "WEBP" else {}
    assert decoded(encoded(clear, format, **lossless)).min() == 255


def test_transparent_colours_of_a_palette_and_of_grey() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.putpixel((1, 0), 1)
    for transparency in (0, b"\0\xff"):
        assert decoded(encoded(palette, "PNG", transparency=transparency))[0].tolist() == [[255] * 3, [0, 255, 0]]
    deep = Image.fromarray(np.array([[0, 300, 65_535]], np.uint16))
    assert greys(encoded(deep, "PNG", transparency=300)) == [0, 255, 255]
    assert greys(encoded(Image.fromarray(np.array([[0, 7, 255]], np.uint8)), "PNG", transparency=7)) == [0, 255, 255]


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bits(order: str) -> None:
    assert greys(tiff([0, 32_768, 65_535], f"{order}u2")) == [0, 128, 255]
    assert greys(tiff([0, 2_048, 4_095], f"{order}u2")) == [0, 128, 255]
    assert greys(tiff([0, 2_048, 4_096], f"{order}u2")) == [0, 8, 16]


def test_16_bits_of_a_png_and_the_least_value_white() -> None:
    assert greys(encoded(Image.fromarray(np.array([[0, 32_768, 65_535]], np.uint16)), "PNG")) == [0, 128, 255]
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[262] = 0
    assert greys(tiff([0, 32_768, 65_535], "<u2", tiffinfo=info)) == [255, 127, 0]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("top", [65_535, 4_095])
@pytest.mark.parametrize("channels", [3, 4])
def test_colours_of_16_bits(suffix: str, top: int, channels: int) -> None:
    bgr = np.array([[[0, top // 2, top], [top, 0, top // 4]]], np.uint16)
    opaque = np.full((1, 2, 1), 65_535, np.uint16)
    samples = bgr if channels == 3 else np.concatenate([bgr, opaque], axis=2)
    body = cv2.imencode(suffix, samples)[1].tobytes()
    assert np.abs(decoded(body)[0].astype(int) - [[255, 127, 0], [64, 0, 255]]).max() <= 1


def test_transparency_of_16_bits() -> None:
    samples = np.array([[[0, 0, 0, 0], [0, 0, 65_535, 32_768]]], np.uint16)
    assert decoded(cv2.imencode(".png", samples)[1].tobytes())[0].tolist() == [[255] * 3, [255, 127, 127]]


@pytest.mark.parametrize(
    ("values", "dtype", "shades"),
    [
        ([0, 7, 255], "<i4", [0, 7, 255]),
        ([0, 7, 255], ">i4", [0, 7, 255]),
        ([0, 1, 1], "<i4", [0, 1, 1]),
        ([0, 500, 1_000], "<i4", [0, 128, 255]),
        ([-100, 0, 100], "<i4", [0, 127, 255]),
        ([-(2**31), 0, 2**31 - 1], "<i4", [0, 128, 255]),
        ([0.0, 0.5, 1.0], "<f4", [0, 128, 255]),
        ([0.0, 0.25, 0.5], "<f4", [0, 64, 128]),
        ([0.0, 0.5, 1.0], ">f4", [0, 128, 255]),
        ([0.0, 7.0, 255.0], "<f4", [0, 7, 255]),
        ([-1.0, 0.0, 1.0], "<f4", [0, 128, 255]),
        ([0.0, 500.0, 1e30], "<f4", [0, 0, 255]),
        ([np.nan, 0.5, 1.0], "<f4", [0, 128, 255]),
        ([-np.inf, 0.5, np.inf], "<f4", [0, 128, 255]),
        ([np.nan, 500.0, 1_000.0], "<f4", [0, 0, 255]),
        ([np.nan, np.nan, np.inf], "<f4", [0, 0, 255]),
        ([900.0, 900.0, 900.0], "<f4", [0, 0, 0]),
    ],
)
def test_whole_numbers_of_32_bits_and_fractions(values: list[float], dtype: str, shades: list[int]) -> None:
    assert greys(tiff(values, dtype)) == shades
    assert to_8_bits(np.array(values, dtype)).tolist() == shades


def test_colours_of_fractions_which_pil_does_not_know() -> None:
    samples = np.array([[[0, 0.5, 1], [1, 0, 0.25]]], np.float32)
    body = cv2.imencode(".tif", samples)[1].tobytes()
    assert decoded(body)[0].tolist() == [[255, 128, 0], [64, 0, 255]]
    assert error_of(body[: len(body) // 2]) in ("not_an_image", "truncated_image")


def test_the_first_frame_of_several() -> None:
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "blue")]
    for format in ("GIF", "WEBP", "PNG", "TIFF", "AVIF"):
        body = encoded(frames[0], format, save_all=True, append_images=frames[1:])
        red, green, blue = decoded(body)[5, 5]
        assert red > 200 > 60 > max(green, blue)


BLOCKS = {
    "no number of tags": b"Exif\0\0II*\0\x08\0\0\0",
    "garbage": b"Exif\0\0 nonsense that is no EXIF at all",
    "an offset beyond the end": b"Exif\0\0II*\0\xff\xff\xff\x7f\x01\0",
    "a float that is no number": LYING[:15] + b"\x02" + LYING[16:28] + struct.pack(">HHIf", 0x0128, 11, 1, np.nan),
    "a count of two thousand million": LYING[:15] + b"\x02" + LYING[16:28] + struct.pack(">HHII", 0x010F, 5, 2**31, 4),
    "a kind that is none": LYING[:15] + b"\x02" + LYING[16:28] + struct.pack(">HHII", 0x0131, 99, 1, 4),
    "a directory in itself": LYING[:15] + b"\x02" + LYING[16:28] + struct.pack(">HHII", 0x8769, 4, 1, 8),
}  # fmt: skip


def jpeg_with(block: bytes) -> bytes:
    body = encoded(noise())
    return body[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + body[2:]


@pytest.mark.parametrize("kind", BLOCKS)
def test_odd_exif_costs_neither_the_picture_nor_its_orientation(kind: str) -> None:
    block = BLOCKS[kind]
    lies = block.startswith(LYING[:14])
    bodies = [jpeg_with(block), png([(b"eXIf", block[6:])], encoded(noise(), "PNG"))]
    bodies.append(encoded(noise(), "WEBP", exif=block))
    for body in bodies:
        opened = open_picture(body, MAX_PIXELS)
        assert opened.image.size == ((120, 160) if lies else (160, 120))
        assert ("Orientation" in (opened.exif or "")) == lies
        assert not opened.plain


def test_odd_exif_of_an_avif() -> None:
    assert open_picture(encoded(noise(), "AVIF", exif=LYING), MAX_PIXELS).image.size == (120, 160)
    exif = Image.Exif()
    exif[0x010F] = "A camera"
    body = encoded(noise(), "AVIF", exif=exif)
    odd = body.replace(exif.tobytes()[6:14], b"nonsense")
    assert odd != body
    with pytest.raises(ValueError, match="Exif"):  # what PIL makes of it
        Image.open(io.BytesIO(odd))
    assert (decoded(odd) == decoded(body)).all()


@pytest.mark.parametrize("value", range(10))
def test_every_orientation_as_pil_turns_it(value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    turned = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270",
              7: "TRANSVERSE", 8: "ROTATE_90"}  # fmt: skip
    image = noise()
    right = image.transpose(Image.Transpose[turned[value]]) if value in turned else image
    for format in ("PNG", "TIFF"):
        assert (decoded(encoded(image, format, exif=exif)) == np.asarray(right)).all()
    assert open_picture(encoded(image, exif=exif), MAX_PIXELS).image.size == right.size


def test_orientation_as_other_programs_write_it() -> None:
    for kind, value in ((1, b"\x06\0\0\0"), (3, b"\x06\0\0\0"), (4, b"\x06\0\0\0")):
        block = b"II*\0\x08\0\0\0\x01\0\x12\x01" + struct.pack("<HI", kind, 1) + value + bytes(4)
        assert orientation(block) == 6
    assert orientation(None) == orientation(b"") == orientation(b"Exif\0\0") == 1


@pytest.mark.parametrize("before", [b"IDAT", b"IEND"])
@pytest.mark.parametrize("spoil", [False, True])
def test_text_and_profiles_of_a_png_cost_nothing(before: bytes, spoil: bool) -> None:
    plain = encoded(noise(), "PNG")
    bomb = zlib.compress(bytes(70_000_000))
    chunks = [(b"zTXt", b"a\0\0" + bomb), (b"iTXt", b"a\0\1\0\0\0" + bomb), (b"iCCP", b"a\0\0" + bomb)]
    chunks += [(b"tEXt", b"\0" * 9), (b"iTXt", b"\xff"), (b"pHYs", b""), (b"gAMA", b"1"), (b"tIME", b"?" * 70)]
    for some in ([one] for one in chunks):
        body = png(some, plain, before, spoil)
        assert (decoded(body) == np.asarray(noise())).all()
        assert split_metadata(body)[0] == plain


def test_text_of_a_png_that_is_cut_after_its_pixels() -> None:
    body = png([(b"tEXt", b"Comment\0" + b"x" * 5_000)], encoded(noise(), "PNG"), b"IEND")
    assert (decoded(body[:-2_000]) == np.asarray(noise())).all()


def test_transparency_of_a_png_that_cannot_be_read() -> None:
    assert decoded(png([(b"tRNS", b"1")], encoded(noise(), "PNG"))).shape == (120, 160, 3)
    assert decoded(png([(b"tRNS", b"\0\0\0\0\0\0")], encoded(noise(), "PNG"), spoil=True)).shape == (120, 160, 3)


def test_odd_segments_of_a_jpeg() -> None:
    plain = encoded(noise())
    for marker, content in (
        (0xE2, b"MPF\0nonsense"), (0xE2, b"ICC_PROFILE\0\xff\xff"), (0xED, b"Photoshop 3.0\x008BIM"),
        (0xFE, b"\xff" * 9),
        (0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta tiff:Orientation='6'/>"), (0xE1, b""), (0xEF, b"x"),
    ):  # fmt: skip
        body = plain[:2] + bytes([0xFF, 0xFF, marker]) + struct.pack(">H", len(content) + 2) + content + plain[2:]
        assert (decoded(body) == decoded(plain)).all()


def test_odd_tags_of_a_tiff() -> None:
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[274] = 6
    info[270] = "a description"
    info[34665] = 3  # an EXIF directory in the midst of the header
    info.tagtype[34665] = 4
    body = encoded(noise(), "TIFF", tiffinfo=info)
    for kind in (11, 99):
        odd = body.replace(struct.pack("<HHI", 270, 2, 14), struct.pack("<HHI", 270, kind, 2**31 - 1))
        assert odd != body
        assert decoded(odd).shape == (160, 120, 3)


def test_exif_without_what_cannot_be_read() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x0131] = 6, "A camera", "made by \\ and \0 and ü"
    tags = json.loads(open_picture(encoded(noise(), exif=exif), MAX_PIXELS).exif or "")
    assert (tags["Orientation"], tags["Make"], "\0" in tags["Software"]) == ("6", "A camera", False)
    many = Image.Exif()
    many[0x010F] = "x" * 20_000
    assert open_picture(encoded(noise(), exif=many), MAX_PIXELS).exif is None


def test_plain_files_are_known() -> None:
    assert open_picture(encoded(noise())).plain
    assert open_picture(encoded(noise().convert("L"), "PNG")).plain
    assert not open_picture(encoded(noise(), "BMP")).plain
    assert not open_picture(encoded(noise().convert("RGBA"), "PNG")).plain


def test_the_files_that_people_sent(real_data: Path) -> None:
    """Each is whole, and OpenCV decodes it."""
    folder = real_data.parent / "cases" / "picture-lost-to-metadata"
    if not folder.is_dir():
        pytest.skip(f"no files at {folder}")
    for file in sorted(folder.glob("*.*")):
        pixels = decoded(file.read_bytes())
        assert 90 < pixels.mean() < 130, file.name
        assert np.ptp(pixels) > 200, file.name
