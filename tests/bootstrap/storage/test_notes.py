"""What workers note of the parts that they write is what is known of these; manifests of many files are Parquet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from blip_bootstrap.errors import InputError
from blip_bootstrap.loop.artifacts import finish
from blip_bootstrap.schemas.tables import PAIRS
from blip_bootstrap.storage import manifest as manifests
from blip_bootstrap.storage import notes
from blip_bootstrap.storage.manifest import KnownParts, describe_files, manifest_of
from blip_bootstrap.storage.many_files import FILES, FILES_IN
from blip_bootstrap.storage.notes import Note, note_path, read_note
from blip_bootstrap.storage.parquet import parquet_files, read_parquet, rows_to_table, write_parquet
from blip_bootstrap.storage.parts import borrow
from blip_bootstrap.storage.run_folder import MANIFEST, named_files, read_json


def pairs(number: int) -> pa.Table:
    row = {"source": "web", "candidate": 0, "caption": "a dog", "kept": True}
    return rows_to_table([{**row, "key": f"{at:010d}"} for at in range(number)], PAIRS)


def write(folder: Path, name: str, number: int) -> Path:
    write_parquet(folder / name, pairs(number), PAIRS, counts={"rows": number, "kept": number})
    return folder / name


def test_a_note_has_what_the_file_is(tmp_path: Path) -> None:
    part = write(tmp_path, "part-00000.parquet", 7)
    data = part.read_bytes()
    assert read_note(part) == Note(len(data), hashlib.sha256(data).hexdigest(), 7, {"rows": 7, "kept": 7})
    assert read_parquet(part).equals(pairs(7))
    assert [one["sha256"] for one in describe_files(tmp_path)] == [hashlib.sha256(data).hexdigest()]


def test_what_a_note_knows_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: without its note the part is hashed."""
    part = write(tmp_path, "part-00000.parquet", 3)

    def read(path: Path) -> str:
        raise AssertionError(f"{path} is read")

    monkeypatch.setattr(manifests, "digest_of_path", read)
    assert describe_files(tmp_path)[0]["rows"] == 3
    note_path(part).unlink()
    with pytest.raises(AssertionError, match="is read"):
        describe_files(tmp_path)


def damage(path: Path) -> None:
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | {"rows": 8}))


@pytest.mark.parametrize(
    "befalls",
    [
        lambda part: damage(note_path(part)),
        lambda part: note_path(part).write_text("{"),
        lambda part: note_path(part).write_bytes(b"\xff"),
        lambda part: note_path(part).write_text("[]"),
        lambda part: part.write_bytes(part.read_bytes()[:-1]),
        lambda part: note_path(part).replace(note_path(part.with_name("other.parquet"))),
        lambda part: write_parquet(part, pairs(5), PAIRS),
    ],
)
def test_a_note_that_does_not_fit_is_none(tmp_path: Path, befalls: Callable[[Path], Any]) -> None:
    part = write(tmp_path, "part-00000.parquet", 7)
    befalls(part)
    assert (read_note(part), read_note(part.with_name("other.parquet"))) == (None, None)


def test_a_borrowed_part_is_known_by_its_home(tmp_path: Path) -> None:
    """While the home is half-made by its note, then by its MANIFEST, which has the counts, too."""
    home, other = (tmp_path / "artifacts/select_pairs" / name for name in ("home", "other"))
    part = write(home, "part-00000.parquet", 4)
    other.mkdir()
    borrow(other, part)
    half_made = KnownParts()(other / part.name)
    assert half_made == read_note(part) is not None
    entry = {**describe_files(other)[0]}
    finish(home, manifest_of("pairs", {"step": "select_pairs"}, None, {}, 0, describe_files(home)))
    assert not (home / notes.NOTES).exists()
    assert KnownParts()(other / part.name) == KnownParts()(part) == half_made
    assert describe_files(other) == [entry]
    assert entry["at"] == "artifacts/select_pairs/home/part-00000.parquet"


@pytest.fixture
def many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A whole artifact of five parts, three of which make many."""
    monkeypatch.setattr(manifests, "MANY_FILES", 3)
    folder = tmp_path / "artifacts/select_pairs/many"
    for number in range(5):
        write(folder, f"part-{number:05d}.parquet", number)
    files = describe_files(folder)
    files[2]["of"] = "0" * 64
    finish(folder, manifest_of("pairs", {"step": "select_pairs"}, None, {"rows": 10}, 0, files))
    return folder


def test_many_files_are_in_parquet_beside_the_manifest(many: Path) -> None:
    stored = json.loads((many / MANIFEST).read_text())
    data = (many / FILES).read_bytes()
    assert "files" not in stored
    assert stored[FILES_IN] == {"name": FILES, "sha256": hashlib.sha256(data).hexdigest(), "number": 5}
    read = read_json(many / MANIFEST)["files"]
    assert (len(read), read[4]["rows"], read[-1]["name"], [one["rows"] for one in read[1:3]]) == (
        5, 4, "part-00004.parquet", [1, 2],
    )  # fmt: skip
    assert read[2] == describe_files(many)[2] | {"of": "0" * 64, "counts": {"rows": 2, "kept": 2}}
    assert "of" not in read[1]
    assert list(named_files(many) or {}) == [f"part-{number:05d}.parquet" for number in range(5)]
    assert [path.name for path in parquet_files(many)] == list(named_files(many) or {})


def test_few_files_again_leave_no_parquet(many: Path) -> None:
    """As after parts were taken away and made otherwise."""
    (many / MANIFEST).unlink()
    for number in (3, 4):
        (many / f"part-{number:05d}.parquet").unlink()
    finish(many, manifest_of("pairs", {"step": "select_pairs"}, None, {}, 0, describe_files(many)))
    assert not (many / FILES).exists()
    assert len(read_json(many / MANIFEST)["files"]) == 3


def test_a_bit_in_the_parquet_is_told(many: Path) -> None:
    data = bytearray((many / FILES).read_bytes())
    for at in range(0, len(data), 97):
        data[at] ^= 1
        (many / FILES).write_bytes(data)
        data[at] ^= 1
        with pytest.raises(InputError, match=r"MANIFEST\.files: damaged"):
            read_json(many / MANIFEST)


def test_without_its_parquet_a_manifest_is_damaged(many: Path) -> None:
    (many / FILES).unlink()
    with pytest.raises(InputError, match=r"MANIFEST\.files: damaged"):
        parquet_files(many)
