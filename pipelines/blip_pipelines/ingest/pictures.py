"""Decodes pictures, resizes them as img2dataset does, and encodes them for storage."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from blip_bootstrap.machine import num_cores
from blip_training.data.decode import DecodedPicture, PictureError, open_picture
from blip_training.data.picture_child import Answer
from blip_training.data.picture_processes import PictureProcesses

if TYPE_CHECKING:
    from blip_bootstrap.config import AnnotatedSet, DownloadConfig
    from blip_bootstrap.config.inputs import PictureRule


Pixels = NDArray[np.uint8]

WHITE = (255, 255, 255)

INTERPOLATIONS = ("nearest", "linear", "cubic", "area", "lanczos")


@dataclass(frozen=True)
class Stored:
    """How a picture is stored, in img2dataset's words; see the settings of `PictureRule`.

    `scaled`: a JPEG is reduced while it is decoded, where that leaves at least what is stored.
    """

    image_size: int
    mode: str
    quality: int = 95
    format: str = "jpg"
    only_if_bigger: bool = True
    upscale: str = "lanczos"
    downscale: str = "area"
    scaled: bool = False

    @classmethod
    def of(cls, rule: PictureRule) -> Stored:
        """What the settings say."""
        return cls(
            rule.image_size, rule.resize_mode, rule.encode_quality, rule.encode_format, rule.resize_only_if_bigger,
            rule.upscale_interpolation, rule.downscale_interpolation, rule.jpeg_scaling,
        )  # fmt: skip

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """The height and width, px, to which a picture is resized, before it is cut or set on a white square."""
        side = max(height, width) if self.mode in ("keep_ratio_largest", "border") else min(height, width)
        if self.mode == "no" or (self.only_if_bigger and side <= self.image_size):
            return height, width
        scale = self.image_size / side
        return max(1, round(height * scale)), max(1, round(width * scale))


class WebStore(PictureProcesses):
    """Child processes that turn a fetched body into columns of the table `images` and encoded bytes (`store_web`)."""

    keeps_bytes = False

    def __init__(self, config: DownloadConfig, count: int = 1) -> None:
        work = partial(
            store_web, max_pixels=config.max_pixels, how=Stored.of(config), least_px=config.min_image_size,
            most_aspect=config.max_aspect_ratio, keeps_bytes=self.keeps_bytes,
        )  # fmt: skip
        super().__init__(work, config.max_pixels, config.decode_timeout_s, count)


class BroughtStore(WebStore):
    """Child processes as those of WebStore, for pictures that are there already, which keep their bytes."""

    keeps_bytes = True


class HumanStore(PictureProcesses):
    """Child processes that turn a picture of an annotated set into the bytes that are stored (`store_human`)."""

    def __init__(self, config: AnnotatedSet, count: int | None = None) -> None:
        work = partial(store_human, max_pixels=config.max_pixels, how=Stored.of(config))
        super().__init__(work, config.max_pixels, config.decode_timeout_s, count or num_cores())


def store_web(
    body: bytes,
    max_pixels: int,
    how: Stored,
    least_px: int = 0,
    most_aspect: float = float("inf"),
    keeps_bytes: bool = False,
) -> Answer:
    """Decode, check and resize a fetched picture: columns of the table `images`, and the encoded picture.

    With `keeps_bytes` a JPEG, PNG or WebP that stands upright and needs no resizing keeps its own bytes. Widths and
    heights are in px; the original ones are those of the upright picture. Raises PictureError: those of open_picture,
    too_small, aspect_ratio, or other where it cannot be encoded.
    """
    opened = open_picture(body, max_pixels, how.size_of if how.scaled else None)
    width, height = opened.size
    if min(width, height) < least_px:
        raise PictureError("too_small", f"{width} x {height} is under {least_px} px (min_image_size)")
    if max(width, height) / min(width, height) > most_aspect:
        raise PictureError("aspect_ratio", f"{width} x {height} is over {most_aspect:g} to 1 (max_aspect_ratio)")
    columns: dict[str, Any] = {"exif": opened.exif, "original_width": width, "original_height": height}
    shape, stored = _stored(opened, how, body if keeps_bytes and opened.as_stored else None)
    return columns | {"width": shape[1], "height": shape[0]}, stored


def store_human(body: bytes, max_pixels: int, how: Stored) -> Answer:
    """Decode and resize a picture of an annotated set: no columns, and the bytes to store.

    A JPEG or PNG that needs no change keeps its own bytes; others are encoded. Raises PictureError: those of
    open_picture, or other where it cannot be encoded.
    """
    opened = open_picture(body, max_pixels, how.size_of if how.scaled else None)
    return {}, _stored(opened, how, body if opened.plain else None)[1]


def _stored(opened: DecodedPicture, how: Stored, body: bytes | None) -> tuple[tuple[int, ...], bytes]:
    """The shape of what is stored, and its bytes: `body`, if given, where the picture is not changed."""
    pixels = bring_to_size(opened.pixels, how, opened.size)
    if body is not None and pixels is opened.pixels and pixels.shape[1::-1] == opened.size:
        return pixels.shape, body
    return pixels.shape, encode(pixels, how.quality, how.format)


def bring_to_size(pixels: Pixels, how: Stored, original: tuple[int, int] | None = None) -> Pixels:
    """Resize RGB [H, W, 3] by one of img2dataset's modes, to the same pixels.

    keep_ratio: the short side becomes `image_size` px; center_crop: as keep_ratio, then the middle square is cut out;
    keep_ratio_largest: the long side; border: as keep_ratio_largest, then white makes it square; no: unchanged. A
    picture that is smaller is unchanged with `only_if_bigger`. `original` is the width and height of the picture of
    which `pixels` are a reduction.
    """
    width, height = original or pixels.shape[1::-1]
    side = max(height, width) if how.mode in ("keep_ratio_largest", "border") else min(height, width)
    if how.mode == "no" or (how.only_if_bigger and side <= how.image_size):
        return pixels
    interpolation = how.downscale if side > how.image_size else how.upscale
    pixels = _resize(pixels, how.size_of(height, width), interpolation)
    if how.mode == "center_crop":
        top, left = ((size - how.image_size) // 2 for size in pixels.shape[:2])
        return pixels[top : top + how.image_size, left : left + how.image_size]
    return _on_square(pixels, how.image_size) if how.mode == "border" else pixels


def _resize(pixels: Pixels, size: tuple[int, int], interpolation: str) -> Pixels:
    if pixels.shape[:2] == size:
        return pixels
    import cv2  # start-up: 0.1 s and 40 MB that a process which only fetches does not need

    flags = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA, cv2.INTER_LANCZOS4)
    flag = dict(zip(INTERPOLATIONS, flags, strict=True))[interpolation]
    return cv2.resize(pixels, size[::-1], interpolation=flag).astype(np.uint8, copy=False)


def _on_square(pixels: Pixels, side: int) -> Pixels:
    square = np.full((side, side, 3), WHITE, np.uint8)
    top, left = ((side - size) // 2 for size in pixels.shape[:2])
    square[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return square


def encode(pixels: Pixels, quality: int, format: str = "jpg") -> bytes:
    """Encode RGB [H, W, 3] as `jpg`, `webp` (quality 1..100) or `png` (compression 0..9).

    Raises PictureError (other) where that fails, as for a JPEG's side over 65,500 px.
    """
    import cv2  # start-up: as above

    settings = {"jpg": cv2.IMWRITE_JPEG_QUALITY, "webp": cv2.IMWRITE_WEBP_QUALITY, "png": cv2.IMWRITE_PNG_COMPRESSION}
    try:
        encoded, found = cv2.imencode(
            f".{format}", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [settings[format], quality]
        )
    except cv2.error as error:
        raise PictureError("other", f"no {_NAMES[format]} can be made of it ({error.err})") from error
    if not encoded:
        raise PictureError("other", f"no {_NAMES[format]} can be made of {pixels.shape[1]} x {pixels.shape[0]} pixels")
    return found.tobytes()


_NAMES = {"jpg": "JPEG", "png": "PNG", "webp": "WebP"}
