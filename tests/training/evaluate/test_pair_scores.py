"""Scores of given pairs: those that captioning would give, and the labels that they make without people."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from blip_bootstrap.config import CaptionConfig
from blip_bootstrap.errors import InputError
from blip_bootstrap.labels.human_pairs import filter_of, label_human_pairs
from blip_bootstrap.schemas import tables
from blip_bootstrap.schemas.shown_tables import LABELS
from blip_bootstrap.storage import parquet
from blip_pipelines.caption.worker import CaptionWorker
from blip_pipelines.check.step import score_given
from blip_training.evaluate.pair_scores import score_pairs

Models = tuple[Path, Path]


@pytest.fixture
def images(make_images: Callable[..., Path], tmp_path: Path) -> list[dict[str, object]]:
    folder = make_images(tmp_path / "images", 50, 50)
    rows: list[dict[str, object]] = parquet.read_parquet(folder / "part-00000.parquet").to_pylist()
    return [row for row in rows if row["jpg"]]


@pytest.fixture
def run(images: list[dict[str, object]], models: Models, tmp_path: Path) -> Path:
    """A round with a filter of its own, and human captions of 45 pictures; two pictures share one."""
    root = tmp_path / "run"
    shutil.copytree(models[1], root / "round-01/filter")
    parquet.write_parquet(root / "round-01/pairs/part-0.parquet", parquet.rows_to_table([], tables.PAIRS), tables.PAIRS)
    empty = dict.fromkeys(tables.ANNOTATED.schema.names)
    rows = [
        empty | {"key": row["key"], "status": "success", "jpg": row["jpg"], "captions": [f"a dog {at // 2}", "a cat"]}
        for at, row in enumerate(images)
    ]
    parquet.write_parquet(
        root / "human/part-0.parquet", parquet.rows_to_table(rows, tables.ANNOTATED), tables.ANNOTATED
    )
    return root


def test_the_scores_are_those_of_captioning(images: list[dict[str, object]], models: Models) -> None:
    table = parquet.rows_to_table(images, tables.IMAGES)
    captioned = CaptionWorker(*models, CaptionConfig(device="cpu"))(table).to_pylist()
    texts = [[row["caption"] for row in captioned if row["key"] == image["key"]] for image in images]
    scores = score_pairs(models[1], [bytes(image["jpg"]) for image in images], texts)  # type: ignore[call-overload]
    flat = [score for mine in scores for score in mine]
    assert flat == pytest.approx([row["itm_score"] for row in captioned], abs=1e-5)
    assert len(set(flat)) > 20


def test_human_captions_label_themselves(run: Path) -> None:
    path = label_human_pairs(run, size=30)
    rows = parquet.read_parquet(path).to_pylist()
    assert parquet.read_parquet(path).schema.equals(LABELS.schema)
    right = {row["key"]: row for row in rows if row["answer"] == "yes"}
    wrong = {row["key"]: row for row in rows if row["answer"] == "no"}
    assert right.keys() == wrong.keys()
    assert 25 < len(right) <= 30, "a picture whose neighbour has the same captions gives no negative"
    assert all(right[key]["caption"] != wrong[key]["caption"] != "a cat" for key in right)
    assert label_human_pairs(run, size=30) == path
    assert parquet.read_parquet(path).to_pylist() == rows


def test_wrong_texts_are_the_rounds_web_texts(run: Path) -> None:
    """Scored ones alone, and never one that the picture has as a human caption."""
    row = {"source": "web", "candidate": 0, "kept": True, "reason": None, "itm_score": 0.5}
    rows = [row | {"key": f"{at:09d}", "caption": "a cat" if at % 2 else f"IMG_{at}.jpg"} for at in range(60)]
    rows += [
        row | {"key": "of-round-0", "caption": "not scored", "itm_score": None},
        row | {"key": "x", "caption": " "},
    ]
    parquet.write_parquet(
        run / "round-01/pairs/part-0.parquet", parquet.rows_to_table(rows, tables.PAIRS), tables.PAIRS
    )
    found = parquet.read_parquet(label_human_pairs(run)).to_pylist()
    wrong = [row["caption"] for row in found if row["answer"] == "no"]
    assert len(wrong) > 10
    assert all(text.startswith("IMG_") for text in wrong)
    assert len(set(wrong)) == len(wrong)
    assert {row["caption"] for row in found if row["answer"] == "yes"} > {"a cat"}


def test_a_scorer_gives_every_score(run: Path, models: Models, images: list[dict[str, object]]) -> None:
    """The same texts with the same ITM scores as without; where the captioner is not known, ITM's alone."""
    alone = parquet.read_parquet(label_human_pairs(run, 1, 20)).to_pylist()
    asked: list[Path | str] = []

    def scorer(given: pa.Table, *known: Any) -> pa.Table:
        asked.extend(known[:3])
        return score_given(given, *known)

    assert label_human_pairs(run, 1, 20, 0, scorer).is_file()
    assert not asked, "the round has no captioner"
    shutil.copytree(models[0], run / "round-01/captioner")
    data = parquet.rows_to_table(images, tables.IMAGES)
    parquet.write_parquet(run / "images/part-00000.parquet", data, tables.IMAGES)
    (run / "config.yaml").write_text("caption: {device: cpu, references: 8, lift_references: 2}\n")
    rows = parquet.read_parquet(label_human_pairs(run, 1, 20, 0, scorer)).to_pylist()
    assert asked == [run / "images", run / "round-01/captioner", run / "round-01/filter"]
    same = ("round", "key", "source", "candidate", "caption", "kept", "stratum_rows", "answer")
    assert [{name: row[name] for name in same} for row in rows] == [{n: row[n] for n in same} for row in alone]
    assert [row["itm_score"] for row in rows] == pytest.approx([row["itm_score"] for row in alone], abs=1e-5)
    for name in ("itc_score", "logprob", "logprob_per_token", "lift", "agreement", "distinctness", "num_tokens"):
        assert all(row[name] is not None for row in rows), name


def test_the_held_out_set_goes_first(run: Path) -> None:
    shutil.copytree(run / "human", run / "held_out")
    rows = parquet.read_parquet(run / "human/part-0.parquet").to_pylist()
    named = [row | {"captions": [f"held out {at}"]} for at, row in enumerate(rows)]
    data = parquet.rows_to_table(named, tables.ANNOTATED)
    parquet.write_parquet(run / "held_out/part-0.parquet", data, tables.ANNOTATED)
    texts = parquet.read_parquet(label_human_pairs(run, 1), ["caption"])["caption"].to_pylist()
    assert all(text.startswith("held out") for text in texts)


def test_what_is_missing_is_told(run: Path) -> None:
    with pytest.raises(InputError, match="no such run"):
        label_human_pairs(run / "nowhere")
    (run / "human").rename(run / "elsewhere")
    with pytest.raises(InputError, match="no held-out and no human-annotated set"):
        label_human_pairs(run)
    (run / "elsewhere").rename(run / "human")
    shutil.rmtree(run / "round-01/filter")
    with pytest.raises(InputError, match="no single filter made round 1's scores"):
        label_human_pairs(run)
    (run / "config.yaml").write_text("filter: {checkpoint: some/where}\n")
    assert filter_of(run, 1) == "some/where"
