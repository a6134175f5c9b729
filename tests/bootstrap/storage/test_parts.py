"""Parts that artifacts have in common, and rows that are left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from blip_bootstrap.errors import InputError
from blip_bootstrap.storage.manifest import describe_files
from blip_bootstrap.storage.parquet import parquet_files
from blip_bootstrap.storage.parts import (
    borrow,
    borrowed_from,
    home_of_part,
    is_left_out,
    of_rows,
    read_left_out,
    write_left_out,
)


def artifact(root: Path, digest: str, **files: str) -> Path:
    folder = root / "artifacts/step" / digest
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_a_borrowed_part_is_a_link_to_its_home_however_often_it_is_borrowed(tmp_path: Path) -> None:
    a, b, c = artifact(tmp_path, "a", part="x", rows__part="y"), artifact(tmp_path, "b"), artifact(tmp_path, "c")
    borrow(b, a / "part.txt")
    borrow(c, b / "part.txt")
    (c / "rows").mkdir()
    borrow(c / "rows", a / "rows/part.txt")
    assert str((c / "part.txt").readlink()) == "../a/part.txt"
    assert str((c / "rows/part.txt").readlink()) == "../../a/rows/part.txt"
    assert (borrowed_from(c / "part.txt"), borrowed_from(a / "part.txt")) == ("artifacts/step/a/part.txt", None)
    assert [(one["name"], one["at"], one["bytes"]) for one in describe_files(c)] == [
        ("part.txt", "artifacts/step/a/part.txt", 1), ("rows/part.txt", "artifacts/step/a/rows/part.txt", 1),
    ]  # fmt: skip


def test_the_home_of_a_part_is_found_through_the_link_by_which_a_run_shows_its_artifact(tmp_path: Path) -> None:
    a, b = artifact(tmp_path, "a", part="x"), artifact(tmp_path, "b", own="y")
    borrow(b, a / "part.txt")
    (tmp_path / "round-01").mkdir()
    (tmp_path / "round-01/shown").symlink_to("../artifacts/step/b")
    assert home_of_part(tmp_path / "round-01/shown/part.txt") == a / "part.txt"
    assert (tmp_path / "round-01/shown/own.txt").samefile(home_of_part(tmp_path / "round-01/shown/own.txt"))


def test_an_artifact_on_another_disk_lends_by_its_place_in_the_run(tmp_path: Path) -> None:
    artifact(tmp_path, "a", part="x").rename(tmp_path / "disk")
    (tmp_path / "artifacts/step/a").symlink_to(tmp_path / "disk")
    b = artifact(tmp_path, "b")
    borrow(b, tmp_path / "artifacts/step/a/part.txt")
    assert (b / "part.txt").read_text() == "x"
    assert borrowed_from(b / "part.txt") == "artifacts/step/a/part.txt"


def test_a_users_own_link_is_no_borrowed_part(tmp_path: Path) -> None:
    b = artifact(tmp_path, "b")
    (tmp_path / "far.txt").write_text("x")
    (b / "part.txt").symlink_to(tmp_path / "far.txt")
    assert borrowed_from(b / "part.txt") is None
    assert home_of_part(b / "part.txt") == b / "part.txt"


def test_a_part_that_is_there_is_not_replaced_and_a_dangling_link_is(tmp_path: Path) -> None:
    a, b = artifact(tmp_path, "a", part="x"), artifact(tmp_path, "b", part="own")
    borrow(b, a / "part.txt")
    assert (b / "part.txt").read_text() == "own"
    (b / "part.txt").unlink()
    (b / "part.txt").symlink_to("../gone/part.txt")
    borrow(b, a / "part.txt")
    assert (b / "part.txt").read_text() == "x"


def test_left_out_rows_are_found_by_their_keys() -> None:
    keys = pa.array([f"00003{at:05d}" for at in (0, 2, 3, 4, 9)])
    spans = {"removed": [(3, 4)], "retried": [(9, 9), (0, 1)]}
    assert np.flatnonzero(is_left_out(keys, spans)).tolist() == [0, 2, 3, 4]
    assert not is_left_out(keys, {}).any()
    assert of_rows(spans, keys) == {"removed": [(3, 4)], "retried": [(0, 0), (9, 9)]}
    assert of_rows({"retried": [(5, 8)]}, keys) == {}


def test_what_is_left_out_is_written_where_there_is_some(tmp_path: Path) -> None:
    write_left_out(tmp_path, {"part-00000.parquet": {"removed": []}})
    assert (read_left_out(tmp_path), [*tmp_path.iterdir()]) == ({}, [])
    write_left_out(tmp_path, {"part-00000.parquet": {"removed": [(1, 2)], "retried": []}})
    assert read_left_out(tmp_path) == {"part-00000.parquet": {"removed": [(1, 2)]}}


def test_a_borrowed_part_whose_home_is_gone_too_is_named(tmp_path: Path) -> None:
    folder = artifact(tmp_path, "b")
    (folder / "MANIFEST.json").write_text('{"files": [{"name": "p.parquet", "at": "artifacts/step/a/p.parquet"}]}')
    with pytest.raises(InputError, match=r"step/b/p\.parquet: its MANIFEST names it, and it is not there"):
        parquet_files(folder)
    artifact(tmp_path, "a")
    (tmp_path / "artifacts/step/a/p.parquet").touch()
    assert parquet_files(folder) == [tmp_path / "artifacts/step/a/p.parquet"]
