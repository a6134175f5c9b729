"""Samples that PIL or OpenCV read as another picture, without a word: right here, or refused."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
import pytest

from blip_training.data.decode import PictureError, open_picture


def decoded(body: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(open_picture(body).image)


def greys(body: bytes) -> list[int]:
    """The picture's first row, which must be grey."""
    pixels = decoded(body)
    assert (pixels == pixels[..., :1]).all()
    return [int(value) for value in pixels[0, :, 0]]


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    parts = (struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("bits", "packed", "shades"), [(2, b"\x1b", [0, 255, 170, 255]), (4, b"\x01\x23", [0, 255, 34, 51])]
)
def test_the_transparent_grey_of_two_and_four_bits(bits: int, packed: bytes, shades: list[int]) -> None:
    head = struct.pack(">IIBBBBB", 4, 1, bits, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0" + packed)
    assert greys(png((b"IHDR", head), (b"tRNS", b"\0\1"), (b"IDAT", pixels), (b"IEND", b""))) == shades


def plain_tiff(samples: np.ndarray[Any, Any], **changes: int) -> bytes:
    """An uncompressed TIFF of one strip, as its tags say; `planes` etc. change what they say."""
    height, width, channels = samples.shape
    bits = np.full(channels, samples.dtype.itemsize * 8, "<u2").tobytes() + bytes(2)
    kinds = {"u": 1, "i": 2, "f": 3}
    values = {256: width, 257: height, 259: changes.get("compression", 1), 262: 2 if channels > 1 else 1,
              273: 8 + len(bits), 277: channels, 278: height, 279: samples.nbytes, 284: changes.get("planes", 1),
              339: kinds[samples.dtype.kind]}  # fmt: skip
    entries = {tag: struct.pack("<HHII", tag, 4, 1, value) for tag, value in values.items()}
    where = 8 if channels > 2 else int.from_bytes(bits[:4], "little")
    entries[258] = struct.pack("<HHII", 258, 3, channels, where)
    if channels == 4:
        entries[338] = struct.pack("<HHII", 338, 3, 1, changes["extra"])
    directory = struct.pack("<H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries)) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(bits) + samples.nbytes) + bits + samples.tobytes() + directory


def test_whole_numbers_of_32_bits_without_a_sign() -> None:
    assert greys(plain_tiff(np.array([[[0], [2**31], [2**32 - 1]]], "<u4"))) == [0, 128, 255]
    assert greys(plain_tiff(np.array([[[0], [7], [255]]], "<u4"))) == [0, 7, 255]
    assert greys(plain_tiff(np.array([[[-1], [0], [1]]], "<i4"))) == [0, 128, 255]


@pytest.mark.parametrize("dtype", ["<u2", "<f4"])
def test_samples_that_the_libraries_would_make_another_picture_of(dtype: str) -> None:
    samples = (np.arange(24).reshape(2, 4, 3) * 1_000).astype(dtype)
    assert decoded(plain_tiff(samples)).shape == (2, 4, 3)
    for refused in (plain_tiff(samples, planes=2), plain_tiff(samples.astype("u1"), compression=34_712)):
        with pytest.raises(PictureError) as error:
            open_picture(refused)
        assert error.value.error_class == "not_an_image"


def test_a_fourth_channel_is_transparency_where_the_file_says_so() -> None:
    samples = np.array([[[65_535, 0, 0, 0], [0, 0, 65_535, 32_768]]], "<u2")
    assert decoded(plain_tiff(samples, extra=0))[0].tolist() == [[255, 0, 0], [0, 0, 255]]
    assert decoded(plain_tiff(samples, extra=2))[0].tolist() == [[255, 255, 255], [127, 127, 255]]
