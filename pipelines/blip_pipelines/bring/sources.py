"""Which files of an entry of download.pictures hold pictures, and of which format they are, told by their content."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import pyarrow as pa

from blip_bootstrap.config import PictureSource
from blip_bootstrap.errors import InputError
from blip_bootstrap.paths import root_text
from blip_bootstrap.reading.places import (
    files_of,
    fixed_folder,
    in_order,
    is_pattern,
    is_remote,
    remote_files,
    stamp_of,
    store_and_name,
)
from blip_bootstrap.reading.records import is_list_file, read_records
from blip_pipelines.bring.files import here, image_name, is_picture, read_coco, read_mapping
from blip_pipelines.bring.opened import first_bytes, is_tar
from blip_pipelines.bring.origin import Source
from blip_pipelines.bring.parquet import open_pictures, picture_column

KINDS = ("webdataset", "parquet", "list", "files")
"""Where a folder has files of several formats, those of the first of these alone are read: img2dataset leaves Parquet
without pictures beside its tar files, and people leave a list beside a folder of pictures."""


@dataclass(frozen=True)
class Files:
    """The files of an entry, by their names from `folder` on; `is_one`: the entry names a single file."""

    folder: Path
    names: Sequence[str]
    is_one: bool = False

    def path(self, name: str) -> Path:
        """Where a file lies."""
        return join(self.folder, name)

    @cached_property
    def there(self) -> frozenset[str]:
        """The names, to look one up."""
        return frozenset(self.names)

    @cached_property
    def by_folder(self) -> Mapping[str, Sequence[str]]:
        """The names of the files of each folder, from it on."""
        found = defaultdict[str, list[str]](list)
        for name in self.names:
            folder, _, own = name.rpartition("/")
            found[folder or "."].append(own)
        return found


def join(folder: Path, name: str) -> Path:
    """A file in a folder of this machine or of a store, whose URI may end in settings."""
    if not is_remote(folder) or "?" not in str(folder):
        return folder / name if name not in ("", ".") else folder
    place, _, settings = str(folder).partition("?")
    return Path(f"{place.rstrip('/')}/{name}?{settings}")


def entry_folder(entry: PictureSource) -> Path:
    """The folder from which the files of an entry are named: its own, or that before its pattern or file."""
    path = entry.path
    if is_remote(path):
        place, question, settings = str(path).partition("?")
        parts = place.split("/")
        fixed = next((at for at, part in enumerate(parts) if any(sign in part for sign in "*[{")), None)
        is_file = fixed is None and "." in parts[-1]
        return Path("/".join(parts[: fixed if fixed is not None else len(parts) - is_file]) + question + settings)
    if path.is_dir():
        return path
    if path.is_file():
        return path.parent
    return fixed_folder(path)


def list_files(entry: PictureSource) -> Files:
    """All files of an entry in order. Raises InputError where there is none."""
    folder, path = entry_folder(entry), entry.path
    if is_remote(path):
        return _remote(path, folder)
    if path.is_dir():
        names = sorted(_walk(path), key=in_order)
        if not names:
            raise InputError(f"{path}: the folder is empty")
        return Files(folder, names)
    if not path.exists() and not is_pattern(path):
        raise InputError(f"{path}: no such file or folder")
    found = files_of(path, lambda name: True)
    return Files(folder, [one.relative_to(folder).as_posix() for one in found], is_one=len(found) == 1)


def _walk(folder: Path) -> Iterator[str]:
    seen = set[str]()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()  # a link to a folder that holds it
            continue
        seen.add(real)
        folders[:] = sorted(one for one in folders if not one.startswith("."))
        inside = Path(place).relative_to(folder)
        yield from ((inside / name).as_posix() for name in names if not name.startswith("."))


def _remote(path: Path, folder: Path) -> Files:
    if folder != path:
        found = remote_files(path, lambda name: True)
        start = len(str(folder).partition("?")[0]) + 1
        names = [str(one).partition("?")[0][start:] for one in found]
        return Files(folder, names, is_one=len(names) == 1)
    store, _ = store_and_name(join(folder, "x"))
    with store.asking("read"):
        names = sorted((one for one in store.listing() if not PurePosixPath(one).name.startswith(".")), key=in_order)
    if not names:
        raise InputError(f"{root_text(path).partition('?')[0]}: there is no such folder, or it is empty")
    return Files(folder, names)


def find_sources(entry: PictureSource) -> tuple[Files, list[Source]]:
    """The files of an entry, and what of them is to be read, in order. Raises InputError where nothing has pictures."""
    files = list_files(entry)
    for kind in KINDS if entry.format == "auto" else (entry.format,):
        if found := _of_kind(kind, entry, files):
            return files, [Source(entry.name, kind, str(files.path(name)), name) for name in found]
    told = "" if entry.format == "auto" else f" of the format {entry.format}"
    raise InputError(
        f"{root_text(entry.path).partition('?')[0]}: no pictures{told} were found here{_hint(entry, files)}"
    )


def _hint(entry: PictureSource, files: Files) -> str:
    what = "tar files, Parquet with a column of pictures, a list with a column of file names, or files of pictures"
    lists = [name for name in files.names if is_list_file(name)]
    more = f"; of {lists[0]} say image_column" if len(lists) == 1 and not entry.image_column else ""
    return f" ({len(files.names)} files; {what} are read{more})"


def _of_kind(kind: str, entry: PictureSource, files: Files) -> list[str]:
    is_asked = entry.format == kind
    if kind == "webdataset":
        return [name for name in files.names if _may_be_tar(name, files, is_asked)]
    if kind == "parquet":
        return [name for name in files.names if name.lower().endswith(".parquet") and _has_pictures(files, name, entry)]
    if kind == "list":
        pictures = {name.rpartition(".")[0] for name in files.names if is_picture(name)}
        lists = [name for name in files.names if is_list_file(name) and name.rpartition(".")[0] not in pictures]
        return [name for name in lists if is_asked or _names_pictures(files, name, entry)]
    return sorted((one for one, names in files.by_folder.items() if any(map(is_picture, names))), key=in_order)


def _may_be_tar(name: str, files: Files, is_asked: bool) -> bool:
    """By its name; the content counts where an entry is one file, whose name may be any."""
    plain = name.lower()
    if plain.endswith((".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz")):
        return True
    return files.is_one and (is_asked or is_tar(first_bytes(files.path(name))))


def _has_pictures(files: Files, name: str, entry: PictureSource) -> bool:
    """Whether Parquet has a column of pictures; a damaged file is taken for one, so that it is told."""
    if PurePosixPath(name).name.startswith("metadata"):
        return False
    try:
        with open_pictures(files.path(name)) as file:
            return picture_column(file.schema_arrow, entry.image_column) is not None
    except (InputError, pa.ArrowException, OSError):
        return True


def _names_pictures(files: Files, name: str, entry: PictureSource) -> bool:
    """Whether a list has a column with file names of pictures, or is COCO's."""
    path, names = here(files.path(name)), list[str]()

    def check(header: object) -> list[str]:
        names.extend(getattr(header, "names", ()))
        raise InputError("the names are enough")

    try:
        if read_coco(path) is not None or read_mapping(path) is not None:
            return True
        next(read_records(path, check, "a list of pictures"), None)
    except InputError:
        pass
    return image_name(names, entry.image_column) is not None


def folder_of_list(entry: PictureSource, source: Source, files: Files, first: str) -> str:
    """The folder in which the names of a list begin, from the entry's on: `image_root`, the list's own, or one in it.

    `first` is the first name of the list, which is looked for.
    """
    own = PurePosixPath(source.name).parent.as_posix()
    own = "" if own == "." else own
    if entry.image_root is not None:
        return ""
    if files.is_one or f"{own}/{first}".lstrip("/") in files.there or not first:
        return _beside(entry, source, first) if files.is_one else own
    found = [name for name in files.names if name.endswith(f"/{first}")]
    return found[0][: -len(first) - 1] if found else own


def check_names(entry: PictureSource, source: Source, folder: str, names: Sequence[str]) -> None:
    """Raise InputError where a list of this machine names pictures of which none of the first is there."""
    root = entry.image_root or join(entry_folder(entry), folder)
    if names and not is_remote(root) and not any((root / name).exists() for name in names):
        raise InputError(
            f"{source.path}: none of its first {len(names)} pictures is there: {root / names[0]}; set image_root to "
            "the folder in which its file names begin"
        )


def _beside(entry: PictureSource, source: Source, first: str) -> str:
    """The folder beside a list, or in its folder, that has the first picture of the list."""
    folder = Path(source.path).parent
    if is_remote(folder) or not first or (folder / first).is_file():
        return ""
    found = (one.name for one in sorted(folder.iterdir()) if one.is_dir() and (one / first).is_file())
    return next(found, "")


def stamps_of(files: Files, source: Source) -> list[Mapping[str, object]]:
    """What tells whether a source is another one now: names, sizes and times of its files."""
    names = files.by_folder[source.name] if source.kind == "files" else [source.name]
    folder = source.name if source.kind == "files" else ""
    return [
        {"name": name, "stamp": stamp_of(files.path(f"{folder}/{name}" if folder not in ("", ".") else name))}
        for name in names
    ]
