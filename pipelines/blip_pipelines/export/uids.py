"""DataComp's list of uids: a sorted .npy file of pairs of 64-bit numbers, by which its resharder takes pictures."""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from blip_pipelines.export.joined import Batch
from blip_pipelines.export.lists import Written
from blip_pipelines.export.note import PARTS
from blip_pipelines.export.place import Hashed, Place

UIDS = "uids.npy"

UID = np.dtype("u8,u8")

HEX_DIGITS = 32

BUCKET_BYTES = 1 << 28
"""About so many bytes are sorted at a time."""

Uids = npt.NDArray[np.void]


def parse_uids(texts: Iterable[str]) -> Uids:
    """Uids of 32 hex digits as numbers, the first 16 digits and the last; any other text is left out."""
    good = [one for one in texts if len(one) == HEX_DIGITS and _is_hex(one)]
    halves = np.frombuffer(bytes.fromhex("".join(good)), ">u8").reshape(-1, 2)
    found = np.empty(len(good), UID)
    found["f0"], found["f1"] = halves[:, 0], halves[:, 1]
    return found


def _is_hex(text: str) -> bool:
    return not set(text) - set("0123456789abcdefABCDEF")


def write_uids_part(place: Place, name: str, batches: Iterator[Batch]) -> Written:
    """Write the uids of one shard, sorted."""
    texts = [uid or "" for batch in batches for uid in batch.images["uid"].to_pylist()]
    data = np.unique(parse_uids(texts)).tobytes()
    place.write(_piece(name), data)
    return [(_piece(name), len(data), hashlib.sha256(data).hexdigest())]


def join_uids(place: Place, names: Sequence[str], num_uids: int) -> tuple[Written, int]:
    """Join the uids of all shards, each once and in order; the file, and how many there are.

    They go through files of some 256 MB, by their first bits, each of which is sorted in memory.
    """
    num_buckets = 1 << max(0, (num_uids * UID.itemsize // BUCKET_BYTES).bit_length())
    with tempfile.TemporaryDirectory(prefix="blip-bootstrap-uids-") as folder:
        buckets = _spread(place, names, Path(folder), num_buckets)
        num = sum(_sort(bucket) for bucket in buckets)
        with place.staged(UIDS) as staged, Hashed(staged) as out:
            out.write(_header(num))
            for bucket in buckets:
                out.write(bucket.read_bytes())
    return [(UIDS, out.size_bytes, out.sha256)], num


def _spread(place: Place, names: Sequence[str], folder: Path, num_buckets: int) -> list[Path]:
    """The uids of all shards in files by their first bits, in the order of these."""
    paths = [folder / f"{number}.bin" for number in range(num_buckets)]
    for path in paths:
        path.touch()
    ends = [(number << 64) // num_buckets for number in range(1, num_buckets)]
    for name in names:
        uids = np.frombuffer(place.read(_piece(name)) or b"", UID)
        cuts = np.searchsorted(uids["f0"], np.array(ends, np.uint64))
        for path, some in zip(paths, np.split(uids, cuts), strict=True):
            if len(some):
                with path.open("ab") as file:
                    file.write(some.tobytes())
    return paths


def _sort(path: Path) -> int:
    """Sort a file of uids, and leave each once; how many they are."""
    uids = np.unique(np.frombuffer(path.read_bytes(), UID))
    path.write_bytes(uids.tobytes())
    return len(uids)


def _header(num: int) -> bytes:
    header = io.BytesIO()
    told = {"descr": np.lib.format.dtype_to_descr(UID), "fortran_order": False, "shape": (num,)}
    np.lib.format.write_array_header_1_0(header, told)
    return header.getvalue()


def drop_uids(place: Place, names: Sequence[str]) -> None:
    """Delete the uids of the shards, once they are joined."""
    place.delete([_piece(name) for name in names])


def _piece(name: str) -> str:
    return f"{PARTS}/{name}.uids.bin"
