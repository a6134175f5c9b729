"""Decodes pictures for all steps: from encoded bytes to RGB, upright, transparency on white, and to pixels.

The size is judged by the header before anything is decoded, and decoders are given only what makes pixels.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from blip_bootstrap.errors import InputError
from blip_training.data.picture_metadata import (
    HEIGHT,
    WIDTH,
    exif_json,
    num_scans,
    orientation,
    read_tags,
    split_metadata,
)
from blip_training.data.samples import array_to_rgb, on_white, to_8_bits

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""The formats that are decoded. PIL knows more, some of them by calling other programs (EPS: ghostscript)."""

MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF")

MAX_SCANS = 100
"""The most scans that a progressive JPEG may have; real ones have up to about 15."""

_TIFF_COMPRESSION, _TIFF_PLANES, _TIFF_BITS, _TIFF_SAMPLE_KIND = 259, 284, 258, 339

_OPENCV_UNPACKS = frozenset({1, 2, 3, 4, 5, 7, 8, 32773, 32946})
"""TIFF compressions that OpenCV's libtiff has; of others it makes a black picture, unsaid."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
"""The turn that sets a picture upright, by its EXIF orientation."""

_LYING = frozenset(_TURNS[number] for number in (5, 6, 7, 8))

_MOST_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0)
"""The most pixels of a picture where no limit is given, as PIL has it."""


class PictureError(Exception):
    """Bytes that are no usable picture: `error_class` as in the table `images`, and a message."""

    def __init__(self, error_class: str, message: str) -> None:
        super().__init__(message)
        self.error_class, self.message = error_class, message


@dataclass(frozen=True)
class DecodedPicture:
    """A picture as RGB [H, W, 3], upright, with its EXIF tags as JSON, or None.

    `plain` says that the file is a JPEG or PNG of exactly these pixels and without metadata; `as_stored`, that it is a
    JPEG, PNG or WebP that stands upright, whatever else is in it, so that its own bytes may be stored. `size` is the
    width and height of the upright picture in the file, px, of which `pixels` may be a reduction.
    """

    pixels: NDArray[np.uint8]
    exif: str | None
    plain: bool
    size: tuple[int, int]
    as_stored: bool = False

    @property
    def image(self) -> Image.Image:
        """The picture as an image of PIL's."""
        return Image.fromarray(self.pixels)


def open_picture(
    body: bytes, max_pixels: int | None = None, least: Callable[[int, int], tuple[int, int]] | None = None
) -> DecodedPicture:
    """Decode the first frame to RGB, upright, transparency on white.

    A picture of more than `max_pixels` is refused by its header. With `least`, which gives the least height and width,
    px, for those of a picture as it lies in its file, a JPEG that has twice as many or more is reduced while it is
    decoded. Raises PictureError of class not_an_image, too_many_pixels, too_many_scans or truncated_image.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL warns of odd palettes and sizes; those are data here
        bare, block = split_metadata(body)
        if (scans := num_scans(bare)) > MAX_SCANS:
            raise PictureError("too_many_scans", f"{scans:,} scans of a progressive JPEG; at most {MAX_SCANS}")
        turn = _TURNS.get(orientation(block))
        if (jpeg := _by_turbo(bare, max_pixels, least)) is not None:
            pixels, (height, width), plain, format = *jpeg, bare == body, "JPEG"
        elif (image := _open(bare, max_pixels)) is None:
            pixels, plain, format = np.asarray(_decode_by_opencv(bare)), False, None
            height, width = pixels.shape[:2]
        else:
            block, plain = block or image.info.get("exif"), bare == body and _is_plain(image)
            turn, format = _TURNS.get(orientation(block)), image.format
            pixels = np.asarray(_decode(image, bare))
            height, width = pixels.shape[:2]
        if turn is not None:
            pixels = np.asarray(Image.fromarray(pixels).transpose(turn))
            height, width = (width, height) if turn in _LYING else (height, width)
        as_stored = turn is None and format in ("JPEG", "PNG", "WEBP")
        return DecodedPicture(pixels, exif_json(block), plain, (width, height), as_stored)


def _by_turbo(
    bare: bytes, max_pixels: int | None, least: Callable[[int, int], tuple[int, int]] | None
) -> tuple[NDArray[np.uint8], tuple[int, int]] | None:
    """The pixels of a JPEG in colours or greys, and its height and width; None for all that PIL is to judge.

    They are PIL's own to the bit, and cost half of its time: both are libjpeg-turbo. A file of which it says anything
    at all, damage above all, is left to PIL, and so is one that is too large.
    """
    if not bare.startswith(b"\xff\xd8"):
        return None
    most = min(max_pixels or _MOST_PIXELS, _MOST_PIXELS)
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(bare)
        if colours not in ("YCbCr", "Gray") or height * width > most:
            return None
        small = least(height, width) if least else (height, width)
        if least and min(height / small[0], width / small[1]) >= 2:
            return simplejpeg.decode_jpeg(bare, "RGB", min_height=small[0], min_width=small[1]), (height, width)
        return simplejpeg.decode_jpeg(bare, "RGB"), (height, width)
    except ValueError:
        return None


def decode_image(encoded: bytes, where: str, advice: str = "delete the file and make it anew") -> Image.Image:
    """Decode a stored picture to RGB. Broken bytes raise an InputError that names `where` (file, key) and `advice`."""
    try:
        return open_picture(encoded).image
    except PictureError as error:
        raise broken(where, error, advice) from error


def broken(where: str, error: PictureError, advice: str) -> InputError:
    """The InputError that the picture at `where` cannot be decoded."""
    return InputError(f"{where}: the picture cannot be decoded ({error.error_class}: {error.message}); {advice}")


def squash(image: Image.Image, image_size: int) -> NDArray[np.uint8]:
    """Resize to a square without keeping the aspect ratio, bicubic, as BLIP does: uint8 [3, image_size, image_size]."""
    if image.size != (image_size, image_size):
        image = image.resize((image_size, image_size), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _open(bare: bytes, max_pixels: int | None) -> Image.Image | None:
    """Open a picture by its header; None for a TIFF whose samples PIL does not know, but OpenCV may."""
    try:
        image = _identify(bare)
    except Image.DecompressionBombError as error:
        found = re.search(r"\d+", str(error))
        pixels = f"{int(found[0]):,} pixels by its header" if found else str(error)
        limit = f"; at most {max_pixels:,} (max_pixels)" if max_pixels else ""
        raise PictureError("too_many_pixels", f"{pixels}{limit}") from error
    except MemoryError:
        raise
    except Exception as error:  # decoders raise nearly anything on damaged data, which is a row
        tags = read_tags(bare)
        if WIDTH not in tags or HEIGHT not in tags:
            raise _unknown(bare) from error
        _check_size(tags[WIDTH], tags[HEIGHT], max_pixels)
        return None
    _check_size(image.width, image.height, max_pixels)
    if image.format == "TIFF" and _has_deep_planes(image.tag_v2):  # type: ignore[attr-defined]
        raise _unknown_samples()
    return image


def _has_deep_planes(tags: Any) -> bool:
    """Whether colours lie in planes of more than eight bits, of which PIL and OpenCV make another picture, unsaid."""
    bits = tags.get(_TIFF_BITS, ())
    return tags.get(_TIFF_PLANES) == 2 and len(bits) > 1 and max(bits) > 8


def _identify(bare: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(bare), formats=FORMATS)
    except (SyntaxError, ValueError, OSError):
        if bare[4:8] != b"ftyp" or b"Exif" not in bare[:4096]:
            raise
        # PIL reads an AVIF's EXIF first and raises if it is damaged: under another name it is passed over.
        return Image.open(io.BytesIO(bare.replace(b"Exif", b"free", 1)), formats=FORMATS)


def _unknown(bare: bytes) -> PictureError:
    start = bare[:16].decode("latin-1")
    if bare.startswith(MAGIC):
        return PictureError("truncated_image", f"cut in the header ({start!r})")
    return PictureError("not_an_image", f"no picture format begins with {start!r}")


def _check_size(width: int, height: int, max_pixels: int | None) -> None:
    if max_pixels is not None and width * height > max_pixels:
        raise PictureError(
            "too_many_pixels", f"{width} x {height} pixels by its header; at most {max_pixels:,} (max_pixels)"
        )


def _decode(image: Image.Image, bare: bytes) -> Image.Image:
    try:
        if _deep(image) and (deep := _opencv(bare)) is not None:
            # The fourth channel of a TIFF is only transparency where the file says so.
            return array_to_rgb(deep[..., :3] if image.mode == "RGB" and deep.ndim == 3 else deep)
        _scale_clear_grey(image)
        image.load()
        return _rgb(image)
    except MemoryError:
        raise
    except Exception as error:  # as in _open
        kind = "truncated_image" if _is_cut(error) else "not_an_image"
        raise PictureError(kind, f"{image.format}: {str(error) or type(error).__name__}") from error


def _is_cut(error: Exception) -> bool:
    """Whether PIL's error is about data that ended early."""
    words = str(error).lower()
    cut = ("truncated", "unrecognized data stream", "broken", "decoder error -2")
    return isinstance(error, EOFError) or any(w in words for w in cut)


def _is_plain(image: Image.Image) -> bool:
    kept = image.format in ("JPEG", "PNG") and image.mode in ("RGB", "L")
    return kept and not image.has_transparency_data and not _deep(image)


def _deep(image: Image.Image) -> bool:
    """Whether colours have 16 bits: PIL would drop the lower eight, and with them nearly all of a 12-bit picture."""
    return image.mode in ("RGB", "RGBA", "LA") and any(
        ";16" in str(tile.args) and "RGBa" not in str(tile.args) for tile in getattr(image, "tile", [])
    )


def rgb_of(image: Image.Image) -> Image.Image:
    """RGB, upright and on white, of a picture that PIL has opened: as `open_picture` decodes its file."""
    return _rgb(ImageOps.exif_transpose(image))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return _grey(image)
    if image.mode == "LAB":
        lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, rgb, outputMode="RGB")
        assert converted is not None
        return converted
    return on_white(image) if image.has_transparency_data else image.convert("RGB")


def _scale_clear_grey(image: Image.Image) -> None:
    """PIL brings greys of 2 and 4 bits to 0..255, and leaves the one that is transparent as the file has it."""
    clear, tile = image.info.get("transparency"), getattr(image, "tile", [])
    scale = next((factor for bits, factor in (("L;2", 85), ("L;4", 17)) if tile and tile[0].args == bits), 1)
    if isinstance(clear, int):
        image.info["transparency"] = clear * scale


def _grey(image: Image.Image) -> Image.Image:
    """RGB from one channel of 16 bits, 32 bits or floating point."""
    values = np.asarray(image)
    if image.format == "TIFF" and values.dtype == np.int32:
        kind = image.tag_v2.get(_TIFF_SAMPLE_KIND, 1)  # type: ignore[attr-defined]
        values = values if kind in (2, (2,)) else values.view(np.uint32)  # PIL has no whole numbers without a sign
    shades = to_8_bits(values)
    if image.format == "TIFF" and image.tag_v2.get(262) == 0 and values.dtype.kind == "u":  # type: ignore[attr-defined]
        shades = 255 - shades  # the least value is white
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        shades = np.where(values == clear, np.uint8(255), shades)
    return Image.fromarray(shades).convert("RGB")


def _decode_by_opencv(bare: bytes) -> Image.Image:
    tags = read_tags(bare)
    known = tags.get(_TIFF_COMPRESSION, 1) in _OPENCV_UNPACKS and tags.get(_TIFF_PLANES, 1) == 1
    samples = _opencv(bare) if known else None
    if samples is None:
        raise _unknown_samples()
    return array_to_rgb(samples)


def _unknown_samples() -> PictureError:
    return PictureError("not_an_image", "TIFF: damaged, or its samples are of a kind that is not known")


def _opencv(bare: bytes) -> NDArray[Any] | None:
    """The samples [H, W] or [H, W, C] as the file has them; None if OpenCV cannot read them as grey or colours."""
    import cv2  # 0.1 s and 40 MB, which a process that decodes stored pictures has no use for

    try:
        samples = cv2.imdecode(np.frombuffer(bare, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        if "nsufficient memory" in str(error):
            raise MemoryError(str(error)) from error
        return None
    if samples is None or (samples.ndim == 3 and samples.shape[2] not in (1, 3, 4)):
        return None
    return samples


def decode_to_rgb(body: bytes, max_pixels: int) -> tuple[dict[str, int], bytes]:
    """A picture's width and height, px, and the bytes of its pixels [height, width, 3]; a task for PictureProcesses.

    Raises PictureError as open_picture does.
    """
    image = open_picture(body, max_pixels).image
    return {"width": image.width, "height": image.height}, image.tobytes()
