"""The captioning step with judges that are plugged in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from PIL import Image

from blip_bootstrap.config import CaptionConfig, JudgeConfig, RayConfig, SamplerConfig
from blip_bootstrap.errors import RunFailed
from blip_bootstrap.storage.parquet import parquet_files, read_parquet
from blip_pipelines.caption.judged import Asked
from blip_pipelines.caption.step import caption_and_score
from blip_pipelines.caption.worker import CaptionWorker
from blip_pipelines.scoring.rows import CaptionRow

Models = tuple[Path, Path]
NUM_IMAGES, DAMAGED = 12, 5

pytestmark = pytest.mark.usefixtures("registered")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, make_images: Callable[..., Path]) -> Path:
    return make_images(tmp_path_factory.mktemp("images"), NUM_IMAGES, 12, damaged=(DAMAGED,))


def config(*judges: dict[str, Any], batch_size: int = 4) -> CaptionConfig:
    settings = {"device": "cpu", "batch_size": batch_size, "references": 0, "sampler": SamplerConfig(max_tokens=8)}
    return CaptionConfig.model_validate({**settings, "judges": judges})


def judge(name: str, kind: str = "plain", **options: Any) -> dict[str, Any]:
    return {"name": name, "kind": kind, "options": options}


def scored(table: pa.Table) -> list[dict[str, float]]:
    return [dict(row["scores"] or {}) for row in table.to_pylist()]


def lacking(table: pa.Table) -> list[dict[str, str]]:
    return [dict(row["scores_lacking"] or {}) for row in table.to_pylist()]


def test_each_score_stands_under_its_name(images: Path, models: Models) -> None:
    table = read_parquet(images / "part-00000.parquet")
    plain = CaptionWorker(*models, config())(table)
    worker = CaptionWorker(*models, config(judge("a"), judge("b", "one", salt="b")))
    found = worker(table)
    names = ["scores", "scores_lacking"]
    assert found.drop_columns(names).equals(plain.drop_columns(names))
    assert scored(plain) == [{}] * len(plain)
    for row, scores in zip(found.to_pylist(), scored(found), strict=True):
        read = row["itm_score"] is not None
        assert set(scores) == ({"a_first", "a_second", "b"} if read else set())
        assert row["scores_lacking"] is None
    assert len({scores["b"] for scores in scored(found) if scores}) > 5
    told = json.loads(worker.metadata["judges"])
    assert [one["scores"] for one in told] == [["a_first", "a_second"], ["b"]]
    assert {one["varies_with"] for one in told} == {"nothing"}
    assert "judges" not in CaptionWorker(*models, config()).metadata


@pytest.mark.parametrize("batch_size", [1, 12])
def test_scores_are_the_same_at_any_batch_size_and_order(images: Path, models: Models, batch_size: int) -> None:
    table = read_parquet(images / "part-00000.parquet")
    expected = CaptionWorker(*models, config(judge("a")))(table)
    turned = table.take(list(range(len(table) - 1, -1, -1)))
    found = CaptionWorker(*models, config(judge("a"), batch_size=batch_size))(turned)

    def by_text(some: pa.Table) -> dict[tuple[Any, ...], Any]:
        return {(r["key"], r["source"], r["candidate"]): r["scores"] for r in some.to_pylist()}

    assert by_text(found) == by_text(expected)


def test_a_text_without_a_score_has_its_reason_and_costs_no_other(images: Path, models: Models) -> None:
    table = read_parquet(images / "part-00000.parquet")
    texts = [row["caption"] for row in table.to_pylist()]
    table = table.set_column(
        table.column_names.index("caption"), "caption", [[f"{word} {at}" for at, word in enumerate(
            ["refuse", "boom", "silent", *["fine"] * (len(texts) - 3)])]],
    )  # fmt: skip
    expected = scored(CaptionWorker(*models, config(judge("a")))(table))
    found = CaptionWorker(
        *models, config(judge("a", fails={"refuse": "refused", "silent": ""}, raises="boom"))
    )(table)  # fmt: skip
    web = [at for at, row in enumerate(found.to_pylist()) if row["source"] == "web"]
    told = lacking(found)
    assert [told[at] for at in web[:4]] == [
        dict.fromkeys(("a_first", "a_second"), reason) for reason in ("refused", "judge_failed", "not_judged")
    ] + [{}]
    assert [not one for one in told] == [at not in web[:3] for at in range(len(told))]
    for at, (one, other) in enumerate(zip(scored(found), expected, strict=True)):
        assert one == ({} if at in web[:3] else other)


def test_it_is_asked_in_halves_where_memory_runs_out(images: Path, models: Models, tmp_path: Path) -> None:
    table = read_parquet(images / "part-00000.parquet")
    calls = tmp_path / "calls"
    expected = CaptionWorker(*models, config(judge("a")))(table)
    found = CaptionWorker(*models, config(judge("a", at_most=3, calls=str(calls))))(table)
    assert found.equals(expected)
    sizes = [int(line) for line in calls.read_text().split()]
    assert sizes[:3] == [8, 4, 2]
    assert max(sizes[3:]) == 2  # and so from then on


def test_a_judge_that_scores_nothing_ends_the_run() -> None:
    asked = Asked(JudgeConfig(name="a", kind="plain", options={"fails": {"thing": "timeout"}}))
    pairs = [(Image.new("RGB", (8, 8)), f"a thing {at}") for at in range(32)]
    rows = [CaptionRow(f"{at}", "web", 0, text, 3) for at, (_, text) in enumerate(pairs)]
    asked.set_scores(rows, pairs, "cpu", "float32")
    with pytest.raises(RunFailed, match=r"a \(plain\): it scored none of its first 64 texts \(timeout 64\); what was"):
        asked.set_scores(rows, pairs, "cpu", "float32")
    broken = Asked(JudgeConfig(name="b", kind="plain", options={"raises": "thing"}))
    with pytest.raises(RunFailed, match=r"judge_failed 64\), lastly ValueError: a picture of one pixel; what"):
        broken.set_scores(rows * 2, pairs * 2, "cpu", "float32")
    # One that scored before goes on, and where pictures or the budget are to blame, too.
    spent = Asked(JudgeConfig(name="c", kind="plain", options={"fails": {"thing": "over_budget"}}))
    spent.set_scores(rows * 3, pairs * 3, "cpu", "float32")
    assert rows[0].scores_lacking is not None
    assert ("c_first", "over_budget") in rows[0].scores_lacking


def test_a_judge_that_breaks_its_contract_ends_the_run() -> None:
    asked = Asked(JudgeConfig(name="a", kind="plain", options={"fails": {"thing": "tired"}}))
    with pytest.raises(RunFailed, match="its error 'tired' is none of"):
        asked.set_scores(
            [CaptionRow("1", "web", 0, "thing", 1)], [(Image.new("RGB", (8, 8)), "thing")], "cpu", "float32"
        )


def test_a_step_writes_them_and_duckdb_reads_them(images: Path, models: Models, tmp_path: Path) -> None:
    out = tmp_path / "captions"
    caption_and_score(out, images, *models, config(judge("a"), judge("b", "one")), RayConfig(address="none"))
    files = parquet_files(out)
    rows = pa.concat_tables([read_parquet(file) for file in files])
    with duckdb.connect() as connection:
        names = "scores['a_first'], scores['b'], scores['none']"
        found = connection.execute(f"SELECT {names} FROM read_parquet('{out}/*.parquet')").fetchall()
    assert found == [(one.get("a_first"), one.get("b"), None) for one in scored(rows)]
    assert json.loads(rows.schema.metadata[b"judges"])[0]["name"] == "a"
