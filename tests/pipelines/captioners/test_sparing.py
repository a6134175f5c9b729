"""Captions that are paid for where they are needed alone: `caption.when`, `until_passes` and `escalate_to`."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from blip_bootstrap.config import CaptionConfig, RayConfig, SamplerConfig
from blip_bootstrap.loop.check import check_passes
from blip_bootstrap.storage.manifest import KnownParts
from blip_bootstrap.storage.parquet import parquet_files, read_parquet
from blip_pipelines.caption.answers import KeptAnswers
from blip_pipelines.caption.careful import CarefulBlocks
from blip_pipelines.caption.sparing import passes
from blip_pipelines.caption.step import caption_and_score
from blip_pipelines.caption.todo import Todo
from blip_pipelines.caption.worker import CaptionWorker
from blip_pipelines.captioners.interface import Answer
from blip_pipelines.cluster.tally import Tally
from blip_pipelines.judges.registry import BUILT_IN
from blip_pipelines.scoring.references import Reference, pick_references
from blip_pipelines.scoring.rows import CaptionRow

Models = tuple[Path, Path]
Rows = list[dict[str, Any]]
HERE = RayConfig(address="none")
NUM_IMAGES, DAMAGED, K = 40, 5, 5
SAME = ("key", "source", "candidate", "caption", "num_tokens", "flags", "seed", "captioner", "prompt", "raw_caption")
CLOSE = ("logprob", "itm_score", "itc_score", "lift", "distinctness", "captioner_itc", "logprob_per_token")


def without_flags(patch: pytest.MonkeyPatch) -> None:
    """Random models hardly end a text: all would be flagged as cut, and none would pass."""
    patch.setattr("blip_training.decoding.generate._flags", lambda *_: ())


@pytest.fixture(autouse=True)
def _without_flags(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "with_care" not in request.node.name:  # whose child process has what it imports
        without_flags(monkeypatch)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, make_images: Callable[..., Path]) -> Path:
    return make_images(tmp_path_factory.mktemp("images"), NUM_IMAGES, 25, damaged=(DAMAGED,))


@pytest.fixture(scope="module")
def table(images: Path) -> pa.Table:
    return pa.concat_tables([read_parquet(part) for part in parquet_files(images)])


@pytest.fixture(scope="module")
def references(images: Path) -> list[Reference]:
    return pick_references(images, 6)


def config(**settings: Any) -> CaptionConfig:
    base = {"candidates": K, "device": "cpu", "seed": 7, "references": 6, "lift_references": 2, "prompt": "a"}
    return CaptionConfig.model_validate({**base, "sampler": SamplerConfig(max_tokens=9), **settings})


@pytest.fixture(scope="module")
def plain(table: pa.Table, models: Models, references: list[Reference]) -> Rows:
    with pytest.MonkeyPatch.context() as patch:
        without_flags(patch)
        found: Rows = CaptionWorker(*models, config(), references=references)(table).to_pylist()
    return found


@pytest.fixture(scope="module")
def rule(plain: Rows) -> dict[str, dict[str, float]]:
    """Two of five web texts pass, and one of three others."""
    scores = {source: sorted(r["itm_score"] for r in plain if r["source"] == source and r["itm_score"] is not None)
              for source in ("web", "synthetic")}  # fmt: skip
    return {
        "web": {"itm": statistics.quantiles(scores["web"], n=5)[2]},
        "synthetic": {"itm": statistics.quantiles(scores["synthetic"], n=3)[1]},
    }


def of_pictures(rows: Rows) -> list[Rows]:
    return [[*of_one] for _, of_one in groupby(rows, key=lambda row: row["key"])]


def does_pass(row: dict[str, Any], rule: dict[str, dict[str, float]]) -> bool:
    score = row["itm_score"]
    return not row["flags"] and score is not None and bool(np.float32(score) >= np.float32(rule[row["source"]]["itm"]))


def first_ones(of_one: Rows, rule: dict[str, dict[str, float]], when: str, until: bool) -> Rows:
    """What of a picture's texts in a plain run is drawn by these settings."""
    web, drawn = of_one[0], of_one[1:]
    if when == "web_fails" and does_pass(web, rule):
        return [web]
    place = next((at for at, row in enumerate(drawn) if does_pass(row, rule)), len(drawn))
    return [web, *(drawn[: place + 1] if until else drawn)]


@pytest.mark.parametrize("batch_size", [1, 7, 64])
@pytest.mark.parametrize(("when", "until"), [("always", True), ("web_fails", False), ("web_fails", True)])
def test_what_is_drawn_are_the_first_rows_of_the_plain_run(
    table: pa.Table, models: Models, references: list[Reference], plain: Rows, rule: dict[str, dict[str, float]],
    when: str, until: bool, batch_size: int,
) -> None:  # fmt: skip
    given = config(when=when, until_passes=until, passes=rule, batch_size=batch_size)
    found = CaptionWorker(*models, given, references=references)(table).to_pylist()
    expected = [row for of_one in of_pictures(plain) for row in first_ones(of_one, rule, when, until)]
    assert [[row[name] for name in SAME] for row in found] == [[row[name] for name in SAME] for row in expected]
    for name in CLOSE:
        pairs = [(row[name], other[name]) for row, other in zip(found, expected, strict=True)]
        assert [one is None for one, _ in pairs] == [other is None for _, other in pairs]
        known = [(one, other) for one, other in pairs if other is not None]
        torch.testing.assert_close(*map(torch.tensor, zip(*known, strict=True)), rtol=1e-4, atol=1e-4)
    lengths = {len(of_one) for of_one in of_pictures(found)}
    assert 1 + K in lengths
    assert any(1 < one < 1 + K for one in lengths) == until, "it stops on the way"
    assert until or lengths == {1, 1 + K}
    for of_one in of_pictures(found):
        decoded = of_one[0]["itm_score"] is not None
        assert [row["spared"] for row in of_one] == [
            1 + K - len(of_one) if decoded else None, *([None] * (len(of_one) - 1)),
        ]  # fmt: skip
        assert all(0 < row["cost_completion_tokens"] <= 9 for row in of_one[1:])


def test_a_plain_run_has_neither_costs_nor_spared_texts(plain: Rows) -> None:
    assert {(row["spared"], row["cost_completion_tokens"]) for row in plain} == {(None, None)}


def test_a_copy_has_no_captions_here_either(table: pa.Table, models: Models, rule: dict[str, dict[str, float]]) -> None:
    row = table.slice(0, 1).to_pylist()[0]
    both = pa.Table.from_pylist([row, {**row, "key": "0000199999", "same_as": row["key"]}], schema=table.schema)
    given = config(until_passes=True, passes={"itm": 1.1})
    found = CaptionWorker(*models, given)(both).to_pylist()
    assert [(r["key"], r["source"], r["spared"]) for r in found if r["source"] == "web"] == [
        (row["key"], "web", 0), ("0000199999", "web", None),
    ]  # fmt: skip
    assert len(found) == 2 + K


def test_several_captioners_write_one_after_the_other(
    table: pa.Table, models: Models, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    """The second is asked where none of the first one's texts passes."""
    other = make_model(tmp_path / "other", 32, 5)
    both = {"candidates": 2, "captioners": [str(other)], "references": 0}
    plain = CaptionWorker(*models, config(**both))(table).to_pylist()
    least = statistics.median(r["itm_score"] for r in plain if r["source"] == "synthetic" and r["candidate"] < 2)
    rule = {"web": {"itm": 0.5}, "synthetic": {"itm": least}}
    found = CaptionWorker(*models, config(**both, until_passes=True, passes=rule))(table).to_pylist()
    expected = [row for of_one in of_pictures(plain) for row in first_ones(of_one, rule, "always", True)]
    assert [[row[name] for name in SAME] for row in found] == [[row[name] for name in SAME] for row in expected]
    drawn = {len(of_one) for of_one in of_pictures(found)}
    assert drawn & {2, 3}
    assert drawn & {4, 5}


def counted(rows: Rows) -> dict[str, int]:
    return {
        "images": sum(row["source"] == "web" for row in rows), "spared": sum(row["spared"] or 0 for row in rows),
        "synthetic": sum(row["source"] == "synthetic" for row in rows),
    }  # fmt: skip


def test_counts_say_what_was_spared_and_a_part_that_is_begun_gives_the_same_rows(
    tmp_path: Path, images: Path, models: Models, rule: dict[str, dict[str, float]]
) -> None:
    given = config(when="web_fails", until_passes=True, passes=rule)
    counts = caption_and_score(tmp_path / "one", images, *models, given, HERE)
    one = [read_parquet(part) for part in parquet_files(tmp_path / "one")]
    rows = [row for part in one for row in part.to_pylist()]
    assert {name: counts[name] for name in ("images", "spared", "synthetic")} == counted(rows)
    num_pictures = sum(row["source"] == "web" and row["itm_score"] is not None for row in rows)
    assert int(counts["spared"]) + int(counts["synthetic"]) == K * num_pictures
    told = json.loads(pq.read_schema(parquet_files(tmp_path / "one")[0]).metadata[b"sparing"])
    assert told == {"when": "web_fails", "until_passes": True, "escalate_to": None, "passes": rule}

    (tmp_path / "two").mkdir()
    os.link(tmp_path / "one" / "part-00000.parquet", tmp_path / "two" / "part-00000.parquet")  # the first was done
    again = caption_and_score(tmp_path / "two", images, *models, given, HERE)
    assert again == counts
    assert [read_parquet(part) for part in parquet_files(tmp_path / "two")] == one


WRITER = {"name": "dear", "kind": "sure", "prompts": {"long": "a", "short": "b"}, "candidates": 2}


@pytest.mark.usefixtures("registered")
def test_the_dearer_captioner_is_asked_last_and_where_nothing_passes(
    table: pa.Table, models: Models, plain: Rows, rule: dict[str, dict[str, float]], references: list[Reference],
    tmp_path: Path,
) -> None:  # fmt: skip
    calls = tmp_path / "calls"
    given = config(
        writers=[{**WRITER, "options": {"calls": str(calls)}}], escalate_to="dear", passes=rule, until_passes=True
    )
    found = CaptionWorker(*models, given, references=references)(table).to_pylist()
    asked = {row["key"] for row in found if row["captioner"] == "dear"}
    for of_one in of_pictures(plain):
        own = [row for row in found if row["key"] == of_one[0]["key"] and row["captioner"] != "dear"]
        assert len(own) == len(first_ones(of_one, rule, "always", True))
        lacks = of_one[0]["itm_score"] is not None and not any(does_pass(row, rule) for row in of_one)
        assert (of_one[0]["key"] in asked) == lacks
    assert 0 < len(asked) < NUM_IMAGES * 9 // 10 - 1
    dear = [row for row in found if row["captioner"] == "dear"]
    assert sorted(calls.read_text().split()) == sorted(str(row["seed"]) for row in dear)
    first = [row for row in dear if row["key"] == min(asked)]
    assert [row["candidate"] for row in first] == [K + at for at in range(len(first))]


@pytest.mark.usefixtures("registered")
def test_a_killed_block_draws_the_same_and_asks_for_nothing_twice(tmp_path: Path, images: Path, models: Models) -> None:
    calls = tmp_path / "calls"
    writer = {**WRITER, "options": {"calls": str(calls)}}
    given = config(writers=[writer], own_writer=False, until_passes=True, passes={"itm": 0.5}, references=0)
    caption_and_score(tmp_path / "one", images, None, models[1], given, HERE)
    expected = read_parquet(tmp_path / "one" / "part-00000.parquet")
    block = Todo.of(parquet_files(images)[:1], tmp_path / "out", KnownParts())[0]
    written = [row for row in expected.to_pylist() if row["prompt"]]
    half = {row["key"] for row in written[: len(written) // 2]}
    numbers: dict[tuple[str, str], int] = {}
    for row in (row for row in written if row["key"] in half):
        of = row["key"], row["prompt"]
        numbers[of] = numbers.get(of, -1) + 1
        answer = Answer(row["raw_caption"], 4, -2.0, cost={"requests": 1, "prompt_tokens": 7})
        KeptAnswers.beside(Path(block.output)).add({row["key"]: {f"dear/{row['prompt']}/{numbers[of]}": answer}})
    calls.unlink()
    caption_and_score(tmp_path / "out", images, None, models[1], given, HERE)
    assert read_parquet(tmp_path / "out" / "part-00000.parquet") == expected
    asked = calls.read_text().split()
    seeds = {str(row["seed"]) for row in written if row["key"] in half}
    assert not seeds & {*asked}
    assert len(asked) == len({*asked})


@pytest.mark.usefixtures("registered")
def test_a_text_that_was_paid_for_stays_when_one_before_it_is_asked_for_again(
    tmp_path: Path, images: Path, models: Models
) -> None:
    mended = tmp_path / "mended"
    options = {"fails": dict.fromkeys("0123456789", "rate_limited"), "mended": str(mended)}
    given = config(
        writers=[{**WRITER, "options": options}], own_writer=False, until_passes=True, passes={"itm": 0}, references=0
    )
    caption_and_score(tmp_path / "one", images, None, models[1], given, HERE)
    mended.touch()
    how: dict[str, Any] = {"kin": [tmp_path / "one"], "retry": "captions"}
    counts = caption_and_score(tmp_path / "two", images, None, models[1], given, HERE, **how)
    before, after = (
        [row for part in parquet_files(tmp_path / name) for row in read_parquet(part).to_pylist()]
        for name in ("one", "two")
    )
    assert [(row["key"], row["candidate"], row["seed"]) for row in before if row["caption"]] == [
        (row["key"], row["candidate"], row["seed"])
        for row in after
        if (row["key"], row["candidate"], row["source"]) in
        {(one["key"], one["candidate"], one["source"]) for one in before if one["caption"]}
    ]  # fmt: skip
    assert "rate_limited" not in counts
    assert all(row["caption"] for row in after)


def test_the_rule_in_the_precision_of_the_table() -> None:
    row = CaptionRow("1", "web", 0, "a dog", 3, itm_score=float(np.float32(0.7)), itc_score=0.2)
    assert passes(row, {"itm": 0.7})
    assert passes(row, {"itm": 0.7, "itc": 0.2})
    assert not passes(row, {"itm": 0.7, "itc": 0.21})
    assert not passes(row, {"lift": -100})  # it has none
    assert not passes(CaptionRow("1", "web", 0, "", 0, itm_score=0.9), {"itm": 0.5})
    assert not passes(CaptionRow("1", "synthetic", 0, "a", 2, ["repetition"], itm_score=0.9), {"itm": 0.5})
    row.scores = [("siglip", 0.25)]
    assert passes(row, {"siglip": 0.25, "itm": 0.5})
    assert not passes(row, {"siglip": 0.26})
    assert not passes(row, {"other": -1})


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"passes": {"itm": 0.5}}, []),
        ({"passes": {"imt": 0.5}}, ["caption.passes.web.imt: there is no such score; did you mean itm?",
                                   "caption.passes.synthetic.imt: there is no such score; did you mean itm?"]),
        ({"passes": {"synthetic": {"clip": 0.3}}},
         ["caption.passes.synthetic.clip: caption.scorer gives it, and none is set"]),
        ({"passes": {"web": {"distinctness": 0.9}}, "references": 0},
         ["caption.passes.web.distinctness: caption.references is 0, so that no text has it"]),
        ({"sampler": {"preset": "beam"}, "candidates": 2},
         ["caption.until_passes: beam search writes all candidates at once; use another sampler.preset"]),
    ],
)  # fmt: skip
def test_a_rule_that_nothing_can_pass_is_told_before_the_run(settings: dict[str, Any], told: list[str]) -> None:
    assert check_passes(config(until_passes=True, **settings)) == told
    assert check_passes(config(**settings)) == []


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"passes": {"itm": "x"}}, "web: itm must be a number"),
        ({"passes": {"itm": float("nan")}}, "web: itm must be a number"),
        ({"passes": {}}, "is the least score by some names"),
        ({"passes": {"web": {"itm": 1}, "itc": 2}}, "has rules of web and synthetic beside each other"),
        ({"passes": {"web": {}}}, "web: the least score by at least one name is needed"),
        ({"passes": {"agreement": 0.5}}, "agreement compares a text with all others"),
        ({"escalate_to": "dear"}, r"escalate_to: dear is none of caption.writers \(there are none\)"),
        ({"when": "never"}, "always"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        config(**settings)


def test_filter_checks_and_judging_spare_nothing(table: pa.Table, models: Models, references: list[Reference]) -> None:
    given = config(when="web_fails", until_passes=True, passes={"itm": 0})
    rows = table.filter(pa.compute.equal(table["status"], "success")).slice(0, 3)
    asked = rows.append_column("texts", pa.array([["a dog", "a cat"]] * 3))
    worker = CaptionWorker(*models, given, references=references)
    found = worker.judge(asked).to_pylist()
    assert [row["source"] for row in found] == [*(["web"] * 2), *(["synthetic"] * K)] * 3
    assert worker.config is given


def test_texts_pass_by_a_judge_that_is_plugged_in(
    table: pa.Table, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It then scores each text in its turn, once, and what it says is what a plain run has."""
    monkeypatch.setitem(BUILT_IN, "one", "tests.support.judges:One")
    judges = {"judges": [{"name": "fine", "kind": "one"}], "references": 0}
    rule = {"web": {"fine": 0.7}, "synthetic": {"fine": 0.7}}
    plain = CaptionWorker(*models, config(**judges))(table).to_pylist()
    given = config(**judges, when="web_fails", until_passes=True, passes=rule)
    found = CaptionWorker(*models, given)(table).to_pylist()
    assert check_passes(given) == []

    def stops(of_one: Rows) -> Rows:
        scores = [0 if row["flags"] else dict(row["scores"] or []).get("fine", 0) for row in of_one]
        place = next((at for at, score in enumerate(scores) if score >= 0.7), K)
        return of_one[: place + 1]

    expected = [row for of_one in of_pictures(plain) for row in stops(of_one)]
    names = (*SAME, "scores")
    assert [[row[name] for name in names] for row in found] == [[row[name] for name in names] for row in expected]
    assert {len(of_one) for of_one in of_pictures(found)} >= {1, 2, 3}


def test_with_care_the_same_texts_are_drawn(
    tmp_path: Path, images: Path, models: Models, rule: dict[str, dict[str, float]]
) -> None:
    given = config(when="web_fails", until_passes=True, passes=rule, references=0)
    expected = CaptionWorker(*models, given)(read_parquet(images / "part-00001.parquet"))
    block = Todo.of(parquet_files(images)[1:], tmp_path / "out", KnownParts())[0]
    blocks = CarefulBlocks(str(models[0]), str(models[1]), given, tally=Tally())
    assert [*blocks([block])] == [block]
    assert read_parquet(tmp_path / "out" / "part-00001.parquet") == expected
