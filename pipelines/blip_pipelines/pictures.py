"""From fetched bytes to a stored JPEG: judged by its header, decoded whole, resized by img2dataset."""

from __future__ import annotations

import io
import json
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL import ExifTags, Image, ImageOps

from blip_bootstrap.config import DownloadConfig
from blip_bootstrap.errors import RunFailed

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "MPO")
"""What is decoded. PIL knows more, some of them by calling other programs (EPS: ghostscript)."""

MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF")
MAX_EXIF_CHARS = 10_000


class PictureError(Exception):
    """Bytes that are no usable picture: the error class and its words."""

    def __init__(self, error_class: str, message: str) -> None:
        super().__init__(message)
        self.error_class, self.message = error_class, message


@dataclass(frozen=True)
class Stored:
    """A picture as the table `images` stores it; sizes in pixels, the original ones as displayed."""

    jpg: bytes
    width: int
    height: int
    original_width: int
    original_height: int
    exif: str | None


def open_picture(body: bytes, max_pixels: int) -> tuple[Image.Image, str | None]:
    """Decode the whole picture to RGB, upright, transparency on white; and its EXIF tags as JSON, or None.

    The size is judged from the header, before anything is decoded. Raises PictureError: not_an_image,
    too_many_pixels, truncated_image.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL warns of odd EXIF, palettes and sizes; those are data here
        image = _open(body, max_pixels)
        try:
            image.load()
            exif = _exif(image)
            return _rgb(ImageOps.exif_transpose(image)), exif
        except MemoryError:
            raise
        except Exception as error:  # decoders raise nearly anything on damaged data, which is a row
            kind = "truncated_image" if _is_cut(error) else "not_an_image"
            raise PictureError(kind, f"{image.format}: {str(error) or type(error).__name__}") from error


def _open(body: bytes, max_pixels: int) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(body), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise PictureError("too_many_pixels", str(error)) from error
    except MemoryError:
        raise
    except Exception as error:  # as in open_picture
        start = body[:16].decode("latin-1")
        if body.startswith(MAGIC):
            raise PictureError("truncated_image", f"{len(body):,} bytes, cut in the header ({start!r})") from error
        raise PictureError("not_an_image", f"no picture format begins with {start!r}") from error
    if image.width * image.height > max_pixels:
        raise PictureError("too_many_pixels", f"{image.width} x {image.height} is over {max_pixels:,} pixels")
    return image


def _is_cut(error: Exception) -> bool:
    """Whether PIL's error is about data that ended early."""
    words = str(error).lower()
    return isinstance(error, EOFError) or any(w in words for w in ("truncated", "unrecognized data stream", "broken"))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):  # 16 bits: PIL clips them at 255, so that most would be white
        image = image.point(lambda value: value / 256).convert("L")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _exif(image: Image.Image) -> str | None:
    """The EXIF tags by name, as JSON; None where there are none or too many."""
    tags = {ExifTags.TAGS.get(tag, str(tag)): str(value) for tag, value in image.getexif().items()}
    text = json.dumps(tags).replace("\\u0000", "") if tags else None
    return text if text and len(text) <= MAX_EXIF_CHARS else None


class PictureResizer:
    """img2dataset's Resizer on bytes that PIL has decoded; call it from one thread only.

    Each call of theirs points file descriptors 1 and 2 at /dev/null for a while: several threads lose them for good.
    """

    def __init__(self, config: DownloadConfig) -> None:
        self._max_pixels = config.max_pixels
        self._resizer = _img2dataset_resizer(config)

    def __call__(self, body: bytes) -> Stored:
        """Raises PictureError, of open_picture or too_small, aspect_ratio, other."""
        image, exif = open_picture(body, self._max_pixels)
        # An uncompressed copy: it costs the resizer a memcpy, where the original would be decoded a second time.
        plain = io.BytesIO()
        image.save(plain, "PPM")
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # a deprecation in albumentations, which the resizer would take for an error
            jpg, width, height, original_width, original_height, error = self._resizer(plain)
        if error:
            raise PictureError(_RESIZER_ERRORS.get(error, "other"), f"{error} ({image.width} x {image.height})")
        return Stored(jpg, width, height, original_width, original_height, exif)


_RESIZER_ERRORS = {"image too small": "too_small", "aspect ratio too large": "aspect_ratio"}


def _img2dataset_resizer(config: DownloadConfig) -> Any:
    return _resizer_module().Resizer(
        image_size=config.image_size,
        resize_mode=config.resize_mode,
        resize_only_if_bigger=True,
        encode_quality=config.encode_quality,
        min_image_size=config.min_image_size,
        max_aspect_ratio=config.max_aspect_ratio,
    )


@cache
def _resizer_module() -> ModuleType:
    """img2dataset/resizer.py alone: its package imports torch, ray and wandb, 3 s and 400 MB in each worker."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    package = find_spec("img2dataset")
    folders = package.submodule_search_locations if package else None
    spec = spec_from_file_location("img2dataset_resizer", Path(folders[0]) / "resizer.py") if folders else None
    if not spec or not spec.loader:
        raise RunFailed("img2dataset is not installed; pip install 'img2dataset==1.47.*'")
    module = module_from_spec(spec)
    with warnings.catch_warnings(), _unloaded("albumentations"):
        warnings.simplefilter("ignore")  # it imports imghdr, which warns that Python 3.13 is without it
        spec.loader.exec_module(module)
    return module


class _Unloaded:
    """Stands for a module and loads it when something in it is used."""

    __spec__ = None  # which the import statement asks for

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(import_module(self._name), attribute)


@contextmanager
def _unloaded(name: str) -> Iterator[None]:
    """Let `import name` within cost nothing until it is used: albumentations, a second, shrinks pictures alone."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = _Unloaded(name)  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]
