"""Separates a picture file's metadata from what makes pixels, and reads orientation and EXIF tags.

The decoder is given only the parts that make pixels, so that no damaged text, colour profile or EXIF tag costs a
picture.
"""

from __future__ import annotations

import json
import re
import warnings
import zlib
from typing import Literal

from PIL import ExifTags, Image

MAX_EXIF_CHARS = 10_000

ORIENTATION, WIDTH, HEIGHT = 0x0112, 256, 257

Order = Literal["little", "big"]

_PNG = b"\x89PNG\r\n\x1a\n"

_TIFF: dict[bytes, Order] = {b"II*\0": "little", b"MM\0*": "big"}

_EXIF = b"Exif\0\0"

# JPEG: comments, and all APPn but APP0 (JFIF) and APP14 (Adobe), which say what the colours are.
_JPEG_METADATA = frozenset({*range(0xE1, 0xF0), 0xFE} - {0xEE})

_JPEG_SCAN, _JPEG_END, _JPEG_ALONE = 0xDA, 0xD9, frozenset({0x01, *range(0xD0, 0xD9)})

_JPEG_FILLING = re.compile(rb"\xff+")

_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")  # within a scan's data a byte of ff is followed by 00

# TIFF: the tags that tell where and how the samples lie.
_TIFF_STRUCTURE = frozenset(
    {254, 256, 257, 258, 259, 262, 263, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325, 332, 334,
     338, 339, 340, 341, 347, *range(512, 522), 529, 530, 531, 532}
)  # fmt: skip

_TIFF_ENTRY_BYTES, _TIFF_SIZES = 12, {1: 1, 3: 2, 4: 4}

_TRANSPARENCY_BYTES = {0: (2, 2), 2: (6, 6), 3: (1, 256)}


def split_metadata(body: bytes) -> tuple[bytes, bytes | None]:
    """Split a JPEG, PNG or TIFF into a file without metadata and its EXIF block, or None; other formats stay whole.

    A file that breaks the rules of its format is kept as it is from there on, for the decoder to judge.
    """
    if body.startswith(b"\xff\xd8"):
        return _split_jpeg(body)
    if body.startswith(_PNG):
        return _split_png(body)
    if body[:4] in _TIFF:
        return _split_tiff(body), body
    return body, None


def num_scans(bare: bytes) -> int:
    """The number of scans of a JPEG without metadata; 0 for other formats.

    Each scan makes a decoder pass over the whole picture. What follows the picture (a second one, a film) does not
    count.
    """
    if not bare.startswith(b"\xff\xd8"):
        return 0
    count = 0
    marker = _JPEG_MARKER.search(bare, 2)
    while marker and marker[0][1] != _JPEG_END:
        count += marker[0][1] == _JPEG_SCAN
        at = marker.end()
        marker = _JPEG_MARKER.search(bare, at + int.from_bytes(bare[at : at + 2], "big"))
    return count


def orientation(exif: bytes | None) -> int:
    """The EXIF orientation, 1 (upright) to 8; 1 if there is none."""
    value = read_tags(exif or b"").get(ORIENTATION, 1)
    return value if 1 <= value <= 8 else 1


def read_tags(block: bytes) -> dict[int, int]:
    """The tags of an EXIF block's or TIFF file's first directory whose value is one whole number."""
    found: dict[int, int] = {}
    block = block.removeprefix(_EXIF)
    if order := _order(block):
        for entry in _entries(block, order):
            tag, kind = _number(entry[:2], order), _number(entry[2:4], order)
            size = _TIFF_SIZES.get(kind)
            if size and _number(entry[4:8], order) == 1:
                found.setdefault(tag, _number(entry[8 : 8 + size], order))
    return found


def exif_json(block: bytes | None) -> str | None:
    """The readable EXIF tags by name, as JSON; None if there are none or the JSON exceeds MAX_EXIF_CHARS."""
    tags = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exif = _load_exif(block)
        for tag in exif:
            try:
                tags[ExifTags.TAGS.get(tag, str(tag))] = str(exif[tag])
            except MemoryError:
                raise
            except Exception:  # noqa: BLE001  # a damaged tag must not cost the picture
                continue
    text = json.dumps(tags).replace("\\u0000", "") if tags else None
    return text if text and len(text) <= MAX_EXIF_CHARS else None


def _load_exif(block: bytes | None) -> Image.Exif:
    exif = Image.Exif()
    try:
        exif.load(block or b"")
        list(exif)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  # as above
        return Image.Exif()
    return exif


def _split_jpeg(body: bytes) -> tuple[bytes, bytes | None]:
    kept, exif, at = [body[:2]], None, 2
    while at + 4 <= len(body) and body[at] == 0xFF:
        marker = body[at + 1]
        if marker == 0xFF and (filling := _JPEG_FILLING.match(body, at)):
            at = filling.end() - 1
            continue
        end = at + 2 if marker in _JPEG_ALONE else at + 2 + int.from_bytes(body[at + 2 : at + 4], "big")
        if marker == _JPEG_SCAN or end > len(body) or (end < at + 4 and marker not in _JPEG_ALONE):
            break
        if marker not in _JPEG_METADATA:
            kept.append(body[at:end])
        elif marker == 0xE1 and exif is None and body[at + 4 : at + 10] == _EXIF:
            exif = body[at + 4 : end]
        at = end
    return b"".join([*kept, body[at:]]), exif


def _split_png(body: bytes) -> tuple[bytes, bytes | None]:
    kept, exif, at, colour = [body[:8]], None, 8, 0
    while at + 12 <= len(body):
        name, end = body[at + 4 : at + 8], at + 12 + int.from_bytes(body[at : at + 4], "big")
        content = body[at + 8 : end - 4]
        if not name[0] & 0x20:  # a capital letter: decoders must know this chunk
            if end > len(body):
                break
            kept.append(body[at:end])
            colour = content[9] if name == b"IHDR" and len(content) > 9 else colour
        elif name in (b"eXIf", b"tRNS") and zlib.crc32(name + content) == int.from_bytes(body[end - 4 : end], "big"):
            exif = content if name == b"eXIf" else exif
            if name == b"tRNS" and _is_transparency(content, colour):
                kept.append(body[at:end])
        at = len(body) if name == b"IEND" else end
    return b"".join([*kept, body[at:]]), exif


def _is_transparency(content: bytes, colour: int) -> bool:
    least, most = _TRANSPARENCY_BYTES.get(colour, (1, 0))
    return least <= len(content) <= most


def _split_tiff(body: bytes) -> bytes:
    """The TIFF with only the structural tags in its first directory, and no further directory."""
    order = _order(body)
    assert order
    first = _number(body[4:8], order)
    entries = _entries(body, order)
    kept = [entry for entry in entries if _number(entry[:2], order) in _TIFF_STRUCTURE]
    directory = len(kept).to_bytes(2, order) + b"".join(kept) + bytes(4)
    if not entries or first + len(directory) > len(body):
        return body
    return body[:first] + directory + body[first + len(directory) :]


def _order(block: bytes) -> Order | None:
    return _TIFF.get(block[:4])


def _entries(block: bytes, order: Order) -> list[bytes]:
    start = _number(block[4:8], order) + 2
    stop = start + _TIFF_ENTRY_BYTES * _number(block[start - 2 : start], order)
    stop = min(stop, len(block) - _TIFF_ENTRY_BYTES + 1)
    return [block[at : at + _TIFF_ENTRY_BYTES] for at in range(start, stop, _TIFF_ENTRY_BYTES)]


def _number(field: bytes, order: Order) -> int:
    return int.from_bytes(field, order)
