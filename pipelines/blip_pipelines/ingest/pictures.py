"""Decodes pictures, resizes them as img2dataset does, and encodes them as JPEG for storage."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from blip_bootstrap.machine import num_cores
from blip_training.data.decode import PictureError, open_picture
from blip_training.data.picture_processes import Answer, PictureProcesses

if TYPE_CHECKING:
    from blip_bootstrap.config import AnnotatedSet, DownloadConfig


Pixels = NDArray[np.uint8]

WHITE = (255, 255, 255)


class WebStore(PictureProcesses):
    """Child processes that turn a fetched body into columns of the table `images` and a JPEG (`store_web`)."""

    def __init__(self, config: DownloadConfig, count: int = 1) -> None:
        work = partial(
            store_web, max_pixels=config.max_pixels, image_size=config.image_size, mode=config.resize_mode,
            quality=config.encode_quality, least_px=config.min_image_size, most_aspect=config.max_aspect_ratio,
        )  # fmt: skip
        super().__init__(work, config.max_pixels, config.decode_timeout_s, count)


class BroughtStore(PictureProcesses):
    """Child processes as those of WebStore, for pictures that are there already, which keep their bytes."""

    def __init__(self, config: DownloadConfig, count: int = 1) -> None:
        work = partial(
            store_web, max_pixels=config.max_pixels, image_size=config.image_size, mode=config.resize_mode,
            quality=config.encode_quality, least_px=config.min_image_size, most_aspect=config.max_aspect_ratio,
            keeps_bytes=True,
        )  # fmt: skip
        super().__init__(work, config.max_pixels, config.decode_timeout_s, count)


class HumanStore(PictureProcesses):
    """Child processes that turn a picture of an annotated set into the bytes that are stored (`store_human`)."""

    def __init__(self, config: AnnotatedSet, count: int | None = None) -> None:
        work = partial(
            store_human, max_pixels=config.max_pixels, image_size=config.image_size, mode=config.resize_mode,
            quality=config.encode_quality,
        )  # fmt: skip
        super().__init__(work, config.max_pixels, config.decode_timeout_s, count or num_cores())


def store_web(
    body: bytes,
    max_pixels: int,
    image_size: int,
    mode: str,
    quality: int,
    least_px: int,
    most_aspect: float,
    keeps_bytes: bool = False,
) -> Answer:
    """Decode, check and resize a fetched picture: columns of the table `images`, and the JPEG.

    With `keeps_bytes` a JPEG, PNG or WebP that stands upright and needs no resizing keeps its own bytes. Widths and
    heights are in px; the original ones are those of the upright picture. Raises PictureError: those of open_picture,
    too_small, aspect_ratio, or other where no JPEG can be made.
    """
    opened = open_picture(body, max_pixels)
    width, height = opened.image.size
    if min(width, height) < least_px:
        raise PictureError("too_small", f"{width} x {height} is under {least_px} px (min_image_size)")
    if max(width, height) / min(width, height) > most_aspect:
        raise PictureError("aspect_ratio", f"{width} x {height} is over {most_aspect:g} to 1 (max_aspect_ratio)")
    whole = np.asarray(opened.image)
    pixels = bring_to_size(whole, image_size, mode)
    columns: dict[str, Any] = {"width": pixels.shape[1], "height": pixels.shape[0], "exif": opened.exif}
    columns |= {"original_width": width, "original_height": height}
    return columns, body if keeps_bytes and opened.as_stored and pixels is whole else encode(pixels, quality)


def store_human(body: bytes, max_pixels: int, image_size: int, mode: str, quality: int) -> Answer:
    """Decode and resize a picture of an annotated set: no columns, and the bytes to store.

    A JPEG or PNG that needs no change keeps its own bytes; others become a JPEG. Raises PictureError: those of
    open_picture, or other where no JPEG can be made.
    """
    opened = open_picture(body, max_pixels)
    whole = np.asarray(opened.image)
    pixels = bring_to_size(whole, image_size, mode)
    return {}, body if opened.plain and pixels is whole else encode(pixels, quality)


def bring_to_size(pixels: Pixels, image_size: int, mode: str) -> Pixels:
    """Resize RGB [H, W, 3] by one of img2dataset's modes, to the same pixels; a picture is never made larger.

    keep_ratio: the short side becomes `image_size` px; center_crop: as keep_ratio, then the middle square is cut out;
    keep_ratio_largest: the long side; border: as keep_ratio_largest, then white makes it square; no: unchanged.
    """
    height, width = pixels.shape[:2]
    side = max(height, width) if mode in ("keep_ratio_largest", "border") else min(height, width)
    if mode == "no" or side <= image_size:
        return pixels
    scale = image_size / side
    pixels = _shrink(pixels, max(1, round(height * scale)), max(1, round(width * scale)))
    if mode == "center_crop":
        top, left = ((size - image_size) // 2 for size in pixels.shape[:2])
        return pixels[top : top + image_size, left : left + image_size]
    return _on_square(pixels, image_size) if mode == "border" else pixels


def _shrink(pixels: Pixels, height: int, width: int) -> Pixels:
    import cv2  # start-up: 0.1 s and 40 MB that a process which only fetches does not need

    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def _on_square(pixels: Pixels, side: int) -> Pixels:
    square = np.full((side, side, 3), WHITE, np.uint8)
    top, left = ((side - size) // 2 for size in pixels.shape[:2])
    square[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return square


def encode(pixels: Pixels, quality: int) -> bytes:
    """Encode RGB [H, W, 3] as JPEG. Raises PictureError (other) where that fails, as for a side over 65,500 px."""
    import cv2  # start-up: as above

    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    try:
        encoded, jpg = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)
    except cv2.error as error:
        raise PictureError("other", f"no JPEG can be made of it ({error.err})") from error
    if not encoded:
        raise PictureError("other", f"no JPEG can be made of {pixels.shape[1]} x {pixels.shape[0]} pixels")
    return jpg.tobytes()
