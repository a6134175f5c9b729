"""A run grows: lists are added and taken away, failed rows fetched again, and only the parts of these are new."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from blip_bootstrap.audit.audits import audit
from blip_bootstrap.cli.app import app
from blip_bootstrap.errors import ConfigError
from blip_bootstrap.loop import rounds
from blip_bootstrap.loop.leftovers import delete, leftovers, list_artifacts
from blip_bootstrap.progress import quiet
from blip_bootstrap.query.views import connect
from blip_bootstrap.storage.parquet import parquet_files, read_parquet
from tests.support.growing_rounds import FEW, GrowingRounds
from tests.support.kills import every_kill
from tests.support.stub_rounds import all_bytes

FIRST, MORE = [f"u{at}" for at in range(6)], ["v0", "v1", "v2", "v3"]

ALL = ["images", "captions", "pairs"]


@pytest.fixture
def grown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GrowingRounds:
    return GrowingRounds(tmp_path, monkeypatch)


def of(*numbers: int, tables: list[str] = ALL) -> list[str]:
    return [f"{table}/part-{number:05d}" for table in tables for number in numbers]


def manifest(grown: GrowingRounds, place: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((grown.root / place / "MANIFEST.json").read_text())
    return found


def ask(root: Path, sql: str) -> list[tuple[Any, ...]]:
    with connect(root) as connection:
        return connection.execute(sql).fetchall()


def named(name: str, step: Callable[..., Any]) -> Callable[..., Any]:
    """A stub by the name that recipes know the step by."""

    def call(out: Path, *inputs: Path, config: Any = None) -> Any:
        return step(out, *inputs)

    call.__name__ = name
    return call


def no_gap(root: Path, number: int = 1) -> bool:
    (answer,) = audit(root, number, ["accounting"])
    return all(row["gap"] == 0 for row in answer.table.to_pylist())


def kept_texts(root: Path, number: int = 1) -> set[tuple[str, str]]:
    sql = "SELECT i.url, p.source FROM pairs p JOIN images i USING (key) WHERE p.kept AND p.round = "
    return {*ask(root, f"{sql}{number}")}


def test_a_list_that_is_added_makes_its_own_parts_alone(grown: GrowingRounds) -> None:
    one, two = grown.lists(FIRST), grown.lists(FIRST, MORE)
    grown.run(1, one)
    assert grown.parts == ["images/part-00000", "images/part-00001", *of(0, 1, tables=["pairs", "captions", "pairs"])]
    before = all_bytes(grown.root)
    said = grown.run(1, two)
    assert grown.parts == of(2, 3)
    assert {name: one for name, one in all_bytes(grown.root).items() if name in before} == before
    assert "round-01/captions: caption_and_score (2 of 4 parts as they are)" in said
    for place in ("images", "round-01/captions", "round-01/pairs"):
        folder = (grown.root / place).resolve()
        assert [path.is_symlink() for path in sorted(folder.glob("part-*"))] == [True, True, False, False]
        entries = {one["name"]: one for one in manifest(grown, place)["files"]}
        home = json.loads((folder / "part-00000.parquet").resolve().with_name("MANIFEST.json").read_text())
        told = {key: home["files"][0][key] for key in ("name", "bytes", "sha256", "rows")}
        assert told.items() <= entries["part-00000.parquet"].items()
        assert (grown.root / entries["part-00000.parquet"]["at"]).is_file()
        assert "at" not in entries["part-00003.parquet"]
    assert no_gap(grown.root)
    assert ask(grown.root, "SELECT count(*), count(*) FILTER (listed) FROM images") == [(10, 10)]
    for setting in (one, two, one):  # back and forth
        assert all(line.endswith(": current") for line in grown.run(1, setting) if line.startswith(("im", "round-01")))
        assert grown.parts == []


def test_a_setting_of_the_rule_makes_all_pairs_and_no_captions(grown: GrowingRounds) -> None:
    two = grown.lists(FIRST, MORE)
    grown.run(1, grown.lists(FIRST))
    grown.run(1, two)
    grown.run(1, two, "select.itm_threshold=0.95")
    assert grown.parts == of(0, 1, 2, 3, tables=["pairs"])
    grown.run(1, grown.lists(FIRST, MORE, ["w"]), "select.itm_threshold=0.95", "select.synthetic_share=0.5")
    assert grown.parts == [*of(4, tables=["images", "captions"]), *of(0, 1, 2, 3, 4, tables=["pairs"])]


def test_references_that_are_others_make_all_captions_anew(grown: GrowingRounds) -> None:
    """The first pictures of the images: those of the first part suffice for two, not for three."""
    for references, made in ((2, [2, 3]), (3, [2, 3]), (5, [2, 3]), (6, [0, 1, 2, 3])):
        own = f"caption.references={references}"
        grown.run(1, grown.lists(FIRST), own)
        grown.run(1, grown.lists(FIRST, MORE), own)
        assert [part for part in grown.parts if part.startswith("captions")] == of(*made, tables=["captions"])


def test_rows_that_leave_a_list_stay_and_become_no_pairs(grown: GrowingRounds) -> None:
    two = grown.lists(FIRST, MORE)
    grown.run(1, two)
    all_kept = kept_texts(grown.root)
    said = grown.run(1, grown.lists(FIRST[:4], MORE))
    assert grown.parts == of(1, tables=["pairs"])
    assert "round-01/pairs: select_pairs (3 of 4 parts as they are)" in said
    assert manifest(grown, "images")["counts"]["removed"] == 2
    assert ask(grown.root, "SELECT url FROM images WHERE NOT listed ORDER BY url") == [("u4",), ("u5",)]
    why = "SELECT source, rejected, kept, count(*) FROM pairs WHERE reason = 'not_listed' GROUP BY ALL ORDER BY 1"
    assert ask(grown.root, why) == [("synthetic", None, False, 2), ("web", None, False, 2)]
    assert kept_texts(grown.root) == {one for one in all_kept if one[0] not in ("u4", "u5")}
    assert no_gap(grown.root)
    figures = next(one for one in audit(grown.root, 1, ["reasons"])[0].table.to_pylist() if one["fate"] == "not_listed")
    assert figures["texts"] == 2
    grown.run(0, grown.lists(FIRST[:4], MORE), remake=())
    assert [part for part in grown.parts if part.startswith("pairs")] == of(1, tables=["pairs"])
    assert ask(grown.root, "SELECT count(*) FROM pairs WHERE round = 0 AND reason = 'not_listed'") == [(2,)]
    assert no_gap(grown.root, 0)
    grown.run(1, two)
    assert grown.parts == []


def test_every_rule_leaves_rows_out_that_are_not_listed(grown: GrowingRounds) -> None:
    fewer = grown.lists(FIRST, MORE), grown.lists(FIRST[:3], MORE[1:])
    for rule in (
        ("strategy=fraction", "keep_fraction=0.5"), ("strategy=best_per_image",), ("variety=1.0",),
        ("strategy=fraction", "score=[itm, itc]"), ("synthetic_share=0.3",),
    ):  # fmt: skip
        settings = tuple(f"select.{one}" for one in rule)
        grown.run(1, grown.lists(FIRST, MORE), *settings)
        grown.run(1, grown.lists(FIRST[:3], MORE[1:]), *settings)
        sql = "SELECT DISTINCT i.url FROM pairs p JOIN images i USING (key) WHERE round = 1 AND reason = 'not_listed'"
        assert {url for (url,) in ask(grown.root, sql)} == {"u3", "u4", "u5", "v0"} - {"u3", "u4", "u5"}, fewer
        assert no_gap(grown.root)


def test_failed_rows_are_fetched_again_into_new_parts(grown: GrowingRounds) -> None:
    one = grown.lists(FIRST)
    grown.gone = {"u1", "u4"}
    grown.run(1, one)
    first = manifest(grown, "images")
    assert ask(grown.root, "SELECT count(*) FILTER (status = 'success'), count(*) FROM images") == [(4, 6)]
    grown.gone = {"u4"}
    said = grown.run(1, one, retry="failed:timeout")
    assert grown.parts == of(2)
    assert (grown.root / "images").resolve().name == f"{first['digest'][:16]}-2"
    assert manifest(grown, "images")["digest"] == first["digest"]
    assert manifest(grown, "images")["retry"] == "failed:timeout"
    urls = "SELECT url, status, count(*) FROM images GROUP BY ALL HAVING count(*) > 1 OR status <> 'success'"
    assert ask(grown.root, urls) == [("u4", "failed_to_download", 1)]
    assert ask(grown.root, "SELECT count(*) FROM images") == [(6,)]
    assert no_gap(grown.root)
    assert "round-01/captions: caption_and_score (2 of 3 parts as they are)" in said
    assert all(line.endswith(": current") for line in grown.run(1, one) if line.startswith(("images", "round-01")))
    assert grown.parts == []
    grown.run(1, one, retry="failed")  # in vain: a version all the same
    assert (grown.root / "images").resolve().name.endswith("-3")
    assert no_gap(grown.root)
    grown.gone = set()
    grown.run(1, one, retry="failed")
    assert ask(grown.root, "SELECT count(*), count(*) FILTER (status = 'success') FROM images") == [(6, 6)]
    before = all_bytes(grown.root)
    assert "images: no row failed, so that there is none to try again" in grown.run(1, one, retry="failed")
    assert all_bytes(grown.root) == before
    grown.run(1, grown.lists(FIRST, MORE))
    back = grown.run(1, grown.lists(FIRST))  # to the last version
    assert "images: current" in back
    assert (grown.root / "images").resolve().name.endswith("-4")


@pytest.mark.parametrize(
    ("retry", "told"),
    [
        ("failed:timeot", "did you mean failed:timeout?"),
        ("all", "is failed, or failed:CLASS for one error class"),
        ("failed:duplicate_row", "--retry failed:duplicate_row: is failed, or"),
        ("failed:", "CLASS is one of unsupported_scheme"),
    ],
)
def test_what_cannot_be_fetched_again_is_told(grown: GrowingRounds, retry: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        grown.run(0, grown.lists(FIRST), retry=retry)
    assert told in str(caught.value)
    assert not grown.root.exists()


def test_a_killed_retry_is_gone_on_with_by_the_same_command(grown: GrowingRounds) -> None:
    one, grown.gone = grown.lists(FIRST), {"u1"}
    grown.run(0, one)
    exact, grown.gone = (grown.root / "images").resolve(), set()
    again = exact.with_name(f"{exact.name}-2")
    grown.run(0, one, retry="failed")
    (again / "MANIFEST.json").unlink()  # as if it had not been written
    recipe = json.loads((exact / "MANIFEST.json").read_text())["recipe"]
    (again / ".recipe.json").write_text(json.dumps({"name": "images", "recipe": recipe, "retry": "failed"}))
    (grown.root / "images").unlink()
    record = grown.root / "shared.json"
    for path in (record, grown.root / "round-00/round.json"):
        path.write_text(path.read_text().replace(again.name, exact.name))
    grown.run(0, one)  # without it, the whole one counts
    assert ((grown.root / "images").resolve(), (again / "MANIFEST.json").exists()) == (exact, False)
    said = grown.run(0, one, retry="failed")
    assert "images: download_images (going on)" in said
    assert [part for part in grown.parts if part.startswith("images")] == []
    assert (grown.root / "images").resolve() == again


def test_a_limit_shows_the_first_rows_and_costs_nothing_either_way(grown: GrowingRounds) -> None:
    one = grown.lists(FIRST)
    grown.run(1, one, "download.limit=3")
    assert [part for part in grown.parts if part.startswith("images")] == of(0, tables=["images"])
    grown.run(1, one)
    assert grown.parts == of(1)
    grown.run(1, one, "download.limit=3")
    assert grown.parts == []


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


def test_a_run_of_the_version_before_grows(grown: GrowingRounds) -> None:
    """Whose MANIFESTs do not say of what each part was made."""
    grown.run(1, grown.lists(FIRST))
    for path in (grown.root / "artifacts").glob("*/*/MANIFEST.json"):
        made = json.loads(path.read_text())
        made["files"] = [{key: value for key, value in one.items() if key != "of"} for one in made["files"]]
        path.write_text(json.dumps(made))
    grown.run(1, grown.lists(FIRST, MORE))
    assert grown.parts == of(2, 3)


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
