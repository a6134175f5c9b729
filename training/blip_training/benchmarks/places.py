"""Finds the files of a benchmark: its list, and the pictures or videos that the list names."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from blip_bootstrap.errors import InputError
from blip_bootstrap.reading.json_files import parse_json
from blip_bootstrap.reading.text_files import lines_of, plain_suffix
from blip_bootstrap.schemas.cells import described, text_of
from blip_bootstrap.storage.manifest import digest_of_path
from blip_training.benchmarks.names import Benchmark

LIST_FOLDERS = ("", "annotations", "annotation", "data")

MEDIA_FOLDERS = (
    "", "images", "videos", "val2014", "train2014", "val", "dev", "test1", "flickr30k-images", "flickr30k_images",
    "YouTubeClips", "TestVideo", "TrainValVideo", "frames",
)  # fmt: skip
"""Folders below the data in which publishers' archives put pictures and videos."""

VIDEO_ENDINGS = ("", ".mp4", ".avi", ".webm", ".mkv", ".mov")
"""Endings of a video whose list has none; without an ending it is a folder of frames."""

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def find_list(benchmark: Benchmark, data: Path, split: str) -> Path:
    """The list of the benchmark: `data` itself, or below that folder. Raises InputError saying where to get it."""
    if data.is_file():
        return data
    if benchmark.is_own:
        raise InputError(f"{data}: no such file; --on {benchmark.name} reads {benchmark.publisher}")
    names = benchmark.files.get(split) or benchmark.files["test"]
    for name in names:
        for folder in LIST_FOLDERS:
            if (file := data / folder / name).is_file():
                return file
    raise InputError(f"{data}: there is no {' or '.join(names)}; get {benchmark.publisher}")


def find_beside(benchmark: Benchmark, file: Path, split: str) -> Path | None:
    """What the benchmark needs beside its list `file`. Raises InputError where it is missing; None: nothing."""
    name = benchmark.beside
    if is_vqav2(file):
        name = file.name.replace("OpenEnded_", "").replace("_questions", "_annotations")
    elif benchmark.name == "msvd" and plain_suffix(file) in (".txt", ".csv"):
        name = f"{split}_list.txt"  # the files have all 1,970 videos
    if name is None:
        return None
    if not file.with_name(name).is_file():
        raise InputError(f"{file.with_name(name)}: not there, beside {file.name}; get {benchmark.publisher}")
    return file.with_name(name)


def is_vqav2(file: Path) -> bool:
    """Whether a list has the form of VQAv2's own questions, of any split."""
    return "OpenEnded_" in file.name


class Media:
    """Finds pictures or videos by the names in a list, below `root`, the folder that was found last first."""

    def __init__(self, benchmark: Benchmark, root: Path) -> None:
        self.benchmark, self.root = benchmark, root
        self._folders = [""] if benchmark.is_own else list(MEDIA_FOLDERS)

    def find(self, name: str) -> Path:
        """Where the file is; `root / name` where it is nowhere.

        Publishers' names are looked for without their folders, too. Names in a list of one's own need not be different
        without them: another picture would stand in a missing one's place.
        """
        tries = [name, Path(name).name] if "/" in name and not self.benchmark.is_own else [name]
        endings = VIDEO_ENDINGS if self.benchmark.is_video else ("",)
        for folder in self._folders:
            for each in tries:
                for ending in endings:
                    found = self.root / folder / f"{each}{ending}"
                    if is_item(self.benchmark, found):
                        self._folders.remove(folder)
                        self._folders.insert(0, folder)
                        return found
        return self.root / name


def is_item(benchmark: Benchmark, path: Path) -> bool:
    """Whether there is such a picture, or such a video: a file, or a folder of its frames."""
    try:
        return path.is_file() or (benchmark.is_video and path.is_dir())
    except OSError:  # a name longer than any can be
        return False


def check_media(benchmark: Benchmark, files: Iterable[Path]) -> None:
    """Raise InputError where pictures or videos are missing: how many, the first, and where the publisher has them."""
    every = list(dict.fromkeys(files))
    missing = [file for file in every if not is_item(benchmark, file)]
    if missing:
        what = "videos" if benchmark.is_video else "pictures"
        of_all = f"{len(missing):,} of {len(every):,} {what} are missing"
        where = "" if benchmark.is_own else f"; get {benchmark.publisher}"
        raise InputError(f"{missing[0]}: not there; {of_all} (benchmark.image_root names another folder){where}")


def digest_of_data(lists: Sequence[Path], media: Iterable[Path]) -> str:
    """A sha256 of the lists' bytes, and of the names and sizes of the pictures or videos.

    Pictures themselves are not read for it: those of COCO would take a minute, videos longer than a small evaluation.
    """
    whole = hashlib.sha256()
    for file in lists:
        whole.update(f"{file.name} {digest_of_path(file)}\n".encode())
    for file in sorted(set(media)):
        inside = sorted(one for one in file.iterdir() if one.is_file()) if file.is_dir() else [file]
        whole.update("".join(f"{one.name} {one.stat().st_size}\n" for one in inside).encode())
    return whole.hexdigest()


def read_json(file: Path) -> Any:
    """The content of a JSON file, or the list of the objects of JSON lines. Raises InputError where it is neither.

    Halves of surrogate pairs, which JSON can hold and no file can, become question marks.
    """
    text = "\n".join(line for _, line in lines_of(file))
    try:
        content = parse_json(text)
    except ValueError as error:
        lines = [line for line in text.split("\n") if line.strip()]
        try:
            content = [parse_json(line) for line in lines]
        except ValueError:
            raise InputError(f"{file}: neither JSON nor JSON lines ({error})") from error
    return _in_unicode(content) if _SURROGATE.search(text) else content


def _in_unicode(content: Any) -> Any:
    if isinstance(content, dict):
        return {text_of(name): _in_unicode(value) for name, value in content.items()}
    if isinstance(content, list):
        return [_in_unicode(value) for value in content]
    return text_of(content) if isinstance(content, str) else content


def rows_of(file: Path) -> list[dict[str, Any]]:
    """The objects of a JSON list or of JSON lines. Raises InputError where it holds anything else, or nothing."""
    content = read_json(file)
    rows = [content] if isinstance(content, dict) else content
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{file}: a list of JSON objects was expected")
    return rows


def objects_in(content: Any, name: str, file: Path, whose: str) -> list[dict[str, Any]]:
    """The list of objects of that name in a file's content. Raises InputError where there is none."""
    rows = content.get(name) if isinstance(content, dict) else None
    if not isinstance(rows, list):
        raise InputError(f"{file}: has no list `{name}`; {whose} one")
    if (at := next((n for n, row in enumerate(rows) if not isinstance(row, dict)), None)) is not None:
        raise InputError(f"{file}: {name}: number {at} is {described(rows[at])}; an object was expected")
    return rows


def cell(row: Any, name: str, kind: type | tuple[type, ...], where: str, may_be_blank: bool = False) -> Any:
    """A row's value of that name. Raises InputError where it is missing, of another kind, or blank."""
    value = row.get(name) if isinstance(row, dict) else None
    is_blank = (isinstance(value, str) and not value.strip()) or value == []
    if not isinstance(value, kind) or (is_blank and not may_be_blank):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        wanted = " or ".join(one.__name__ for one in kinds)
        raise InputError(f"{where}: {name} is {str(value)[:60]!r}; {wanted} was expected")
    return value
