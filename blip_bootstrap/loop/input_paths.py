"""Whether the files and folders that a configuration names are there and can be read."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from blip_bootstrap.config import Config, UrlList
from blip_bootstrap.errors import InputError
from blip_bootstrap.reading.places import files_of, is_pattern, is_remote
from blip_bootstrap.reading.records import is_list_file
from blip_bootstrap.settings.mistakes import not_a_list


def missing_paths(config: Config, number: int) -> list[str]:
    """One line for each file or folder that round `number` needs and that is missing or cannot be read."""
    lists = [f"download.urls.{at}.path: {why}" for at, one in enumerate(config.download.urls) if (why := _many(one))]
    return lists + [
        f"{name}: {_told(why, name, path)}" for name, path, kind in _read(config, number) if (why := _lack(path, kind))
    ]


def _many(urls: UrlList) -> str | None:
    """What is wrong with the path of a URL list; a store is asked when it is read."""
    if is_remote(urls.path):
        return None
    try:
        files = files_of(urls.path, is_list_file)
    except InputError as error:
        return str(error)
    return next((f"{why}: {one}" for one in files if (why := _lack(one, "file"))), None)


def _told(why: str, name: str, path: Path) -> str:
    """The mistake with its path; for a list that is a folder or a pattern, what to write instead."""
    is_list = name.endswith(".path") and (_lack(path, "folder") is None or any(sign in path.name for sign in "*?["))
    return not_a_list(path) if is_list else f"{why}: {path}"


def _read(config: Config, number: int) -> Iterator[tuple[str, Path, str]]:
    """The settings that name a path, the path, and whether a file or a folder is needed there."""
    for at, one in enumerate(config.download.urls):
        if one.serve:
            yield f"download.urls.{at}.serve", one.serve, "folder"
    for at, pictures in enumerate(config.download.pictures):
        if not is_remote(pictures.path) and not is_pattern(pictures.path):
            yield f"download.pictures.{at}.path", pictures.path, "folder" if pictures.path.is_dir() else "file"
        if pictures.image_root and not is_remote(pictures.image_root):
            yield f"download.pictures.{at}.image_root", pictures.image_root, "folder"
    for name, annotated in (("human", config.human), ("held_out", config.held_out)):
        if annotated:
            yield f"{name}.path", annotated.path, "file"
            if annotated.image_root:
                yield f"{name}.image_root", annotated.image_root, "folder"
    if config.truth:
        yield "truth", config.truth, "file"
    if number > 0 and config.select.strategy in ("target_noise", "learned"):
        yield from (("select.labels", path, "file") for path in config.select.label_files)


def _lack(path: Path, kind: str) -> str | None:
    """What is wrong with a path that should be a readable file or folder; None where nothing is."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return f"no such {kind}"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if stat.S_ISDIR(mode) != (kind == "folder"):
        return f"a {kind} is needed, and this is {'a folder' if stat.S_ISDIR(mode) else 'a file'}"
    return None if os.access(path, os.R_OK) else "cannot be read (Permission denied)"
