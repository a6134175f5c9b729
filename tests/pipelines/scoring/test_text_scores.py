"""Scores beside the filter's, each by reference maths: likelihood, lift, captioner ITC, distinctness."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
import torch.nn.functional as F

from blip_bootstrap.config import CaptionConfig, SamplerConfig
from blip_bootstrap.schemas.text_columns import SCORES
from blip_bootstrap.storage.parquet import read_parquet
from blip_pipelines.caption.worker import CaptionWorker
from blip_pipelines.scoring.compare import Part, _calls
from blip_pipelines.scoring.references import Reference, first_readable, pick_references
from blip_training.checkpoint.store import load_med, save_med
from blip_training.data.pixels import decode_pixels
from blip_training.data.tokenizer import Tokenizer
from blip_training.model.med import Med

Models = tuple[Path, Path]
CONFIG = CaptionConfig(
    candidates=2, device="cpu", seed=7, references=6, lift_references=3, prompt="a", sampler=SamplerConfig(max_tokens=9)
)
NUM_IMAGES, DAMAGED = 30, (2,)
NAMES = ["logprob", *(column.name for column in SCORES)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_images: Callable[..., Path]) -> Path:
    return make_images(tmp_path_factory.mktemp("images"), NUM_IMAGES, NUM_IMAGES, damaged=DAMAGED)


@pytest.fixture(scope="module")
def images(folder: Path) -> pa.Table:
    return read_parquet(folder / "part-00000.parquet")


@pytest.fixture(scope="module")
def references(folder: Path) -> list[Reference]:
    return pick_references(folder, CONFIG.references)


@pytest.fixture(scope="module")
def captions(images: pa.Table, models: Models, references: list[Reference]) -> list[dict[str, Any]]:
    return rows_of(CaptionWorker(*models, CONFIG, references=references), images)


def config_with(**settings: Any) -> CaptionConfig:
    return CaptionConfig.model_validate(CONFIG.model_dump() | settings)


def rows_of(worker: CaptionWorker, images: pa.Table) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = worker(images).to_pylist()
    return found


def pictures_of(images: pa.Table) -> dict[str, bytes]:
    return dict(zip(images["key"].to_pylist(), images["jpg"].to_pylist(), strict=True))


def states_of(med: Med, jpg: bytes) -> torch.Tensor:
    return med.encode_image(decode_pixels(jpg, med.config.vision.image_size, "test")[None])


def likelihood(med: Med, tokenizer: Tokenizer, states: torch.Tensor, text: str, prompt: str) -> tuple[float, int]:
    """Log p(text [SEP] | picture) and the number of its tokens, one text at a time, over the whole vocabulary."""
    given, own = tokenizer.piece_ids(prompt), tokenizer.piece_ids(text)
    pieces = [*given, *own][: med.config.text.max_tokens - 2]
    ids = torch.tensor([[tokenizer.dec_id, *pieces, tokenizer.sep_id]])
    logs = F.log_softmax(med.decode(states, ids, torch.ones_like(ids)).float(), dim=-1)[0]
    counted = range(1 + len(given), ids.shape[1])
    return sum(float(logs[at - 1, ids[0, at]]) for at in counted), len(counted)


def cosine(med: Med, tokenizer: Tokenizer, states: torch.Tensor, text: str) -> float:
    ids, mask = tokenizer.encode([text], med.config.text.max_tokens)
    return float((med.embed_image(states) * med.embed_text(ids, mask)).sum())


def beside(key: str, references: list[Reference]) -> list[Reference]:
    return [one for one in references if one.key != key][: CONFIG.references]


def ended(row: dict[str, Any]) -> bool:
    return bool(row["caption"]) and "cut_at_max_length" not in row["flags"] and row["itm_score"] is not None


def test_likelihoods_are_the_first_captioners(captions: list[dict[str, Any]], images: pa.Table, models: Models) -> None:
    """A web text's, and a synthetic one's where its letters are cut into the pieces that were drawn."""
    med, tokenizer = load_med(models[0])
    jpg, num_web = pictures_of(images), 0
    with torch.inference_mode():
        for row in filter(ended, captions):
            found, num_tokens = likelihood(med, tokenizer, states_of(med, jpg[row["key"]]), row["caption"], "a")
            if row["source"] == "web" or num_tokens == row["num_tokens"]:
                assert row["logprob"] == pytest.approx(found, abs=1e-3)
                assert row["logprob_per_token"] == pytest.approx(found / num_tokens, abs=1e-3)
                num_web += row["source"] == "web"
    assert num_web == NUM_IMAGES * 9 // 10 - len(DAMAGED)


def test_lift_is_what_the_picture_adds(
    captions: list[dict[str, Any]], images: pa.Table, models: Models, references: list[Reference]
) -> None:
    captioner, filter = load_med(models[0]), load_med(models[1])
    jpg, checked = pictures_of(images), 0
    with torch.inference_mode():
        for row in [row for row in captions if row["source"] == "web" and ended(row)]:
            near = beside(row["key"], references)
            near.sort(key=lambda one: -cosine(*filter, states_of(filter[0], one.jpg), row["caption"]))
            pictures = [jpg[row["key"]], *(one.jpg for one in near[: CONFIG.lift_references])]
            own, *others = (
                likelihood(*captioner, states_of(captioner[0], p), row["caption"], "a")[0] for p in pictures
            )
            assert row["lift"] == pytest.approx(own - np.mean(others), abs=2e-3)
            checked += 1
    assert checked == NUM_IMAGES * 9 // 10 - len(DAMAGED)


def test_synthetic_texts_are_lifted_token_by_token(images: pa.Table, models: Models) -> None:
    """With the own picture, under another key, as the one reference: nothing is added, whatever the tokens were."""
    some = images.filter(pc.equal(images["status"], "success")).slice(0, 1)
    twins = [Reference("twin", some["jpg"][0].as_py())]
    worker = CaptionWorker(*models, config_with(candidates=8, sampler={"max_tokens": 6}), references=twins)
    rows = rows_of(worker, some)
    assert {"cut_at_max_length"} < {flag for row in rows for flag in row["flags"]} | {"ended"}
    for row in rows:
        assert row["lift"] == pytest.approx(0, abs=1e-3)
        assert row["distinctness"] == 0.5


def test_distinctness_and_the_captioners_itc(
    captions: list[dict[str, Any]], images: pa.Table, models: Models, references: list[Reference]
) -> None:
    captioner, filter = load_med(models[0]), load_med(models[1])
    jpg = pictures_of(images)
    with torch.inference_mode():
        for row in [row for row in captions if row["itm_score"] is not None]:
            own = cosine(*filter, states_of(filter[0], jpg[row["key"]]), row["caption"])
            others = beside(row["key"], references)
            below = [cosine(*filter, states_of(filter[0], one.jpg), row["caption"]) < own for one in others]
            assert len(below) == CONFIG.references
            assert row["distinctness"] == pytest.approx(np.mean(below))
            own = cosine(*captioner, states_of(captioner[0], jpg[row["key"]]), row["caption"])
            assert row["captioner_itc"] == pytest.approx(own, abs=1e-5)


def test_texts_that_are_not_read_have_none_of_them(
    images: pa.Table, models: Models, references: list[Reference]
) -> None:
    some = images.slice(0, 4)
    odd = some.set_column(some.schema.get_field_index("caption"), "caption", pa.array(["a dog", " ", "a", "a dog"]))
    at = odd.schema.get_field_index("cut_from_chars")
    odd = odd.set_column(at, "cut_from_chars", pa.array([None, None, None, 5_000_000], pa.int64()))
    web = [row for row in rows_of(CaptionWorker(*models, CONFIG, references=references), odd) if row["source"] == "web"]
    assert [[row[name] is None for name in NAMES] for row in web] == [[False] * 6, [True] * 6, [True] * 6, [True] * 6]


def test_a_long_text_is_cut_where_the_captioner_is(images: pa.Table, models: Models) -> None:
    med, tokenizer = load_med(models[0])
    long = "dog " * 200
    some = images.slice(0, 1).set_column(images.schema.get_field_index("caption"), "caption", pa.array([long]))
    row = rows_of(CaptionWorker(*models, CONFIG), some)[0]
    with torch.inference_mode():
        found, count = likelihood(med, tokenizer, states_of(med, some["jpg"][0].as_py()), long, "a")
    assert count == med.config.text.max_tokens - 2
    assert (row["logprob"], row["logprob_per_token"]) == (
        pytest.approx(found, rel=1e-4), pytest.approx(found / count, rel=1e-4),
    )  # fmt: skip
    assert (row["lift"], row["distinctness"]) == (None, None), "no references"


@pytest.mark.parametrize(
    ("settings", "without"),
    [
        ({"web_logprob": False}, {"logprob", "logprob_per_token", "lift"}),
        ({"lift_references": 0}, {"lift"}),
        ({"references": 0}, {"lift", "distinctness"}),
        ({"candidates": 1, "lift_references": 99}, set()),
    ],
)
def test_settings_that_leave_some_out(
    images: pa.Table, models: Models, references: list[Reference], settings: dict[str, Any], without: set[str]
) -> None:
    row = rows_of(CaptionWorker(*models, config_with(**settings), references=references), images.slice(0, 1))[0]
    assert {name for name in NAMES if row[name] is None} == without


def test_models_without_itc(images: pa.Table, models: Models, references: list[Reference], tmp_path: Path) -> None:
    """Lift then compares with the first references."""
    names = []
    for name, source, holds in (("captioner", models[0], "decode"), ("filter", models[1], "match")):
        save_med(tmp_path / name, *load_med(source), holds=(holds,))
        names.append(tmp_path / name)
    some = images.slice(0, 3)
    rows = rows_of(CaptionWorker(names[0], names[1], CONFIG, references=references), some)
    captioner = load_med(models[0])
    assert {(row["captioner_itc"], row["distinctness"]) for row in rows} == {(None, None)}
    with torch.inference_mode():
        for row in [row for row in rows if row["source"] == "web" and row["lift"] is not None]:
            pictures = [one.jpg for one in beside(row["key"], references)[: CONFIG.lift_references]]
            others = [likelihood(*captioner, states_of(captioner[0], p), row["caption"], "a")[0] for p in pictures]
            assert row["lift"] == pytest.approx(row["logprob"] - np.mean(others), abs=2e-3)


def test_a_text_is_judged_by_the_captioner_that_wrote_it(
    images: pa.Table, models: Models, references: list[Reference], make_model: Callable[..., Path], tmp_path: Path
) -> None:
    other, some = make_model(tmp_path / "other", 40, seed=2), images.slice(0, 5)
    both = rows_of(CaptionWorker(*models, config_with(captioners=[str(other)]), references=references), some)
    alone = rows_of(CaptionWorker(other, models[1], config_with(candidates=4), references=references), some)
    written = {(row["key"], row["candidate"]): row for row in alone if row["source"] == "synthetic"}
    for row in both:
        if row["source"] == "synthetic" and row["candidate"] >= 2:
            same = written[row["key"], row["candidate"]]
            for name in ("logprob", "logprob_per_token", "lift", "captioner_itc", "distinctness"):
                assert row[name] == pytest.approx(same[name], abs=1e-4)


def test_scores_depend_on_no_batch_lane_or_order(
    images: pa.Table, models: Models, references: list[Reference], captions: list[dict[str, Any]]
) -> None:
    by_key = {(row["key"], row["source"], row["candidate"]): row for row in captions}
    for size, lanes, rows in ((1, 1, images), (7, 3, images), (64, 2, images.take(list(range(NUM_IMAGES))[::-1]))):
        worker = CaptionWorker(*models, config_with(batch_size=size), 1, lanes, references)
        found = rows_of(worker, rows)
        assert len(found) == len(captions)
        for row in found:
            for name in NAMES:
                expected = by_key[row["key"], row["source"], row["candidate"]][name]
                assert row[name] == (None if expected is None else pytest.approx(expected, abs=1e-3))


def test_references_are_the_first_readable_pictures(folder: Path, images: pa.Table) -> None:
    rows = images.to_pylist()
    readable = [row["key"] for i, row in enumerate(rows) if row["status"] == "success" and i not in DAMAGED]
    assert [one.key for one in pick_references(folder, 4)] == readable[:5]
    assert pick_references(folder, 0) == []
    assert [one.key for one in pick_references(folder, 1000)] == readable
    assert first_readable([], 4) == []


def test_a_folder_of_one_picture_has_nothing_to_compare_with(
    images: pa.Table, models: Models, references: list[Reference]
) -> None:
    row = rows_of(CaptionWorker(*models, CONFIG, references=references[:1]), images.slice(1, 1))
    assert row[0]["key"] != references[0].key
    own = images.filter(pc.equal(images["key"], references[0].key))
    assert {(row["lift"], row["distinctness"]) for row in rows_of(
        CaptionWorker(*models, CONFIG, references=references[:1]), own
    )} == {(None, None)}  # fmt: skip


def test_texts_are_read_beside_a_reference_without_much_padding() -> None:
    """Another call costs as much as 80 tokens; 32 texts are the most, so that their logits fit."""
    texts = [(1,) * 100, (2,) * 30, (3,) * 9, (3,) * 8]
    calls = list(_calls({(0, text) for text in texts}, "cpu"))
    assert calls == [[Part(0, tuple(texts[:2])), Part(0, tuple(texts[2:]))]]
    many: set[tuple[int, tuple[int, ...]]] = {(place, (i, i)) for place in range(3) for i in range(40)}
    assert [[len(part.texts) for part in call] for call in _calls(many, "cuda")] == [[32, 32, 32, 8, 8, 8]]


def test_given_texts_are_judged_as_web_texts_are(
    images: pa.Table, models: Models, references: list[Reference], captions: list[dict[str, Any]]
) -> None:
    by_key = {(row["key"], row["source"], row["candidate"]): row for row in captions}
    given = [[row["caption"], "", " a  dog "] if i % 2 else [] for i, row in enumerate(images.to_pylist())]
    asked = images.select(["key", "status", "jpg"]).append_column("texts", pa.array(given, pa.list_(pa.string())))
    worker = CaptionWorker(*models, CONFIG, references=references)
    found = worker.judge(asked)
    places = {key: i for i, key in enumerate(images["key"].to_pylist())}
    counts = [len(given[places[row["key"]]]) if row["source"] == "web" else 1 for row in captions]
    assert len(found) == sum(counts)
    for row in found.to_pylist():
        if row["source"] == "synthetic" or row["candidate"] == 0:
            same = by_key[row["key"], row["source"], row["candidate"]]
            assert (row["caption"], row["seed"]) == (same["caption"], same["seed"])
            for name in (*NAMES, "itm_score", "itc_score"):
                assert row[name] == (None if same[name] is None else pytest.approx(same[name], abs=1e-3))
        else:
            assert row["caption"] == ["", "a dog"][row["candidate"] - 1]
            assert (row["logprob"] is None) == (row["candidate"] == 1 or places[row["key"]] in DAMAGED)


def test_a_judge_without_references_compares_with_the_given_pictures(
    images: pa.Table, models: Models, references: list[Reference]
) -> None:
    asked = images.select(["key", "status", "jpg"]).append_column("texts", pa.array([["a dog"]] * NUM_IMAGES))
    bare, whole = CaptionWorker(*models, CONFIG), CaptionWorker(*models, CONFIG, references=references)
    assert bare.judge(asked).equals(whole.judge(asked))
    assert {row["lift"] for row in rows_of(bare, images.slice(0, 3))} == {None}, "as before"


@pytest.mark.parametrize("num_references", [3, 7])
def test_pictures_of_another_set_may_have_the_keys_of_references(
    images: pa.Table, models: Models, references: list[Reference], num_references: int
) -> None:
    """Fewer references than asked for, or enough: a picture's own is the one with its bytes, whatever their keys."""
    few = references[:num_references]
    own, other = images.slice(0, 1), images.slice(20, 2)
    keys = [few[1].key, few[0].key, "of no image"]
    asked = pa.concat_tables([own, other]).select(["status", "jpg"]).append_column("key", pa.array(keys))
    asked = asked.append_column("texts", pa.array([["a dog", "two cats"]] * 3))
    worker = CaptionWorker(*models, CONFIG, references=few)
    compared = worker._compared.of_pictures(asked.to_pylist())
    places = list(range(num_references))
    assert few[0].jpg == own["jpg"][0].as_py()
    assert compared.beside(keys[0]) == places[1:]
    assert compared.beside(keys[1]) == compared.beside(keys[2]) == places[:6], "none is left out of 3"
    rows = worker.judge(asked).to_pylist()
    assert all(row["distinctness"] is not None and row["lift"] is not None for row in rows)
    alone = [row for at in range(3) for row in worker.judge(asked.slice(at, 1)).to_pylist()]
    for row, same in zip(rows, alone, strict=True):
        assert (row["distinctness"], row["lift"]) == pytest.approx((same["distinctness"], same["lift"]), abs=1e-3)


def test_equal_pictures_are_each_their_own(images: pa.Table, models: Models) -> None:
    twice = [Reference("a", b"1"), Reference("b", b"1"), Reference("c", b"2")]
    worker = CaptionWorker(*models, CONFIG, references=twice)
    rows = [{"key": key, "jpg": jpg} for key, jpg in (("b", b"1"), ("d", b"1"), ("c", b"1"), ("e", None))]
    found = worker._compared.of_pictures(rows)
    assert [found.beside(key) for key in ("b", "d", "c", "e")] == [[0, 2], [1, 2], [1, 2], [0, 1, 2]]
