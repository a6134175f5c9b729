"""What a seed draws of a world that lies in files: some lines of the human set, and of the web's lists."""

from __future__ import annotations

import csv
import itertools
import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from blip_bootstrap.config import Config
from blip_bootstrap.errors import InputError
from blip_bootstrap.experiment.file import Draw
from blip_bootstrap.storage.files import write_whole

WITH_HEAD = (".tsv", ".csv")

LINES = (".jsonl", ".ndjson", *WITH_HEAD)
"""Endings of files in which a line is a row."""


def drawn_settings(config: Config, draw: Draw, root: Path, seed: int) -> list[str]:
    """Write what `seed` draws under `root`/drawn, unless it is there; the settings by which the loop reads it.

    Raises InputError where a file has fewer lines than are to be drawn, or is no file of lines.
    """
    settings, out, names = [], root / "drawn", set[str]()
    if draw.human and config.human:
        path, folder = config.human.path, config.human.image_root or config.human.path.parent
        drawn = draw_lines(path, out, draw.human, f"{seed} human", names)
        settings += [f"human.path={json.dumps(str(drawn))}", f"human.image_root={json.dumps(str(folder))}"]
    for at, one in enumerate(config.download.urls if draw.web else ()):
        drawn = draw_lines(Path(one.path), out, draw.web or 0, f"{seed} web {at}", names)
        settings.append(f"download.urls.{at}.path={json.dumps(str(drawn))}")
    return settings


def check_draw(config: Config, draw: Draw, with_rest: bool = False) -> Iterator[str]:
    """A line for each file of which the seeds cannot draw, and for one that there is not.

    `with_rest`: of the human set some lines have to be left, which are the validation set.
    """
    if draw.human and not config.human:
        yield "draw.human: the world has no human set (human.path)"
    if draw.web and not config.download.urls:
        yield "draw.web: the world has no URL list (download.urls)"
    asked = [("draw.human", config.human.path, draw.human)] if draw.human and config.human else []
    asked += [("draw.web", Path(one.path), draw.web) for one in config.download.urls if draw.web]
    for name, path, number in asked:
        try:
            _, lines = read_lines(path, number)
        except InputError as error:
            yield f"{name}: {error}"
            continue
        if with_rest and name == "draw.human" and len(lines) == number:
            why = "all of which are to be drawn, so that the split validation has none"
            yield f"{name}: {path}: has {number} rows, {why}; draw fewer, or give validation: PATH"


def rest_path(drawn: Path) -> Path:
    """Where the lines lie that were not drawn."""
    return drawn.with_name(f"{drawn.stem}-rest{drawn.suffix}")


def draw_lines(path: Path, out: Path, number: int, seed: str, names: set[str] | None = None) -> Path:
    """A file in `out` with so many lines of `path`, drawn by `seed` and in their order, a heading kept.

    The other lines lie beside it (`rest_path`). `names` has those of the files that this seed has drawn already, of
    which none is used again, and gets this one's. Raises InputError where there are not so many lines.
    """
    head, lines = read_lines(path, number)
    drawn = out / _free(f"{path.stem}-{number}", path.suffix, set() if names is None else names)
    taken = {*random.Random(seed).sample(range(len(lines)), number)}
    out.mkdir(parents=True, exist_ok=True)
    for place, is_taken in ((rest_path(drawn), False), (drawn, True)):
        text = head + "".join(line for at, line in enumerate(lines) if (at in taken) == is_taken)
        if not place.is_file() or place.read_text(encoding="utf-8") != text:
            write_whole(place, text)
    return drawn


def read_lines(path: Path, number: int) -> tuple[str, list[str]]:
    """The heading of a file, if it has one, and its other lines; blank lines are none.

    Raises InputError where there are not so many as `number`, or a row has several lines.
    """
    if path.suffix not in LINES:
        raise InputError(f"{path}: draw takes lines of {', '.join(LINES)}, and this may have rows of several lines")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    # Not splitlines(), which cuts a JSON string at the line separators that Unicode has beside the line feed.
    lines: list[str] = re.findall(r"[^\n]+\n?", text)
    if path.suffix == ".csv" and not _is_a_line_a_row(lines):
        raise InputError(f"{path}: draw takes lines, and this has a quoted value of several lines; write it as .jsonl")
    head = lines.pop(0) if path.suffix in WITH_HEAD and lines else ""
    if number > len(lines):
        raise InputError(f"{path}: has {len(lines)} rows, and {number} are to be drawn; draw fewer")
    return head, lines


def _is_a_line_a_row(lines: Sequence[str]) -> bool:
    try:
        return sum(1 for _ in csv.reader(lines)) == len(lines)
    except csv.Error:
        return False


def _free(stem: str, suffix: str, names: set[str]) -> str:
    """A name that is none of `names`, to which it is added: two lists of one name lie in other folders."""
    every = (f"{stem}{f'-{at}' if at else ''}{suffix}" for at in itertools.count())
    name = next(one for one in every if one not in names)
    names.add(name)
    return name
