"""Pictures and frames of videos as pixels: what a benchmark's items are to a model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from blip_bootstrap.errors import InputError
from blip_bootstrap.machine import num_cores
from blip_training.data.decode import FORMATS, PictureError, broken, decode_to_rgb
from blip_training.data.picture_processes import PictureProcesses
from blip_training.data.pixels import to_pixels

if TYPE_CHECKING:
    from jaxtyping import UInt8
    from torch import Tensor


DECODE_TIMEOUT_S = 60.0

PICTURE_ENDINGS = frozenset({f".{one.lower()}" for one in FORMATS} | {".jpg", ".tif"})


def read_pictures(files: Sequence[Path], image_size: int, max_pixels: int) -> UInt8[Tensor, "b 3 h w"]:
    """Pictures as pixels, squashed to squares, decoded in child processes. Raises InputError naming a broken one."""
    decoder = _decoder(max_pixels)
    futures = [decoder.submit(_bytes_of(file)) for file in files]
    pixels = []
    for file, future in zip(files, futures, strict=True):
        try:
            size, rgb = future.result()
        except PictureError as error:
            raise broken(str(file), error, "get the file again: a benchmark without it has other figures") from error
        image = Image.frombytes("RGB", (size["width"], size["height"]), rgb)
        pixels.append(to_pixels(image, image_size))
    return torch.stack(pixels)


def _bytes_of(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error


@cache
def _decoder(max_pixels: int) -> PictureProcesses:
    """The children that decode; they live as long as this process."""
    return PictureProcesses(partial(decode_to_rgb, max_pixels=max_pixels), max_pixels, DECODE_TIMEOUT_S, num_cores())


def read_frames(video: Path, count: int, image_size: int, max_pixels: int) -> UInt8[Tensor, "f 3 h w"]:
    """`count` frames of a video at even distances, from the first on.

    `video` is a file that OpenCV decodes, or a folder of pictures, which are taken in the order of their names. Raises
    InputError where it has no frame that can be read.
    """
    if video.is_dir():
        files = sorted(file for file in video.iterdir() if file.suffix.lower() in PICTURE_ENDINGS)
        if not files:
            raise InputError(f"{video}: no pictures in this folder of frames")
        return read_pictures([files[at] for at in even_places(len(files), count)], image_size, max_pixels)
    return torch.stack([to_pixels(frame, image_size) for frame in _decoded(video, count)])


def even_places(length: int, count: int) -> list[int]:
    """The places of `count` of `length` frames.

    The distance is a whole number, so that up to `count` - 1 frames at the end are never seen: so does the released
    code (numpy's arange of whole numbers rounds its step down). A video of fewer frames shows some of them again.
    """
    return [at * (length // count) if length >= count else at * length // count for at in range(count)]


def _decoded(video: Path, count: int) -> list[Image.Image]:
    import cv2  # 0.1 s and 40 MB, for videos alone

    opened = cv2.VideoCapture(str(video))
    said = int(opened.get(cv2.CAP_PROP_FRAME_COUNT)) if opened.isOpened() else 0
    frames = _frames_at(opened, even_places(said, count)) if said > 0 else []
    opened.release()
    if len(frames) < count:  # the header of some files tells a wrong number, or none
        opened = cv2.VideoCapture(str(video))
        length = 0
        while opened.isOpened() and opened.grab():
            length += 1
        opened.release()
        if not length:
            raise InputError(f"{video}: not a video that OpenCV can decode; give a folder of its frames instead")
        opened = cv2.VideoCapture(str(video))
        frames = _frames_at(opened, even_places(length, count))
        opened.release()
    return frames


def _frames_at(opened: object, places: Sequence[int]) -> list[Image.Image]:
    """The frames at these places, which do not fall; fewer where the video ends before."""
    frames: list[Image.Image] = []
    at = -1
    for place in places:
        while at < place:
            if not opened.grab():  # type: ignore[attr-defined]
                return frames
            at += 1
        is_read, frame = opened.retrieve()  # type: ignore[attr-defined]
        if not is_read:
            return frames
        frames.append(Image.fromarray(np.ascontiguousarray(frame[:, :, ::-1])))  # BGR
    return frames
