"""Retrieval and ITM on COCO's files: equal to figures that plain code computes from transformers' scores."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from blip_bootstrap.config import BenchmarkConfig, Config, EvaluateConfig
from blip_bootstrap.errors import InputError
from blip_training.benchmarks import retrieval, work
from blip_training.benchmarks.evaluate_on import evaluate_on, measure, read_data
from blip_training.benchmarks.names import benchmark_of
from blip_training.benchmarks.retrieval import Gallery
from blip_training.checkpoint.store import load_med, save_captioner, save_filter, save_med
from blip_training.data.held_out import HeldOut, Picture
from blip_training.data.tokenizer import Tokenizer
from blip_training.evaluate.matching import measure_matching
from tests.support.benchmark_files import picture, write_coco, write_json, write_lines
from tests.support.plain_retrieval import plain_figures
from tests.support.tiny_med import WORDS, normalised_of, original_weights, read_by, tiny

TOP_K = 4


def config(**changes: Any) -> Config:
    settings = {"tasks": ["retrieval"], "device": "cpu", "rerank_top_k": TOP_K, "batch_size": 4}
    return Config.model_validate({"benchmark": settings | changes})


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(WORDS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """One tiny model as each published kind: a transformers folder, a .pth file, and this package's folder."""
    folder = tmp_path_factory.mktemp("models")
    med = tiny(tokenizer)
    save_filter(folder / "filter", med, tokenizer)
    save_captioner(folder / "captioner", med, tokenizer)
    save_med(folder / "own", med, tokenizer)
    (folder / "pth").mkdir()
    tokenizer.save(folder / "pth")
    torch.save({"model": original_weights(med, folder / "parts", tokenizer)}, folder / "pth" / "model_base.pth")
    return folder


@pytest.fixture(scope="module")
def by_transformers(folder: Path, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The benchmark's folder, the ITC and ITM scores of all its pairs by transformers, and texts a picture."""
    from transformers import BlipForImageTextRetrieval

    root = tmp_path_factory.mktemp("coco")
    captions, pixels = write_coco(root)
    theirs = read_by(BlipForImageTextRetrieval, folder / "filter")
    normalised = normalised_of(tiny(tokenizer), pixels)
    texts = [text for own in captions for text in own]
    similar, logits, matches = (torch.zeros(len(pixels), len(texts)) for _ in range(3))
    with torch.no_grad():
        for t, text in enumerate(texts):
            ids, _ = tokenizer.encode([text], 35)
            enc, _ = tokenizer.encode([text], 35, "[ENC]")
            for i in range(len(pixels)):
                similar[i, t] = theirs(ids, normalised[i : i + 1], use_itm_head=False).itm_score[0, 0]
                itm = theirs(enc, normalised[i : i + 1]).itm_score[0]
                logits[i, t], matches[i, t] = itm[1], itm.softmax(0)[1]
    return root, similar, logits, matches, len(captions[0])


@pytest.mark.parametrize("kind", ["filter", "own", "pth/model_base.pth"])
def test_figures_are_those_of_transformers_scores(folder: Path, by_transformers: Any, kind: str) -> None:
    root, similar, logits, matches, each = by_transformers
    found = evaluate_on(folder / kind, "coco", root, config())
    expected = plain_figures(similar, logits, each, TOP_K)
    assert len({round(value, 3) for value in expected.values()}) > 6  # figures that tell something
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    pairs = plain_matching(root, matches)
    assert {name: found[name] for name in pairs} == pytest.approx(pairs)
    assert set(found) == set(expected) | set(pairs)


def plain_matching(root: Path, matches: torch.Tensor) -> dict[str, float]:
    """AUC, precision and recall of each picture's own texts and those that are drawn for it, by loops."""
    benchmark = benchmark_of("coco")
    gallery = Gallery(read_data(benchmark, root, BenchmarkConfig()).items)
    rows = range(len(gallery.items))
    right = [float(matches[row, text]) for row in rows for text in gallery.own[row]]
    wrong = [float(matches[row, text]) for row in rows for text in gallery.wrong(row, 0)]
    assert len(right) == len(wrong)
    assert not any(text in gallery.own[row] for row in rows for text in gallery.wrong(row, 0))
    in_order = sum((r > w) + 0.5 * (r == w) for r in right for w in wrong) / len(right) / len(wrong)
    taken, false = (sum(one >= 0.5 for one in some) for some in (right, wrong))
    return {"itm_auc": in_order, "itm_precision": taken / (taken + false), "itm_recall": taken / len(right)}


def test_matching_counts_pairs_at_the_threshold(folder: Path, by_transformers: Any) -> None:
    """All pairs above a threshold of 0; none above one of 1; between them as many as by transformers' logits."""
    root, *_ = by_transformers
    low, high = (evaluate_on(folder / "filter", "coco", root, config(itm_threshold=limit)) for limit in (0, 1))
    assert (low["itm_precision"], low["itm_recall"]) == (0.5, 1)
    assert (high["itm_precision"], high["itm_recall"]) == (0, 0)
    assert 0 <= low["itm_auc"] == high["itm_auc"] <= 1


def test_neither_batches_nor_a_kill_change_a_figure(folder: Path, by_transformers: Any, tmp_path: Path) -> None:
    root, *_ = by_transformers
    whole = measure(folder / "own", "coco", root, config(), tmp_path)
    made = Path(whole["path"])
    assert json.loads(made.read_text()) == whole
    made.unlink()
    (made.parent / "work" / "matching-0000000.safetensors").write_bytes(b"damaged")
    again = measure(folder / "own", "coco", root, config(batch_size=64), tmp_path)
    assert again["path"] == whole["path"]  # the batch size is none of what decides a result
    assert again["figures"] == pytest.approx(whole["figures"], abs=1e-6)
    assert measure(folder / "own", "coco", root, config(), tmp_path) == again
    other = measure(folder / "own", "coco", root, config(seed=3), tmp_path)
    assert other["path"] != whole["path"]
    assert other["model_digest"] == whole["model_digest"]
    assert other["data_digest"] == whole["data_digest"]


def test_one_list_of_both_publishers_and_our_own_gives_one_figure(
    folder: Path, by_transformers: Any, tmp_path: Path
) -> None:
    root, *_ = by_transformers
    images = [one for one in json.loads((root / "dataset_coco.json").read_text())["images"] if one["split"] == "test"]
    rows = [{"image": f"val2014/{one['filename']}", "caption": [s["raw"] for s in one["sentences"]]} for one in images]
    (tmp_path / "val2014").symlink_to(root / "val2014")
    (tmp_path / "coco_karpathy_test.json").write_text(json.dumps(rows))
    write_lines(tmp_path / "mine.jsonl", [{"image": row["image"], "captions": row["caption"]} for row in rows])
    figures = [
        evaluate_on(folder / "filter", "coco", root, config()),
        evaluate_on(folder / "filter", "coco", tmp_path, config()),
        evaluate_on(folder / "filter", "captions", tmp_path / "mine.jsonl", config()),
    ]
    for other in figures[1:]:  # drawn wrong texts go by the items' names
        same = {name: value for name, value in other.items() if not name.startswith("itm_")}
        assert same == pytest.approx({name: figures[0][name] for name in same})


def test_equal_texts_of_ones_own_pictures_are_right_for_each(
    folder: Path, by_transformers: Any, tmp_path: Path
) -> None:
    """As in the evaluation of a round, whose figures these are."""
    root, *_ = by_transformers
    names = [f"COCO_val2014_{i:012d}.png" for i in range(6)]
    texts = [["w1 w2", "w3"], ["w3", "w4 w5"], ["w3", "w1 w2"], ["w6"], ["w7 w8", "w7 w8"], ["w4 w5"]]
    rows = [{"image": f"val2014/{name}", "captions": own} for name, own in zip(names, texts, strict=True)]
    file = write_lines(tmp_path / "mine.jsonl", rows)
    found = evaluate_on(folder / "own", "captions", file, config(image_root=str(root), rerank_top_k=0))
    pictures = [
        Picture(name, name, None, tuple(own), (root / "val2014" / name).read_bytes(), file)
        for name, own in zip(names, texts, strict=True)
    ]
    with torch.inference_mode():
        expected = measure_matching(*load_med(folder / "own"), HeldOut(pictures), EvaluateConfig(device="cpu"))
    recalls = [name for name in expected if name != "itm_auc"]
    assert {name: found[name] for name in recalls} == pytest.approx({name: expected[name] for name in recalls})
    assert 0 < found["tr1"] < 1


def test_blocks_of_any_size_give_the_same(
    folder: Path, by_transformers: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root, *_ = by_transformers
    whole = evaluate_on(folder / "filter", "coco", root, config())
    monkeypatch.setattr(work, "BLOCK", 16)
    monkeypatch.setattr(retrieval, "BLOCK", 3)
    found = measure(folder / "filter", "coco", root, config(batch_size=1), tmp_path)
    assert found["figures"] == pytest.approx(whole, abs=1e-6)
    parts = [path.stem.partition("-")[0] for path in Path(found["path"]).parent.glob("work/*.safetensors")]
    assert {name: parts.count(name) for name in parts} == {"texts": 3, "pictures": 1, "matching": 5}


def test_texts_that_stand_with_many_pictures_rank_alike_in_any_batch(folder: Path, tmp_path: Path) -> None:
    """Their scores differ by rounding where they are computed in different batches, and so would their ranks."""
    rng = random.Random(1)
    texts = ["w1", "w2 w3 w4 w5", "w6 w7", "w8 w9 w10 w11 w12 w13 w14", "w1 W15"]
    rows = [{"image": f"{i}.png", "caption": [rng.choice(texts) for _ in range(3)]} for i in range(30)]
    for i in range(30):
        picture(tmp_path / f"{i}.png", i)
    write_json(tmp_path / "coco_karpathy_test.json", rows)
    for top_k in (0, 5):
        one, *others = (
            evaluate_on(folder / "filter", "coco", tmp_path, config(batch_size=size, rerank_top_k=top_k))
            for size in (1, 3, 5, 64)
        )
        assert all(other == one for other in others)
        assert one["tr10"] < 1


def test_half_precision_is_near(folder: Path, by_transformers: Any) -> None:
    root, *_ = by_transformers
    whole, half = (evaluate_on(folder / "own", "coco", root, config(dtype=kind)) for kind in ("float32", "bfloat16"))
    assert half["itm_auc"] == pytest.approx(whole["itm_auc"], abs=0.05)


def test_a_table_that_does_not_fit_is_told(folder: Path, by_transformers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    root, *_ = by_transformers
    monkeypatch.setattr(retrieval, "free_bytes", lambda: 1000)
    with pytest.raises(InputError, match=r"retrieval over 9 pictures or videos with 27 texts takes 0\.0 GB of memory"):
        evaluate_on(folder / "filter", "coco", root, config())


def test_a_limit_takes_the_first_pictures(folder: Path, by_transformers: Any) -> None:
    root, similar, logits, _, each = by_transformers
    found = evaluate_on(folder / "filter", "coco", root, config(), limit=4)
    expected = plain_figures(similar[:4, : 4 * each], logits[:4, : 4 * each], each, TOP_K)
    assert {name: found[name] for name in expected} == pytest.approx(expected)
