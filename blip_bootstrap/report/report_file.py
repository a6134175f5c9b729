"""Files that tell about a run (metrics.json and the pages), written again only when what they tell has changed."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from blip_bootstrap.config import Section
from blip_bootstrap.errors import InputError, writing
from blip_bootstrap.progress import Say
from blip_bootstrap.query.questions import told_in_one_line
from blip_bootstrap.storage.files import check_writable, write_whole
from blip_bootstrap.storage.manifest import digest_of_path, digest_of_recipe, manifest_of, recipe_of, short
from blip_bootstrap.storage.run_folder import (
    MANIFEST,
    manifest_path,
    manifests,
    read_json,
    round_folder,
    used_folder,
    with_checksum,
)
from blip_bootstrap.storage.verify import damaged_bytes, told_damaged

REPORT_FILES = ("metrics.json", "report.html")
"""What tells about a round or a run. No step makes these, and no step reads them."""

COMPLETE = {"complete": True}
"""Marks a record that names every input; earlier versions left some out."""

Content = tuple[str, Mapping[str, int | float]]
"""The text of a file, and figures of it for the line that says that it is written."""


@dataclass(frozen=True)
class ReportFile:
    """A file under `root` that tells about the run, and everything that decides what it says.

    `reads` names each input: a file (its bytes decide; one that is not there decides, too) or a text.
    """

    root: Path
    name: str
    written_by: str
    reads: Mapping[str, Path | str]
    section: Section | None = None

    @property
    def path(self) -> Path:
        """Where the file lies."""
        return self.root / self.name

    def recipe(self) -> dict[str, Any]:
        """What the file would be made from now, in the form that a step's recipe has in its MANIFEST."""
        digests = {
            name: digest_of_path(what) if isinstance(what, Path) else what
            for name, what in sorted(self.reads.items())
            if not isinstance(what, Path) or what.is_file()
        }
        return recipe_of(self.written_by, self.section, digests)


def write_if_changed(file: ReportFile, content: Callable[[], Content], say: Say, always: bool = False) -> Path:
    """Write `file` with what `content` returns, unless it was made from the same inputs and settings; its path.

    `always` asks for the content in any case. A file that would get the bytes that it has is left untouched. A record
    of the inputs is kept beside the file, in the form of a step's MANIFEST. `say` gets the lines of progress. Raises
    InputError where the file cannot be written.
    """
    recipe, record = file.recipe(), read_json(manifest_path(file.path))
    if not always and record and _is_current(file, record, recipe):
        say(f"{file.name}: current")
        return file.path
    check_writable(file.path)
    say(f"{file.name}: {file.written_by}{_because(record, recipe)}")
    started = time.monotonic()
    with _naming_damage(file):
        text, counts = content()
    written = text.encode()
    seconds = time.monotonic() - started
    files = [{"name": file.path.name, "bytes": len(written), "sha256": hashlib.sha256(written).hexdigest()}]
    record = manifest_of(file.name, recipe, file.section, counts, seconds, files) | COMPLETE
    with writing(file.path):
        if not file.path.is_file() or file.path.read_bytes() != written:
            write_whole(file.path, written)
        write_whole(manifest_path(file.path), json.dumps(with_checksum(record), indent=1))
    shown = "  ".join(f"{key} {short(value)}" for key, value in counts.items())
    say(f"{file.name}: done in {seconds:.1f} s  {shown}")
    return file.path


@contextmanager
def _naming_damage(file: ReportFile) -> Iterator[None]:
    """A context in which DuckDB's error is one line; it names the damaged file where one of those read is.

    DuckDB compares no checksums, and many of its messages name no file.
    """
    try:
        yield
    except (duckdb.Error, InputError) as error:
        for path in (one for one in file.reads.values() if isinstance(one, Path) and one.name == MANIFEST):
            for name in damaged_bytes(path.parent, read_json(path) or {"files": []}):
                raise told_damaged(path.parent / name) from error
        with told_in_one_line():
            raise


def _is_current(file: ReportFile, record: Mapping[str, Any], recipe: Mapping[str, Any]) -> bool:
    """Whether the file is whole, and its record says that it was made by this recipe."""
    if not file.path.is_file() or [file.path.stat().st_size] != [entry["bytes"] for entry in record["files"]]:
        return False
    if record.get("complete"):
        return bool(record["digest"] == digest_of_recipe(recipe))
    # Without all inputs in the record, the dates of the files decide.
    made_ns = manifest_path(file.path).stat().st_mtime_ns
    dates = (what.stat().st_mtime_ns for what in file.reads.values() if isinstance(what, Path) and what.is_file())
    return record["recipe"]["config"] == recipe["config"] and all(date <= made_ns for date in dates)


def _because(record: Mapping[str, Any] | None, recipe: Mapping[str, Any]) -> str:
    """Which inputs have changed since the file was last written, the first three by name."""
    if not record or not record.get("complete"):
        return ""
    was, now = record["recipe"]["inputs"], recipe["inputs"]
    changed = sorted(name for name in was.keys() | now.keys() if was.get(name) != now.get(name))
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    return f", because of another {', '.join(changed[:3])}{more}" if changed else ""


def manifests_of_steps(root: Path) -> dict[str, dict[str, Any]]:
    """The MANIFESTs under `root` by the name of what was made, in the order in which it was; REPORT_FILES left out."""
    return {str(one["name"]): one for one in manifests(root) if Path(str(one["name"])).name not in REPORT_FILES}


def manifest_files(root: Path, rounds: Iterable[int]) -> dict[str, Path]:
    """The MANIFESTs of these rounds' own steps, and of what the last of them was made with, by their path."""
    numbers = [*rounds]
    folders = [root, *(round_folder(root, number) for number in numbers)]
    found = [path for folder in folders for path in folder.glob(f"*/{MANIFEST}")]
    shared = {path: used_folder(root, max(numbers, default=0), path.parent.name) / MANIFEST for path in found}
    return {path.relative_to(root).as_posix(): shared[path] if path.parent.parent == root else path for path in found}
