"""Downloads that are half-made, that lost a part or a shard, or that an earlier version made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from blip_bootstrap.errors import AccountingError
from blip_bootstrap.storage.manifest import describe_files
from blip_bootstrap.storage.notes import known_by
from blip_bootstrap.storage.parquet import parquet_files
from blip_bootstrap.storage.parts import LEFT_OUT
from blip_pipelines.ingest.download import download_images
from blip_pipelines.lists.shards import write_shards
from tests.pipelines.lists.growing_lists import HERE, Killed, Run, Web, kill_after, names, own, parts, rows_of


def test_what_is_half_made_has_parts_too(run: Run, web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = web.rows(range(12))
    live = kill_after(monkeypatch, 1)
    with pytest.raises(Killed):
        run(whole, name="half")
    live()
    run.kin = [run.begin("half")]
    assert web.fetched() == [0, 1, 2, 3]
    grown = run(web.rows(range(13)), name="grown")
    assert (web.fetched(), own(grown)) == ([*range(4, 13)], parts(3, 4, 5))  # 1 and 2 may still be fetched there
    half = run(whole, name="half")
    assert (web.fetched(), names(half), own(half)) == ([], parts(0, 3, 4), parts(0))


def test_killed_while_the_lists_are_cut(run: Run, web: Web) -> None:
    """Shards without a plan: some of them, cut of the same lists."""
    whole = web.rows(range(12))
    config = run.config([whole], {})
    write_shards(config.urls, run.begin("half") / "rows", 4, limit=7)
    half = run(whole, name="half")
    assert (own(half), web.fetched()) == (parts(0, 1, 2), [*range(12)])


def test_a_plan_that_lost_a_shard_is_made_anew(run: Run, web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = web.rows(range(12))
    live = kill_after(monkeypatch, 1)
    with pytest.raises(Killed):
        run(whole, name="half")
    live()
    (run.begin("half") / "rows" / "part-00001.parquet").unlink()
    with pytest.raises(AccountingError, match="8 rows for 12 of the lists; run again"):
        run(whole, name="half")
    half = run(whole, name="half")
    assert (own(half), web.fetched()) == (parts(0, 2, 3), [*range(12)])


@pytest.mark.parametrize("damage", ["lost", "cut short"])
def test_a_lost_part_is_fetched_alone_under_its_keys(run: Run, web: Web, damage: str) -> None:
    """Of a whole artifact, as the loop has it made anew: the damaged file is taken away, the MANIFEST stays."""
    whole = web.rows(range(10))
    first = run(whole)
    before = known_by(describe_files(first))
    web.fetched()
    spoil(first / "part-00001.parquet", damage)
    (first / "part-00001.parquet").unlink(missing_ok=True)
    run(whole, name="d0")
    assert (web.fetched(), known_by(describe_files(first))) == ([4, 5, 6, 7], before)
    (first / "rows" / "part-00002.parquet").unlink()
    run(whole, name="d0")
    assert (web.fetched(), known_by(describe_files(first))) == ([], before)
    for folder in (first, first / "rows"):
        (folder / "part-00000.parquet").unlink()
    run(whole, name="d0")
    assert (web.fetched(), names(first)) == ([0, 1, 2, 3], parts(1, 2, 3))


def spoil(part: Path, damage: str) -> None:
    if damage == "lost":
        part.unlink()
    else:
        part.write_bytes(part.read_bytes()[:-30])


def test_a_lost_part_is_taken_from_another_artifact(run: Run, web: Web) -> None:
    whole = web.rows(range(10))
    first = run(whole)
    copy = run.begin("copy")
    shutil.copytree(first, copy, dirs_exist_ok=True)
    run.kin.append(copy)
    web.fetched()
    (first / "part-00001.parquet").unlink()
    run(whole, name="d0")
    assert (web.fetched(), own(first)) == ([], parts(0, 2))


def test_a_lost_part_of_a_version_with_rows_left_out(run: Run, web: Web) -> None:
    """Its file lies in another artifact. A picture is gone by now: the row is the one that failed again."""
    web.gone = {"/1": 404, "/9": 404}
    first = run(web.rows(range(10)))
    web.fetched()
    web.gone = {"/9": 404}
    second = run(web.rows([0, 1, *range(3, 10)]), retry="failed")
    assert run.counts["removed"] == 1
    web.fetched()
    web.gone = {"/0": 404, "/1": 404, "/9": 404}
    (first / "part-00000.parquet").unlink()
    (second / "part-00000.parquet").unlink()
    (second / LEFT_OUT).unlink()
    run(web.rows([0, 1, *range(3, 10)]), name=second.name)
    assert web.fetched() == [0, 3]  # 1 is in the part that was tried again; 2 is in no list, and its picture is gone
    second_parts = {part.name: part.is_symlink() for part in parquet_files(second)}
    assert second_parts["part-00001.parquet"]
    (second / "part-00003.parquet").unlink()
    run(web.rows([0, 1, *range(3, 10)]), name=second.name)
    assert web.fetched() == [1, 9]


@pytest.mark.parametrize("damage", ["lost", "cut short"])
def test_the_list_grows_and_a_part_is_damaged(
    run: Run, web: Web, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is fetched again under its keys, so that what was made of its rows still fits."""
    first = run(web.rows(range(10)))
    web.fetched()
    spoil(first / "part-00001.parquet", damage)
    grown = run(web.rows([*range(5), *range(6, 12)]))
    assert (web.fetched(), own(grown)) == ([4, 6, 7, 10, 11], parts(1, 3))
    assert [row["key"] for row in rows_of(grown, "listed")][4:7] == ["0000100000", "0000100002", "0000100003"]
    assert ("not a readable Parquet file" in capsys.readouterr().err) == (damage == "cut short")


def as_before(out: Path) -> None:
    """Make it what an earlier version left: without the rows of the lists."""
    shutil.rmtree(out / "rows")
    manifest = json.loads((out / "MANIFEST.json").read_text())
    manifest["files"] = [one for one in manifest["files"] if not one["name"].startswith("rows/")]
    (out / "MANIFEST.json").write_text(json.dumps(manifest))


def test_an_artifact_of_a_version_before_grows_and_is_repaired(run: Run, web: Web) -> None:
    whole = web.rows(range(10))
    first = run(whole)
    as_before(first)
    before = known_by(describe_files(first))
    web.fetched()
    grown = run(web.rows(range(11)))
    assert (web.fetched(), own(grown)) == ([10], parts(3))
    for part in parquet_files(first):
        part.unlink()
    config = run.config([whole], {})
    counts = download_images(first, config.urls[0].path, config=config, ray=HERE)
    assert (web.fetched(), known_by(describe_files(first))) == ([*range(10)], before)
    assert counts == {"rows": 10, "success": 10}
    (first / "part-00001.parquet").unlink()
    download_images(first, config.urls[0].path, config=config, ray=HERE, kin=[grown])
    assert (web.fetched(), known_by(describe_files(first))) == ([4, 5, 6, 7], before)


def test_a_download_that_a_version_before_has_begun(run: Run, web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = web.rows(range(12))
    live = kill_after(monkeypatch, 1)
    with pytest.raises(Killed):
        run(whole, name="half")
    live()
    out = run.begin("half")
    (out / ".plan.json").unlink()
    (out / "rows").rename(out / ".lists")
    web.fetched()
    run.kin = [out]
    grown = run(web.rows(range(12, 14)), name="other")
    assert (web.fetched(), own(grown)) == ([12, 13], parts(3))
    half = run(whole, name="half")
    assert (web.fetched(), own(half)) == ([*range(4, 12)], parts(0, 1, 2))


def test_two_artifacts_of_a_version_before_that_are_at_odds(
    run: Run, web: Web, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both have a first part, of other rows: that of the artifact which is shown counts, and is not lost."""
    other, shown = Run(run.folder), Run(run.folder)
    other(web.rows(range(100, 107)), name="other")
    shown(web.rows(range(6)), name="shown")
    web.fetched()
    run.kin = [*shown.kin, *other.kin]
    both = run(web.rows([*range(100, 107), *range(6)]))
    assert web.fetched() == [100, 101, 102, 103, 104, 105, 106]
    assert (own(both), "left aside, it has other rows than" in capsys.readouterr().err) == (parts(2, 3), True)
