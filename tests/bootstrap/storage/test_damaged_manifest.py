"""A MANIFEST of which a byte turned is told, whatever it says there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blip_bootstrap.config import SelectConfig
from blip_bootstrap.errors import InputError
from blip_bootstrap.loop.artifacts import finish
from blip_bootstrap.loop.leftovers import damaged_in
from blip_bootstrap.loop.whole import manifest_in
from blip_bootstrap.storage import manifest as manifests
from blip_bootstrap.storage.manifest import describe_files, manifest_of, recipe_of
from blip_bootstrap.storage.run_folder import CHECKSUM, MANIFEST, named_files, read_json, with_checksum


def make(folder: Path) -> Path:
    """A whole artifact of two parts; its folder."""
    folder.mkdir(parents=True)
    for number in range(2):
        pq.write_table(pa.table({"key": [f"{number}"]}), folder / f"part-{number:05d}.parquet")
    recipe = recipe_of("select_pairs", SelectConfig(), {"captions": "0123456789abcdef"})
    counts: dict[Any, int] = {"rows": 2, 3: 1}  # a whole number is a text in JSON
    told = manifest_of("round-01/pairs", recipe, SelectConfig(), counts, 1.25, describe_files(folder))
    finish(folder, told)
    return folder


@pytest.fixture
def made(tmp_path: Path) -> Path:
    return make(tmp_path / "artifacts/select_pairs/one")


def what_is_read(folder: Path) -> tuple[dict[str, Any], Mapping[str, Any] | None] | str:
    """The MANIFEST without its checksum, and the names of files; the error where it is told as damaged."""
    try:
        found = read_json(folder / MANIFEST)
        return {name: value for name, value in found.items() if name != CHECKSUM}, named_files(folder)
    except InputError as error:
        return str(error)


def test_a_bit_anywhere_is_told_or_changes_nothing(made: Path) -> None:
    path = made / MANIFEST
    data, right = path.read_bytes(), what_is_read(made)
    told = 0
    for at in range(len(data)):
        turned = bytearray(data)
        turned[at] ^= 1
        path.write_bytes(turned)
        found = what_is_read(made)
        if isinstance(found, str):
            told += 1
            assert found.startswith(f"{path}: ")
            with pytest.raises(InputError, match="damaged"):
                named_files(made)
        else:  # in the name of the checksum, or in a blank
            known = {name: found[0].get(name) for name in right[0]}
            assert (known, found[1]) == right, f"byte {at}: {data[at - 10 : at + 10]!r} is believed"
    assert len(data) - told < 2 * len(CHECKSUM)


@pytest.mark.parametrize(
    ("was", "now"),
    [
        ('"rows": 2', '"rows": 3'),
        ('"content"', '"cnotent"'),
        ('"itm_threshold": 0.5', '"itm_threshold": 0.6'),
    ],
)
def test_a_damaged_one_is_told_in_one_line_and_named_with_the_damaged_files(made: Path, was: str, now: str) -> None:
    path = made / MANIFEST
    text = path.read_text()
    assert was in text
    path.write_text(text.replace(was, now, 1))
    told = r"MANIFEST\.json: damaged \(.*\); delete its folder to make it anew$"
    with pytest.raises(InputError, match=told) as caught:
        manifest_in(made)
    assert "\n" not in str(caught.value)
    assert list(damaged_in(made.parents[2])) == [path]


def test_those_without_a_checksum_are_read_as_before(made: Path) -> None:
    told = {name: value for name, value in json.loads((made / MANIFEST).read_text()).items() if name != CHECKSUM}
    (made / MANIFEST).write_text(json.dumps(told))
    assert read_json(made / MANIFEST) == told
    assert list(damaged_in(made.parents[2])) == []
    (made / MANIFEST).write_text(json.dumps(told | {"counts": {"rows": 3}}))
    with pytest.raises(InputError, match="its counts or files are not those that were written"):
        read_json(made / MANIFEST)


def test_it_is_of_all_but_itself() -> None:
    told = with_checksum({"name": "images", "counts": {}})
    assert with_checksum(told) == told
    assert with_checksum(told | {"name": "human"})[CHECKSUM] != told[CHECKSUM]


def test_many_files_have_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "MANY_FILES", 1)
    folder = make(tmp_path / "artifacts/select_pairs/many")
    assert len(read_json(folder / MANIFEST)["files"]) == 2
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text.replace('"version"', '"bersion"'))
    with pytest.raises(InputError, match="its checksum is another"):
        read_json(folder / MANIFEST)
    (folder / MANIFEST).write_text(text)
    (folder / "MANIFEST.files").write_bytes(b"x")
    assert list(damaged_in(tmp_path)) == [folder / "MANIFEST.files"]
