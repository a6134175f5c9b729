"""The captioning step with captioners that are plugged in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blip_bootstrap.config import CaptionConfig, RayConfig, SamplerConfig
from blip_bootstrap.errors import InputError, RunFailed
from blip_bootstrap.storage.manifest import KnownParts
from blip_bootstrap.storage.parquet import parquet_files, read_parquet
from blip_pipelines.caption.answers import KeptAnswers
from blip_pipelines.caption.blocks import BLOCKS
from blip_pipelines.caption.careful import CarefulBlocks
from blip_pipelines.caption.step import caption_and_score
from blip_pipelines.caption.todo import Todo
from blip_pipelines.caption.worker import CaptionWorker
from blip_pipelines.captioners.interface import Answer
from blip_pipelines.captioners.prompts import seed_of_ask
from blip_pipelines.cluster.tally import Tally

Models = tuple[Path, Path]
HERE = RayConfig(address="none")
NUM_IMAGES, DAMAGED = 30, 5
PROMPTS: dict[str, Any] = {"short": "a", "page": {"text": "the page says {alt_text}", "candidates": 2}}

pytestmark = pytest.mark.usefixtures("registered")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, make_images: Callable[..., Path]) -> Path:
    return make_images(tmp_path_factory.mktemp("images"), NUM_IMAGES, 20, damaged=(DAMAGED,))


def config(own_writer: bool = True, references: int = 0, **writer: Any) -> CaptionConfig:
    one = {"name": "one", "kind": "sure", "prompts": PROMPTS, **writer}
    settings = {"device": "cpu", "batch_size": 4, "references": references, "sampler": SamplerConfig(max_tokens=8)}
    return CaptionConfig.model_validate({**settings, "own_writer": own_writer, "writers": [one]})


def rows(table: pa.Table, **where: Any) -> list[dict[str, Any]]:
    return [row for row in table.to_pylist() if all(row[name] == value for name, value in where.items())]


def made(folder: Path) -> pa.Table:
    return pa.concat_tables([read_parquet(part) for part in parquet_files(folder)])


def test_rows_of_a_writer_stand_beside_those_of_the_round(images: Path, models: Models) -> None:
    table = read_parquet(images / "part-00000.parquet")
    plain = CaptionWorker(*models, config().model_copy(update={"writers": ()}))(table)
    found = CaptionWorker(*models, config())(table)
    for row, other in zip(rows(found, prompt=None), plain.to_pylist(), strict=True):
        assert (row["caption"], row["seed"], row["captioner"]) == (other["caption"], other["seed"], other["captioner"])
        for score in ("itm_score", "itc_score", "logprob"):
            assert row[score] == pytest.approx(other[score], abs=1e-5)
    good = [row for i, row in enumerate(table.to_pylist()) if row["status"] == "success" and i != DAMAGED]
    for image in good:
        written = rows(found, key=image["key"], captioner="one")
        assert [(row["candidate"], row["prompt"]) for row in written] == [(1, "page"), (2, "page"), (3, "short")]
        assert [row["seed"] for row in written] == [
            seed_of_ask(0, image["key"], number, prompt) for number, prompt in [(0, "page"), (1, "page"), (0, "short")]
        ]
        for row in written:
            assert row["caption"] == row["raw_caption"].replace("The image shows a", "A")
            assert row["itm_score"] is not None
            assert (row["logprob"], row["logprob_per_token"], row["lift"]) == (-2.0, -0.5, None)
            assert (row["cost_requests"], row["cost_prompt_tokens"], row["cost_completion_tokens"]) == (1, 7, 4)
            assert (row["flags"], row["source"], row["agreement"] is not None) == ([], "synthetic", True)
    assert not rows(found, key=table["key"][DAMAGED].as_py(), captioner="one")


def test_the_alt_text_reaches_the_prompt_and_not_the_seed(images: Path, models: Models) -> None:
    table = read_parquet(images / "part-00000.parquet")
    other = table.set_column(table.column_names.index("caption"), "caption", pa.array(["other"] * len(table)))
    before, after = CaptionWorker(*models, config())(table), CaptionWorker(*models, config())(other)
    assert [row["seed"] for row in rows(before, prompt="page")] == [row["seed"] for row in rows(after, prompt="page")]
    texts = [[row["caption"] for row in rows(one, prompt="page")] for one in (before, after)]
    assert not set(texts[0]) & set(texts[1])
    assert [r["caption"] for r in rows(before, prompt="short")] == [r["caption"] for r in rows(after, prompt="short")]


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_rows_do_not_depend_on_batches_or_memory(images: Path, models: Models, batch_size: int) -> None:
    table = read_parquet(images / "part-00000.parquet")
    before = CaptionWorker(*models, config())(table)
    small = config(options={"at_most": 2}).model_copy(update={"batch_size": batch_size})
    after = CaptionWorker(*models, small)(table)
    assert [row["caption"] for row in after.to_pylist()] == [row["caption"] for row in before.to_pylist()]


def test_an_ask_that_fits_no_memory_is_a_row_with_its_reason(images: Path, models: Models) -> None:
    found = CaptionWorker(*models, config(options={"at_most": 0}))(read_parquet(images / "part-00001.parquet"))
    assert {(row["caption"], *row["flags"]) for row in rows(found, captioner="one")} == {("", "out_of_memory")}


def test_without_the_own_writer_there_is_no_captioner(tmp_path: Path, images: Path, models: Models) -> None:
    counts = caption_and_score(tmp_path, images, None, models[1], config(own_writer=False), HERE)
    found = made(tmp_path)
    num_images = NUM_IMAGES * 9 // 10
    assert (counts["web"], counts["synthetic"]) == (num_images, 3 * (num_images - 1))
    assert {row["captioner"] for row in rows(found, source="synthetic")} == {"one"}
    assert {row["candidate"] for row in rows(found, source="synthetic")} == {0, 1, 2}
    assert all(row["logprob"] is None for row in rows(found, source="web"))
    metadata = pq.read_schema(tmp_path / "part-00000.parquet").metadata
    assert b"captioner" not in metadata
    (told,) = json.loads(metadata[b"writers"])
    assert (told["name"], told["kind"], told["varies_with"], told["clean"]) == (
        "one", "sure", "nothing", "default, version 1",
    )  # fmt: skip
    assert told["prompts"]["page"]["text"] == "the page says {alt_text}"
    assert not list(tmp_path.rglob(".answers*"))


def test_texts_that_lack_are_asked_for_again_and_nothing_else_is(tmp_path: Path, images: Path, models: Models) -> None:
    """`--retry captions`: rows in are rows out, answered ones as they were, and asked once."""
    calls, mended = tmp_path / "calls", tmp_path / "mended"
    fails = {"0": "rate_limited", "1": "rate_limited", "2": "refused"}
    given = config(options={"calls": str(calls), "fails": fails, "mended": str(mended)})
    counts = caption_and_score(tmp_path / "first", images, *models, given, HERE)
    before = made(tmp_path / "first")
    lacking = [row for row in rows(before, captioner="one") if row["flags"]]
    assert int(counts["rate_limited"]) + int(counts["refused"]) == len(lacking) > 3
    assert {(row["caption"], row["itm_score"], row["cost_requests"]) for row in lacking} == {("", None, 1)}
    first = calls.read_text().split()
    mended.touch()
    calls.unlink()
    again = caption_and_score(
        tmp_path / "again", images, *models, given, HERE, kin=[tmp_path / "first"], retry="captions"
    )
    after = made(tmp_path / "again")
    assert sorted(calls.read_text().split()) == sorted(str(row["seed"]) for row in lacking)
    assert len(first) == len(rows(before, captioner="one"))
    assert (again["synthetic"], again["web"]) == (counts["synthetic"], counts["web"])
    assert not {"rate_limited", "refused"} & again.keys()
    seen = [(row["key"], row["source"], row["candidate"]) for row in before.to_pylist()]
    assert [(row["key"], row["source"], row["candidate"]) for row in after.to_pylist()] == seen
    whole = caption_and_score(tmp_path / "whole", images, *models, given, HERE)
    assert whole["synthetic"] == counts["synthetic"]
    expected = {(row["key"], row["candidate"]): row["cost_requests"] for row in rows(before, captioner="one")}
    for row, other in zip(after.to_pylist(), made(tmp_path / "whole").to_pylist(), strict=True):
        assert (row["caption"], row["raw_caption"], row["flags"]) == (
            other["caption"], other["raw_caption"], other["flags"],
        )  # fmt: skip
        if row["captioner"] == "one":
            was_lacking = any(one["key"] == row["key"] and one["candidate"] == row["candidate"] for one in lacking)
            assert row["cost_requests"] == expected[row["key"], row["candidate"]] + was_lacking


def test_one_reason_alone_is_asked_for_again(tmp_path: Path, images: Path, models: Models) -> None:
    given = config(options={"fails": {"0": "rate_limited", "2": "refused"}, "mended": str(tmp_path / "mended")})
    first = caption_and_score(tmp_path / "first", images, *models, given, HERE)
    (tmp_path / "mended").touch()
    how: dict[str, Any] = {"kin": [tmp_path / "first"], "retry": "captions:rate_limited"}
    again = caption_and_score(tmp_path / "again", images, *models, given, HERE, **how)
    assert first["rate_limited"]
    assert "rate_limited" not in again
    with pytest.raises(InputError, match="retry captions:nothing"):
        caption_and_score(tmp_path / "x", images, *models, given, HERE, **how | {"retry": "captions:nothing"})


def test_a_killed_block_asks_for_nothing_that_was_answered(tmp_path: Path, images: Path, models: Models) -> None:
    """What a killed worker has left beside its block is known to the next one, failed answers alone are asked again."""
    calls = tmp_path / "calls"
    given = config(options={"calls": str(calls)})
    expected = CaptionWorker(*models, config())(read_parquet(images / "part-00000.parquet"))
    block = Todo.of(parquet_files(images)[:1], tmp_path / "out", KnownParts())[0]
    keys = list(dict.fromkeys(row["key"] for row in rows(expected, captioner="one")))
    numbers = {"page": [0, 1], "short": [0]}
    answers: dict[str, dict[str, Answer]] = {}
    for key in keys[:6]:
        written = iter(rows(expected, key=key, captioner="one"))
        answers[key] = {
            f"one/{prompt}/{number}": Answer(row["raw_caption"], 4, -2.0, cost={"requests": 1, "prompt_tokens": 7})
            for prompt in ("page", "short") for number in numbers[prompt] for row in [next(written)]
        }  # fmt: skip
    answers[keys[0]]["one/short/0"] = Answer.failed("timeout", {"requests": 2})
    KeptAnswers.beside(Path(block.output)).add(answers)
    caption_and_score(tmp_path / "out", images, *models, given, HERE)
    found = read_parquet(tmp_path / "out" / "part-00000.parquet")
    asked = calls.read_text().split()
    assert len(asked) == 3 * (NUM_IMAGES * 9 // 10 - 1 - 6) + 1
    assert found.drop(["cost_requests"]) == expected.drop(["cost_requests"])
    assert rows(found, key=keys[0], prompt="short")[0]["cost_requests"] == 3
    assert not (tmp_path / "out" / BLOCKS).exists()


def test_with_care_the_same_is_made_and_nothing_asked_twice(tmp_path: Path, images: Path, models: Models) -> None:
    calls = tmp_path / "calls"
    given = config(options={"calls": str(calls)})
    expected = CaptionWorker(*models, config())(read_parquet(images / "part-00001.parquet"))
    block = Todo.of(parquet_files(images)[1:], tmp_path / "out", KnownParts())[0]
    blocks = CarefulBlocks(str(models[0]), str(models[1]), given, tally=Tally())
    assert [*blocks([block])] == [block]
    assert read_parquet(tmp_path / "out" / "part-00001.parquet") == expected
    assert len(calls.read_text().split()) == len(rows(expected, captioner="one"))


@pytest.mark.parametrize(
    ("fails", "ends"), [(dict.fromkeys("0123456789abcdef", "no_connection"), True),
                        (dict.fromkeys("0123456789abcdef", "refused"), False)],
)  # fmt: skip
def test_a_server_that_answers_nothing_ends_the_run(
    tmp_path: Path, images: Path, models: Models, fails: dict[str, str], ends: bool
) -> None:
    given = config(options={"fails": fails})
    if not ends:
        counts = caption_and_score(tmp_path, images, *models, given, HERE)
        assert counts["refused"] == 3 * (NUM_IMAGES * 9 // 10 - 1)
        return
    with pytest.raises(RunFailed, match=r"one \(sure\): none of its first \d+ asks was answered \(no_connection"):
        caption_and_score(tmp_path, images, *models, given, HERE)


@pytest.mark.ray
def test_actors_write_what_this_process_writes(
    tmp_path: Path, images: Path, models: Models, ray_config: RayConfig
) -> None:
    """Also where an actor finds the captioner through the packages that are installed for it."""
    prompts = {"short": "a picture of"}
    blip: dict[str, Any] = {"name": "one", "kind": "blip", "options": {"checkpoint": str(models[0]), "max_tokens": 8}}
    given = config(**blip, prompts=prompts)
    caption_and_score(tmp_path / "here", images, *models, given, HERE)
    caption_and_score(tmp_path / "ray", images, *models, given, ray_config)
    here, on_ray = (
        [{**row, "cost_seconds": 0} for row in made(tmp_path / name).to_pylist()] for name in ("here", "ray")
    )
    assert [row["caption"] for row in here] == [row["caption"] for row in on_ray]
