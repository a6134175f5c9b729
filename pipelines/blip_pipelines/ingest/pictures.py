"""From a picture's bytes to what is stored: decoded whole, brought to size by img2dataset's rule, encoded as JPEG."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from blip_training.data.decode import PictureError, open_picture
from blip_training.data.picture_processes import Answer, PictureProcesses

if TYPE_CHECKING:
    from blip_bootstrap.config import AnnotatedSet, DownloadConfig


Pixels = NDArray[np.uint8]

WHITE = (255, 255, 255)


class WebStore(PictureProcesses):
    """Child processes that make of fetched bytes what the table `images` stores: its columns, and the JPEG."""

    def __init__(self, config: DownloadConfig, count: int = 1) -> None:
        work = partial(
            store_web, max_pixels=config.max_pixels, image_size=config.image_size, mode=config.resize_mode,
            quality=config.encode_quality, least_px=config.min_image_size, most_aspect=config.max_aspect_ratio,
        )  # fmt: skip
        super().__init__(work, config.max_pixels, config.decode_timeout_s, count)


class HumanStore(PictureProcesses):
    """Child processes that make of a picture of an annotated set what is stored of it."""

    def __init__(self, config: AnnotatedSet, count: int | None = None) -> None:
        work = partial(
            store_human, max_pixels=config.max_pixels, image_size=config.image_size, mode=config.resize_mode,
            quality=config.encode_quality,
        )  # fmt: skip
        super().__init__(work, config.max_pixels, config.decode_timeout_s, count or os.cpu_count() or 1)


def store_web(
    body: bytes, max_pixels: int, image_size: int, mode: str, quality: int, least_px: int, most_aspect: float
) -> Answer:
    """Columns of the table `images` (sizes in pixels, the original ones as displayed) and the JPEG.

    Raises PictureError, of open_picture or too_small, aspect_ratio, other.
    """
    opened = open_picture(body, max_pixels)
    width, height = opened.image.size
    if min(width, height) < least_px:
        raise PictureError("too_small", f"{width} x {height} is under {least_px} px (min_image_size)")
    if max(width, height) / min(width, height) > most_aspect:
        raise PictureError("aspect_ratio", f"{width} x {height} is over {most_aspect:g} to 1 (max_aspect_ratio)")
    pixels = bring_to_size(np.asarray(opened.image), image_size, mode)
    columns: dict[str, Any] = {"width": pixels.shape[1], "height": pixels.shape[0], "exif": opened.exif}
    return columns | {"original_width": width, "original_height": height}, encode(pixels, quality)


def store_human(body: bytes, max_pixels: int, image_size: int, mode: str, quality: int) -> Answer:
    """No columns, and the picture: its own bytes where it is a JPEG or PNG that needs no change, else a JPEG.

    Raises PictureError, of open_picture.
    """
    opened = open_picture(body, max_pixels)
    whole = np.asarray(opened.image)
    pixels = bring_to_size(whole, image_size, mode)
    return {}, body if opened.plain and pixels is whole else encode(pixels, quality)


def bring_to_size(pixels: Pixels, image_size: int, mode: str) -> Pixels:
    """RGB [H, W, 3] by one of img2dataset's resize modes, in its pixels; itself where the picture is no larger.

    keep_ratio: the short side gets `image_size`; center_crop: and the middle is cut out; keep_ratio_largest: the long
    side; border: and white is added up to a square; no: nothing is done.
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
    import cv2  # not in the process that only fetches, which never calls this

    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def _on_square(pixels: Pixels, side: int) -> Pixels:
    square = np.full((side, side, 3), WHITE, np.uint8)
    top, left = ((side - size) // 2 for size in pixels.shape[:2])
    square[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return square


def encode(pixels: Pixels, quality: int) -> bytes:
    """RGB as a JPEG. Raises PictureError (other), as for a side of over 65,500 px."""
    import cv2  # as above

    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    try:
        encoded, jpg = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)
    except cv2.error as error:
        raise PictureError("other", f"no JPEG can be made of it ({error.err})") from error
    if not encoded:
        raise PictureError("other", f"no JPEG can be made of {pixels.shape[1]} x {pixels.shape[0]} pixels")
    return jpg.tobytes()
