"""The step that scores texts known to be right or wrong."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from blip_bootstrap.config import CaptionConfig, CheckFilterConfig, RayConfig, check_filter_config, load_config
from blip_bootstrap.config.filter_check import Untrained
from blip_bootstrap.errors import InputError
from blip_bootstrap.loop.layout import Layout
from blip_bootstrap.schemas import tables
from blip_bootstrap.storage import parquet
from blip_pipelines.caption import worker
from blip_pipelines.check.pictures import choose_pictures, other_texts
from blip_pipelines.check.step import check_filter
from tests.support.tiny_pipeline import encode

HERE = RayConfig(address="none")
COLOURS = ("red", "blue", "green")


def write_set(folder: Path, num: int, captions: int = 2) -> Path:
    empty = dict.fromkeys(tables.ANNOTATED.schema.names)
    rows = [
        empty | {
            "key": f"{at:010d}", "name": f"{folder.name}-{at}.jpg", "status": "success", "jpg": encode(at),
            "captions": [f"a {COLOURS[at % 3]} dog {at // 3}", f"the {COLOURS[at % 3]}  dog"][:captions],
        }
        for at in range(num)
    ]  # fmt: skip
    rows += [
        empty | {"key": "x", "status": "failed_to_resize", "captions": ["lost"]},
        empty | {"key": "y", "status": "success", "jpg": encode(1), "captions": [" "]},
        empty | {"key": "z", "status": "success", "jpg": encode(1)},
    ]
    data = parquet.rows_to_table(rows, tables.ANNOTATED)
    parquet.write_parquet(folder / "part-00000.parquet", data, tables.ANNOTATED)
    return folder


def settings(untrained: Untrained = "none", **more: Any) -> CheckFilterConfig:
    caption = CaptionConfig(device="cpu", candidates=2, references=40, lift_references=2)
    return CheckFilterConfig(caption=caption, untrained=untrained, **more)


def test_the_texts_of_a_few_pictures(
    make_images: Callable[..., Path], models: tuple[Path, Path], tmp_path: Path
) -> None:
    images, held_out = make_images(tmp_path / "images", 30, 30), write_set(tmp_path / "held_out", 20)

    def run(out: str, **more: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        step = check_filter(tmp_path / out, images, *models, None, held_out, config=settings(**more), ray=HERE)
        return dict(step), parquet.read_parquet(tmp_path / out / "part-00000.parquet").to_pylist()

    counts, rows = run("out", pictures=12)
    assert parquet.read_parquet(tmp_path / "out/part-00000.parquet").schema.equals(tables.FILTER_CHECK.schema)
    assert (counts["pictures"], counts["set"], counts["trained_on"]) == (12, "held_out", 0)
    assert Counter((row["kind"], row["source"]) for row in rows) == {
        ("human", "web"): 12, ("other", "web"): 12, ("synthetic", "synthetic"): 24,
    }  # fmt: skip
    assert {row["kind"]: row["fits"] for row in rows if row["kind"] != "synthetic"} == {"human": True, "other": False}
    assert all(0 <= row["itm_score"] <= 1 and row["logprob"] < 0 for row in rows)
    assert all(row["name"] == f"held_out-{int(row['key'])}.jpg" for row in rows)
    for row in rows:
        if row["kind"] == "synthetic":
            assert row["fits"] == (row["human_agreement"] > counts["least_agreement"] - 1e-4)
    assert run("again", pictures=12) == (counts, rows)
    assert {row["key"] for row in run("other", pictures=12, seed=1)[1]} != {row["key"] for row in rows}


@pytest.mark.usefixtures("registered_judges")
def test_a_judge_that_comes_later_alone_is_asked(
    make_images: Callable[..., Path], models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, held_out = make_images(tmp_path / "images", 9, 9), write_set(tmp_path / "held_out", 6)
    calls = tmp_path / "calls"
    a, b = {"name": "a", "kind": "plain", "options": {"calls": str(calls)}}, {"name": "b", "kind": "one"}

    def run(out: str, *judges: dict[str, Any], **how: Any) -> dict[str, Any]:
        config = settings()
        caption = config.caption.model_validate(config.caption.model_dump() | {"judges": judges})
        config = config.model_copy(update={"caption": caption})
        return dict(check_filter(tmp_path / out, images, *models, None, held_out, config=config, ray=HERE, **how))

    whole, _ = run("both", b, a), run("one", a)
    calls.unlink()
    monkeypatch.setattr(worker, "CaptionWorker", None)  # whoever captions ends the test
    scored = {"part-00000.parquet": tmp_path / "one" / "part-00000.parquet"}
    assert run("later", b, a, scored=scored) == whole
    files = [parquet.read_parquet(tmp_path / name / "part-00000.parquet") for name in ("both", "later")]
    assert files[0].equals(files[1])
    assert files[0].schema.metadata == files[1].schema.metadata
    assert not calls.exists()


def test_a_picture_is_no_reference_for_having_the_key_of_one(
    make_images: Callable[..., Path], models: tuple[Path, Path], tmp_path: Path
) -> None:
    """Of fewer images than references, none is left out for a picture of another set, but one with the same bytes."""
    images, held_out = make_images(tmp_path / "images", 9, 9), write_set(tmp_path / "held_out", 20)
    check_filter(tmp_path / "out", images, *models, None, held_out, config=settings(), ray=HERE)
    rows = parquet.read_parquet(tmp_path / "out/part-00000.parquet").to_pylist()
    assert {row["key"] for row in rows} == {f"{at:010d}" for at in range(20)}
    known = {row["jpg"] for file in parquet.parquet_files(images) for row in parquet.read_parquet(file).to_pylist()}
    jpg = {
        row["key"]: row["jpg"]
        for file in parquet.parquet_files(held_out)
        for row in parquet.read_parquet(file).to_pylist()
    }
    assert 0 < len(known & set(jpg.values())) < 20, "else only one of both is tested"
    for row in rows:
        halves = row["distinctness"] * 2 * (9 - (jpg[row["key"]] in known))
        assert math.isclose(halves, round(halves), abs_tol=1e-4)


def test_one_caption_a_picture_leaves_synthetic_texts_unknown(
    make_images: Callable[..., Path], models: tuple[Path, Path], tmp_path: Path
) -> None:
    images, human = make_images(tmp_path / "images", 10, 10), write_set(tmp_path / "human", 5, captions=1)
    counts = check_filter(tmp_path / "out", images, *models, human, None, config=settings(), ray=HERE)
    assert (counts["trained_on"], counts["unknown"]) == (1, 10)
    assert "least_agreement" not in counts


def test_which_pictures_are_used(tmp_path: Path) -> None:
    human, held_out = write_set(tmp_path / "human", 900), write_set(tmp_path / "held_out", 60)
    few = write_set(tmp_path / "few", 100)

    def chosen(human: Path | None, held_out: Path | None, untrained: Untrained) -> tuple[str, bool, int]:
        found = choose_pictures(human, held_out, settings(untrained))
        return found.set, found.trained_on, len(found.pictures)

    tenth = sum(crc32(f"{at:010d}".encode()) % 10 == 0 for at in range(900))
    assert chosen(human, held_out, "validation") == ("human, validation tenth", False, tenth)
    assert chosen(few, held_out, "validation")[0] == "held_out", "a tenth of a hundred is too few"
    assert chosen(few, None, "validation")[0] == "human, validation tenth"
    assert chosen(human, held_out, "none") == ("held_out", False, 60)
    assert chosen(human, None, "none") == ("human", True, 300)
    assert chosen(human, None, "all") == ("human", False, 300)
    assert chosen(None, held_out, "all") == ("held_out", False, 60)


def test_a_wrong_text_is_none_of_the_pictures_own(make_images: Callable[..., Path], tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", 30, 10)
    pictures = choose_pictures(None, write_set(tmp_path / "held_out", 20), settings()).pictures
    texts = other_texts(images, pictures, 0)
    assert len(texts) == 20
    assert all(text and text not in one.captions for text, one in zip(texts, pictures, strict=True))
    assert len({*texts}) == 20, "there are enough different ones"
    assert texts == other_texts(images, pictures, 0) != other_texts(images, pictures, 1)
    assert other_texts(make_images(tmp_path / "none", 0, 1), pictures, 0) == [None] * 20


def test_no_usable_picture_is_told(make_images: Callable[..., Path], tmp_path: Path) -> None:
    images, empty = make_images(tmp_path / "images", 5, 5), write_set(tmp_path / "held_out", 0)
    with pytest.raises(InputError, match=r"held_out: no readable picture .* filter_check.pictures: 0"):
        check_filter(tmp_path / "out", images, "a", "b", None, empty, config=settings(), ray=HERE)


@pytest.mark.parametrize(
    ("given", "made"),
    [
        (["human.path=h.jsonl"], True),
        (["held_out.path=h.jsonl"], True),
        (["human.path=h.jsonl", "filter_check.pictures=0"], False),
        ([], False),
    ],
)
def test_where_the_step_is(given: list[str], made: bool) -> None:
    config = load_config(None, given)
    assert bool(Layout(config, 1).filter_check) == made
    assert Layout(config, 0).filter_check is None, "round 0 has no captions"


@pytest.mark.parametrize(
    ("given", "untrained"),
    [
        ([], "none"),
        (["captioner.checkpoint=a/b", "filter.checkpoint=a/b"], "all"),
        (["captioner.validate_every_steps=10"], "none"),
        (["captioner.validate_every_steps=10", "filter.validate_every_steps=10"], "validation"),
        (["captioner.validate_every_steps=10", "filter.checkpoint=a/b"], "validation"),
        (["captioner.checkpoint=a/b", "filter.checkpoint=a/b", "pretrain.hold_out_validation=false"], "all"),
        (["captioner.validate_every_steps=1", "filter.checkpoint=a/b", "pretrain.hold_out_validation=false"], "none"),
    ],
)
def test_what_no_fine_tuning_sees(given: list[str], untrained: str) -> None:
    assert check_filter_config(load_config(None, ["human.path=h.jsonl", *given])).untrained == untrained


def test_the_settings_are_json(tmp_path: Path) -> None:
    """They go into the MANIFEST."""
    config = check_filter_config(load_config(None, ["seed=3"]))
    assert json.loads(json.dumps(config.model_dump(mode="json")))["seed"] == 3
