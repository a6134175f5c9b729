"""What a seed draws of a world that lies in files: some lines of the human set, and of the web's lists."""

from __future__ import annotations

import json
import random
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
    settings = []
    if draw.human and config.human:
        path, folder = config.human.path, config.human.image_root or config.human.path.parent
        drawn = draw_lines(path, root / "drawn", draw.human, f"{seed} human")
        settings += [f"human.path={json.dumps(str(drawn))}", f"human.image_root={json.dumps(str(folder))}"]
    for at, one in enumerate(config.download.urls if draw.web else ()):
        drawn = draw_lines(Path(one.path), root / "drawn", draw.web or 0, f"{seed} web {at}")
        settings.append(f"download.urls.{at}.path={json.dumps(str(drawn))}")
    return settings


def rest_path(drawn: Path) -> Path:
    """Where the lines lie that were not drawn."""
    return drawn.with_name(f"{drawn.stem}-rest{drawn.suffix}")


def draw_lines(path: Path, out: Path, number: int, seed: str) -> Path:
    """A file in `out` with so many lines of `path`, drawn by `seed` and in their order, a heading kept.

    The other lines lie beside it (`rest_path`). Raises InputError where there are not so many lines.
    """
    if path.suffix not in LINES:
        raise InputError(f"{path}: draw takes lines of {', '.join(LINES)}, and this may have rows of several lines")
    try:
        head, *lines = ["", *path.read_text(encoding="utf-8").splitlines(keepends=True)]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    if path.suffix in WITH_HEAD and lines:
        head, *lines = lines
    if number > len(lines):
        raise InputError(f"{path}: has {len(lines)} rows, and {number} are to be drawn; draw fewer")
    drawn = out / f"{path.stem}-{number}{path.suffix}"
    taken = {*random.Random(seed).sample(range(len(lines)), number)}
    out.mkdir(parents=True, exist_ok=True)
    for place, is_taken in ((rest_path(drawn), False), (drawn, True)):
        text = head + "".join(line for at, line in enumerate(lines) if (at in taken) == is_taken)
        if not place.is_file() or place.read_text(encoding="utf-8") != text:
            write_whole(place, text)
    return drawn
