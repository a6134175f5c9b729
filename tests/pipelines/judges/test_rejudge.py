"""Judges that come to captions that are there: they alone are asked, and give what they would have given before."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from blip_bootstrap.config import CaptionConfig, RayConfig, SamplerConfig
from blip_bootstrap.errors import RunFailed
from blip_bootstrap.storage.manifest import KnownParts
from blip_bootstrap.storage.parquet import parquet_files, read_parquet
from blip_pipelines.caption import blocks, worker
from blip_pipelines.caption.blocks import BLOCKS
from blip_pipelines.caption.judged import Judges
from blip_pipelines.caption.rejudge import RejudgedBlocks
from blip_pipelines.caption.step import caption_and_score
from blip_pipelines.caption.todo import Todo
from blip_pipelines.cluster.tally import Tally

Models = tuple[Path, Path]
HERE = RayConfig(address="none")
NUM_IMAGES, DAMAGED = 12, 5


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, make_images: Callable[..., Path]) -> Path:
    return make_images(tmp_path_factory.mktemp("images"), NUM_IMAGES, 8, damaged=(DAMAGED,))


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch, registered: None) -> None:
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 4)


def config(*judges: dict[str, Any]) -> CaptionConfig:
    settings = {"device": "cpu", "batch_size": 3, "references": 0, "sampler": SamplerConfig(max_tokens=8)}
    return CaptionConfig.model_validate({**settings, "judges": judges})


def judge(name: str, kind: str = "plain", **options: Any) -> dict[str, Any]:
    return {"name": name, "kind": kind, "options": options}


def table(folder: Path) -> pa.Table:
    return pa.concat_tables([read_parquet(part) for part in parquet_files(folder)])


def metadata(folder: Path) -> list[dict[bytes, bytes]]:
    return [read_parquet(part).schema.metadata for part in parquet_files(folder)]


def scored(folder: Path) -> dict[str, Path]:
    return {part.name: part for part in parquet_files(folder)}


def asked(calls: Path) -> list[int]:
    return [int(line) for line in calls.read_text().split()] if calls.exists() else []


@pytest.fixture
def no_captioner(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whoever begins to caption ends the test."""

    def worker_of(*_: object) -> None:
        raise AssertionError("a captioning worker was made")

    monkeypatch.setattr(worker, "CaptionWorker", worker_of)
    yield
    monkeypatch.undo()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, images: Path, models: Models) -> Path:
    """Captions that `a` and the drifting `d` have scored, and those of both and `b` from the start."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        from tests.support.registered import JUDGES, install  # the fixture is of a test, and these are of all

        install(folder / "site", patch, "blip_bootstrap.judges", JUDGES)
        patch.setattr(blocks, "BLOCK_ROWS", 4)
        one, both = (judge("a"), judge("d", "drifting")), (judge("b", "one"), judge("a"), judge("d", "drifting"))
        caption_and_score(folder / "one", images, *models, config(*one), HERE)
        caption_and_score(folder / "both", images, *models, config(*both), HERE)
        caption_and_score(folder / "none", images, *models, config(), HERE)
    return folder


@pytest.mark.usefixtures("no_captioner")
def test_a_further_judge_alone_is_asked(tmp_path: Path, images: Path, models: Models, made: Path) -> None:
    calls = {name: tmp_path / f"calls-{name}" for name in "abd"}
    wanted = config(
        judge("b", "one", calls=str(calls["b"])), judge("a", calls=str(calls["a"])),
        judge("d", "drifting", calls=str(calls["d"])),
    )  # fmt: skip
    counts = caption_and_score(tmp_path / "out", images, *models, wanted, HERE, scored=scored(made / "one"))
    assert not asked(calls["a"])
    assert sum(asked(calls["b"])) == sum(bool(row["scores"]) for row in table(made / "both").to_pylist())
    assert table(tmp_path / "out").equals(table(made / "both"))
    assert metadata(tmp_path / "out") == metadata(made / "both")
    assert (counts["images"], counts["synthetic"]) == (11, 10)
    assert not (tmp_path / "out" / BLOCKS).exists()


@pytest.mark.usefixtures("no_captioner")
def test_all_judges_over_captions_that_none_has_seen(tmp_path: Path, images: Path, models: Models, made: Path) -> None:
    """Also one whose scores depend on what comes together: the texts of a batch are those of captioning."""
    both = judge("b", "one"), judge("a"), judge("d", "drifting")
    caption_and_score(tmp_path / "out", images, *models, config(*both), HERE, scored=scored(made / "none"))
    assert table(tmp_path / "out").equals(table(made / "both"))
    assert metadata(tmp_path / "out") == metadata(made / "both")


@pytest.mark.usefixtures("no_captioner")
def test_a_judge_that_is_taken_away_leaves_the_others_scores(
    tmp_path: Path, images: Path, models: Models, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Judges, "ask", None)
    one = config(judge("a"), judge("d", "drifting"))
    caption_and_score(tmp_path / "one", images, *models, one, HERE, scored=scored(made / "both"))
    caption_and_score(tmp_path / "none", images, *models, config(), HERE, scored=scored(made / "both"))
    for name in ("one", "none"):
        assert table(tmp_path / name).equals(table(made / name))
        assert metadata(tmp_path / name) == metadata(made / name)


@pytest.mark.usefixtures("no_captioner")
def test_a_judge_that_is_another_now_is_asked_anew(tmp_path: Path, images: Path, models: Models, made: Path) -> None:
    calls = tmp_path / "calls"
    wanted = config(judge("b", "one", calls=str(calls)), judge("a", salt="other"), judge("d", "drifting"))
    caption_and_score(tmp_path / "out", images, *models, wanted, HERE, scored=scored(made / "both"))
    assert not asked(calls)
    for row, before in zip(table(tmp_path / "out").to_pylist(), table(made / "both").to_pylist(), strict=True):
        now, was = dict(row.pop("scores") or {}), dict(before.pop("scores") or {})
        assert row == before
        assert list(now) == list(was)
        assert [name for name in now if now[name] != was[name]] == (["a_first", "a_second"] if now else [])


@pytest.mark.usefixtures("no_captioner")
def test_a_run_that_broke_off_goes_on_with_the_next_block(
    tmp_path: Path, images: Path, models: Models, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = tmp_path / "calls"
    wanted = config(judge("b", "one", calls=str(calls)), judge("a"), judge("d", "drifting"))
    ask, pieces = Judges.ask, []

    def dies_in_the_second_block(self: Judges, *arguments: Any) -> None:
        pieces.append(arguments)
        if len(pieces) == 4:
            raise RunFailed("gone")
        ask(self, *arguments)

    monkeypatch.setattr(Judges, "ask", dies_in_the_second_block)
    with pytest.raises(RunFailed, match="gone"):
        caption_and_score(tmp_path / "out", images, *models, wanted, HERE, scored=scored(made / "one"))
    assert [one.name for one in (tmp_path / "out" / BLOCKS).glob("*.parquet")] == ["part-00000-000000.parquet"]
    before = sum(asked(calls))
    monkeypatch.setattr(Judges, "ask", ask)
    caption_and_score(tmp_path / "out", images, *models, wanted, HERE, scored=scored(made / "one"))
    assert table(tmp_path / "out").equals(table(made / "both"))
    again = sum(asked(calls)) - sum(bool(row["scores"]) for row in table(made / "both").to_pylist())
    assert 0 <= again < before  # what was asked of the block that broke off


@pytest.mark.usefixtures("no_captioner")
def test_with_care_the_same_is_made(tmp_path: Path, images: Path, made: Path) -> None:
    wanted = config(judge("b", "one"), judge("a"), judge("d", "drifting"))
    todo = Todo.of(parquet_files(images), tmp_path, KnownParts(), scored=scored(made / "one"))
    assert len([*RejudgedBlocks(wanted, carefully=True, tally=Tally())(todo)]) == 3
    assert table(tmp_path).equals(table(made / "both"))


@pytest.mark.usefixtures("no_captioner")
def test_a_picture_that_kills_the_judge_has_no_score_of_it(tmp_path: Path, images: Path, made: Path) -> None:
    word = table(made / "one")["caption"][0].as_py().split()[-1]
    wanted = config(judge("b", "one", kills=word), judge("a"), judge("d", "drifting"))
    todo = Todo.of(parquet_files(images)[:1], tmp_path, KnownParts(), scored=scored(made / "one"))
    assert [*RejudgedBlocks(wanted, carefully=True, tally=Tally())(todo[:1])] == [todo[0]]
    rows = read_parquet(tmp_path / BLOCKS / "part-00000-000000.parquet").to_pylist()
    lacking = [dict(row["scores_lacking"] or {}) for row in rows]
    assert lacking == [{"b": "judge_failed"}] * 2 + [{}] * (len(rows) - 2)
    assert all("a_first" in dict(row["scores"]) for row in rows)


@pytest.mark.ray
def test_actors_judge_as_this_process_does(
    tmp_path: Path, images: Path, models: Models, made: Path, ray_config: RayConfig
) -> None:
    """A judge that is the filter itself says what the filter has said."""
    wanted = config(judge("second", "blip_itm", checkpoint=str(models[1])))
    caption_and_score(tmp_path, images, *models, wanted, ray_config, scored=scored(made / "none"))
    names = ["scores", "scores_lacking"]
    assert table(tmp_path).drop_columns(names).equals(table(made / "none").drop_columns(names))
    for row in table(tmp_path).to_pylist():
        known = {} if row["itm_score"] is None else {"second": pytest.approx(row["itm_score"], abs=1e-5)}
        assert dict(row["scores"] or {}) == known
    assert [one["name"] for one in json.loads(metadata(tmp_path)[0][b"judges"])] == ["second"]
