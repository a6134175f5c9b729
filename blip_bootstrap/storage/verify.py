"""Whether the bytes of an artifact are those that its step wrote: by the digests in its MANIFEST."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from blip_bootstrap.errors import InputError
from blip_bootstrap.machine import num_cores
from blip_bootstrap.storage.manifest import digest_of_path, stamp_of
from blip_bootstrap.storage.parquet import open_parquet, reading
from blip_bootstrap.storage.parts import home_of_part
from blip_bootstrap.storage.run_folder import TRAIN_ANEW, TRAINED, TRAINING_LOG, place_of
from blip_bootstrap.stores.store import digest_there, store_of

PICTURES = ("jpg", "exif")
"""Columns that make up nearly all of a table with pictures; steps compare their pages when they read them."""


AT_A_TIME = 64
"""Files that are handed to threads together."""

_compared: dict[Path, tuple[int, ...]] = {}
"""Files that this process has compared and found whole, as they were by then: no file is compared twice in a run."""


def check_input(folder: Path, manifest: Mapping[str, Any], reads: Callable[[str], bool] = lambda name: True) -> None:
    """Raise InputError where a file that a step is to read (`reads`, by its name) has not the bytes it was made with.

    Weights and texts are hashed (1 GB: about a second). Of tables with pictures all other columns are compared with the
    checksums of their pages, which DuckDB does not do; pictures are, where they are decoded. As many files at a time as
    there are cores. The log of a training is not looked at: no step reads it.
    """
    files = ((place_of(folder, one["name"], one.get("at")), str(one["sha256"])) for one in manifest["files"]
             if reads(str(one["name"])) and not is_log(str(one["name"])))  # fmt: skip
    is_trained = manifest.get("recipe", {}).get("step") in TRAINED
    with ThreadPoolExecutor(num_cores(), thread_name_prefix="compare") as pool:
        while some := [pool.submit(_compare, folder, *one, is_trained) for one in islice(files, AT_A_TIME)]:
            for one in some:
                one.result()


def is_log(name: str) -> bool:
    """Whether a file of an artifact is the log of a training."""
    return name.rpartition("/")[2] == TRAINING_LOG


def _compare(folder: Path, file: Path, sha256: str, is_trained: bool) -> None:
    if not file.is_file() and store_of(folder):
        return  # read where it lies; a store compares bytes with checksums of its own
    stamp = stamp_of(file) if file.is_file() else ()
    if stamp and _compared.get(file) == stamp:
        return
    if not (file.suffix == ".parquet" and _other_columns_fit(file)) and digest_of_path(file) != sha256:
        raise told_damaged(file, TRAIN_ANEW if is_trained else "delete it and run again")
    _compared[file] = stamp


def told_damaged(file: Path, advice: str = "delete it and run again") -> InputError:
    """The error that names a damaged file; of a borrowed part its home, since a link that is deleted is made again."""
    return InputError(f"{home_of_part(file)}: damaged, its bytes are not those that were made; {advice}")


def _other_columns_fit(file: Path) -> bool:
    """Whether a table has pictures; its other columns are read for that. Raises InputError where one is damaged."""
    with reading(file), open_parquet(file) as parquet:
        names = parquet.schema_arrow.names
        if PICTURES[0] not in names:
            return False
        for group in range(parquet.num_row_groups):
            parquet.read_row_group(group, [name for name in names if name not in PICTURES])
    return True


def damaged_bytes(folder: Path, manifest: Mapping[str, Any]) -> Iterator[str]:
    """The names of an artifact's files that are missing or have other bytes than its MANIFEST says; all are read."""
    for entry in manifest["files"]:
        file = place_of(folder, entry["name"], entry.get("at"))
        found = digest_there(file)  # of a run on a store the bytes there count
        if found is None:
            found = digest_of_path(file) if file.is_file() else ""
        if found != entry["sha256"]:
            yield entry["name"]
