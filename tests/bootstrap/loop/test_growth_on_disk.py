"""Borrowed parts on disk: damaged, collected, copied, half-made, and killed in between."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from blip_bootstrap.cli.app import app
from blip_bootstrap.errors import ConfigError, InputError, RunFailed
from blip_bootstrap.loop import rounds
from blip_bootstrap.loop.leftovers import delete, leftovers, list_artifacts
from blip_bootstrap.progress import quiet
from blip_bootstrap.report.figures import write_figures
from blip_bootstrap.storage.files import write_whole
from blip_bootstrap.storage.manifest import describe_files
from blip_bootstrap.storage.parquet import parquet_files, read_parquet
from blip_bootstrap.storage.run_folder import with_checksum
from tests.support.growing_rounds import FEW, FIRST, MORE, GrowingRounds, ask, manifest, no_gap, of
from tests.support.kills import every_kill
from tests.support.stub_rounds import all_bytes


@pytest.fixture
def grown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GrowingRounds:
    return GrowingRounds(tmp_path, monkeypatch)


def test_a_damaged_borrowed_part_is_made_anew_in_the_borrower(grown: GrowingRounds) -> None:
    two = grown.lists(FIRST, MORE)
    grown.run(1, grown.lists(FIRST))
    grown.run(1, two)
    for place in ("images", "round-01/captions", "round-01/pairs"):
        part = grown.root / place / "part-00001.parquet"
        home, own = part.resolve(), part.parent.resolve()
        good = home.read_bytes()
        home.write_bytes(good[:-5])
        digest = manifest(grown, place)["content"]
        said = grown.run(1, two)
        assert grown.parts == [f"{place.rpartition('/')[2]}/part-00001"], said
        assert manifest(grown, place)["content"] == digest
        assert (not (own / part.name).is_symlink(), home.read_bytes()) == (True, good[:-5])
        assert "at" not in next(one for one in manifest(grown, place)["files"] if one["name"] == part.name)
        assert (own / part.name).read_bytes() == good
        assert all(line.endswith(": current") for line in grown.run(1, two) if line.startswith(("im", "round-01")))


def test_a_lost_part_is_not_given_up_while_the_web_is_away(grown: GrowingRounds) -> None:
    """Its captions are there, and would be made a second time once its pictures came by other keys."""
    first = grown.lists(FIRST)
    grown.run(1, first)
    part = grown.root / "images/part-00001.parquet"
    good, captions = part.read_bytes(), manifest(grown, "round-01/captions")
    grown.gone = {*FIRST}
    for _ in range(2):
        part.unlink(missing_ok=True)
        with pytest.raises(RunFailed, match=r"^images: no row of part-00001.parquet can be fetched again"):
            grown.run(1, first)
        assert not part.exists()
    grown.gone = set()
    grown.run(1, first)
    assert grown.parts == ["images/part-00001"]
    assert (part.read_bytes(), manifest(grown, "round-01/captions")) == (good, captions)


def test_a_lost_part_can_be_given_up(grown: GrowingRounds) -> None:
    first = grown.lists(FIRST)
    grown.run(1, first)
    part = grown.root / "images/part-00001.parquet"
    grown.gone = {FIRST[-1]}
    part.unlink()
    grown.run(1, first)  # one of three is gone by now
    assert manifest(grown, "images")["counts"]["success"] == len(FIRST) - 1
    grown.gone = {*FIRST}
    part.unlink()
    (part.parent / "MANIFEST.json").unlink()
    grown.run(1, first)
    assert manifest(grown, "images")["counts"]["success"] == len(FIRST) / 2
    assert no_gap(grown.root)


def test_figures_of_a_damaged_part_name_its_home(grown: GrowingRounds) -> None:
    """DuckDB's own message names no file, and a link that is deleted would only be made again."""
    grown.run(1, grown.lists(FIRST))
    grown.run(1, grown.lists(FIRST, MORE))
    home = (grown.root / "images/part-00001.parquet").resolve()
    good = home.read_bytes()
    home.write_bytes(good[:8] + bytes(len(good) - 500) + good[-492:])
    (grown.root / "round-01/metrics.json").unlink()
    with pytest.raises(InputError, match=f"^{home}: damaged, .*delete it and run again$"):
        write_figures(grown.root, 1)
    home.unlink()
    grown.run(1, grown.lists(FIRST, MORE))
    assert write_figures(grown.root, 1).is_file()


def test_rows_of_images_are_told_once(grown: GrowingRounds) -> None:
    grown.run(1, grown.lists(FIRST))
    images = (grown.root / "images").resolve()
    (images / "rows").mkdir()
    shutil.copy(images / "part-00000.parquet", images / "rows")
    told = {name: value for name, value in manifest(grown, "images").items() if name != "check"}
    told["files"] = describe_files(images)
    write_whole(images / "MANIFEST.json", json.dumps(with_checksum(told)))
    assert {one.rows for one in list_artifacts(grown.root) if one.folder == images} == {len(FIRST)}


def test_gc_takes_nothing_that_is_borrowed(grown: GrowingRounds) -> None:
    first, two = grown.lists(FIRST), grown.lists(FIRST, MORE)
    grown.run(1, first)
    homes = {place: (grown.root / place).resolve() for place in ("images", "round-01/captions", "round-01/pairs")}
    grown.run(1, two, remake=(0,))
    states = {one.folder: one for one in list_artifacts(grown.root)}
    assert {states[home].state for home in homes.values()} == {"pointed to"}
    assert states[homes["images"]].names == ("parts of images",)
    mine = states[(grown.root / "images").resolve()]
    assert mine.size_bytes < sum(one["bytes"] for one in manifest(grown, "images")["files"])
    assert not {*homes.values()} & {one.folder for one in leftovers(grown.root)}
    list(delete(leftovers(grown.root)))
    assert all(line.endswith(": current") for line in grown.run(1, two) if not line.startswith("overview"))
    grown.run(1, grown.lists(["w0"]), remake=(0,))  # which has no part of them
    gone = {one.folder for one in leftovers(grown.root)}
    assert {*homes.values()} <= gone
    list(delete(leftovers(grown.root)))
    assert all(line.endswith(": current") for line in grown.run(1, grown.lists(["w0"])) if line.startswith("im"))


def test_gc_leaves_artifacts_alone_that_other_runs_may_use(grown: GrowingRounds) -> None:
    grown.run(0, grown.lists(FIRST))
    shutil.move(grown.root / "artifacts", grown.folder / "shared")
    (grown.root / "artifacts").symlink_to("../shared")
    done = CliRunner().invoke(app, ["gc", "--root", str(grown.root), "--delete"])
    assert "artifacts: is a link to" in str(done.exception)
    assert "other runs may use" in str(done.exception)
    grown.run(0, grown.lists(FIRST, MORE))
    assert grown.parts == [*of(2, 3, tables=["images"]), *of(2, 3, tables=["pairs"])]
    assert no_gap(grown.root, 0)


@pytest.mark.parametrize("links", ["kept", "followed", "left out"])
def test_a_grown_run_that_is_moved_or_copied_reads_and_goes_on(grown: GrowingRounds, links: str) -> None:
    grown.run(1, grown.lists(FIRST))
    two = grown.lists(FIRST, MORE)
    grown.run(1, two)
    (grown.folder / "else").mkdir()
    copy = Path(shutil.copytree(grown.root, grown.folder / "else/run", symlinks=links != "followed"))
    shutil.rmtree(grown.root)
    grown.root = copy
    if links == "left out":
        folder = (copy / "round-01/captions").resolve()
        for link in [one for one in copy.rglob("*") if one.is_symlink()]:
            link.unlink()
        assert sum(len(read_parquet(part)) for part in parquet_files(folder)) == 20
    said = grown.run(1, two)
    assert all(line.endswith(": current") for line in said if line.startswith(("images", "round-01")))
    assert grown.parts == []
    assert ask(copy, "SELECT count(*) FROM captions") == [(20,)]
    grown.run(1, grown.lists(FIRST, MORE, ["w0"]))
    assert grown.parts == of(4)


def test_half_made_kin_lend_what_they_have(grown: GrowingRounds, monkeypatch: pytest.MonkeyPatch) -> None:
    grown.run(0, grown.lists(FIRST))

    def caption_one(out: Path, images: Path, *models: Path, config: Any) -> dict[str, int]:
        grown.caption_and_score(out, images, *models, config=config)
        (out / "part-00001.parquet").unlink()
        raise KeyboardInterrupt

    caption_one.__name__ = "caption_and_score"
    with monkeypatch.context() as patch:
        patch.setattr(rounds, "caption_and_score", caption_one)
        with pytest.raises(KeyboardInterrupt):
            grown.run(1, grown.lists(FIRST))
    grown.run(1, grown.lists(FIRST, MORE))
    assert [part for part in grown.parts if part.startswith("captions")] == of(1, 2, 3, tables=["captions"])
    assert [one for one in leftovers(grown.root) if one.step == "caption_and_score"] == []
    assert no_gap(grown.root)


def test_a_step_that_fails_at_once_leaves_nothing(grown: GrowingRounds, monkeypatch: pytest.MonkeyPatch) -> None:
    def select_pairs(out: Path, captions: Path, config: Any) -> dict[str, int]:
        raise ConfigError(["select.labels: no"])

    with monkeypatch.context() as patch:
        patch.setattr(rounds, "select_pairs", select_pairs)
        with pytest.raises(ConfigError):
            grown.run(1, grown.lists(FIRST))
    assert leftovers(grown.root) == []


def test_a_folder_of_no_step_at_a_place_is_told_of(grown: GrowingRounds) -> None:
    (grown.root / "images").mkdir(parents=True)
    (grown.root / "images/mine.jpg").write_bytes(b"x")
    said = grown.run(0, grown.lists(FIRST))
    assert "images: what stood at its place is of no step; it lies in artifacts/unknown/images now" in said
    assert (grown.root / "artifacts/unknown/images/mine.jpg").read_bytes() == b"x"


def named(name: str, step: Callable[..., Any]) -> Callable[..., Any]:
    """A stub by the name that recipes know the step by."""

    def call(out: Path, *inputs: Path, config: Any = None) -> Any:
        return step(out, *inputs)

    call.__name__ = name
    return call


def test_killed_anywhere_while_growing_nothing_is_lost(
    grown: GrowingRounds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before every operation on names, the borrowing of parts among them."""
    one, two = grown.lists(FIRST[:3]), grown.lists(FIRST[:3], MORE[:3])
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # which is half of the time
    monkeypatch.setattr(rounds, "select_pairs", named("select_pairs", grown.few_pairs))
    monkeypatch.setattr(rounds, "take_web_pairs", named("take_web_pairs", grown.few_pairs))
    grown.run(1, one)
    first = all_bytes(grown.root)
    shutil.move(grown.root, tmp_path / "first")

    def prepare() -> None:
        shutil.rmtree(grown.root, ignore_errors=True)
        shutil.copytree(tmp_path / "first", grown.root, symlinks=True)

    config, points = grown.config(*FEW, two), 0
    for _ in every_kill(lambda: rounds.run_round(config, 1, quiet), prepare):
        points += 1
        kept = {name: data for name, (_, data) in all_bytes(grown.root).items() if name in first}
        assert kept == {name: data for name, (_, data) in first.items()}
        grown.parts.clear()
        rounds.run_round(config, 1, quiet)
        assert [one for one in grown.parts if one.endswith("0")] == [], "what was made before the list was added"
        for place in ("images", "round-01/captions", "round-01/pairs"):
            parts = parquet_files(grown.root / place)
            assert [sum(len(read_parquet(part, ["key"])) for part in parts), len(parts)] in ([6, 2], [12, 2])
        assert not list(grown.root.glob("artifacts/*/*/.*"))
        if points % 10 == 0:
            grown.run(1, one)
            assert grown.parts == []
    assert points > 40
