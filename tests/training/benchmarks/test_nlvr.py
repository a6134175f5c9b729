"""NLVR2: the released file's weights, computed by a plain reference written here; the publisher's lists."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from blip_bootstrap.config import Config
from blip_bootstrap.errors import CheckpointError, InputError
from blip_training.benchmarks.evaluate_on import evaluate_on, measure
from blip_training.checkpoint.nlvr_file import load_nlvr
from blip_training.data.tokenizer import Tokenizer
from tests.support.benchmark_files import picture, some_texts, write_json, write_lines
from tests.support.tiny_med import WORDS, original_weights, tiny

MERGED = (False, True)
"""The tiny model's two layers: the first averages, the second merges by a projection, as layers 0 and 6 of 12."""

Weights = dict[str, torch.Tensor]


def config(**changes: Any) -> Config:
    return Config.model_validate({"benchmark": {"device": "cpu", "batch_size": 6} | changes})


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(WORDS)


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> tuple[Path, Weights]:
    """A file as the released one, by its weight names, random; and its weights."""
    folder, med = tmp_path_factory.mktemp("nlvr"), tiny(tokenizer)
    whole = original_weights(med, folder / "parts", tokenizer)
    kept = {
        name: weight for name, weight in whole.items()
        if name.startswith(("visual_encoder.", "text_encoder.")) and ".crossattention." not in name
    }  # fmt: skip
    torch.manual_seed(4)
    draw = lambda *shape: torch.randn(*shape) * 0.1  # noqa: E731
    for layer, merged in enumerate(MERGED):
        root = f"text_encoder.encoder.layer.{layer}.crossattention"
        names = [f"self{side}.{part}" for side in (0, 1) for part in ("query", "key", "value")]
        for name in [*names, "output.dense0", "output.dense1"]:
            kept |= {f"{root}.{name}.weight": draw(128, 128), f"{root}.{name}.bias": draw(128)}
        kept |= {f"{root}.output.LayerNorm.weight": 1 + draw(128), f"{root}.output.LayerNorm.bias": draw(128)}
        if merged:
            kept |= {f"{root}.output.merge_layer.weight": draw(128, 256), f"{root}.output.merge_layer.bias": draw(128)}
    kept |= {"cls_head.0.weight": draw(128, 128), "cls_head.0.bias": draw(128)}
    kept |= {"cls_head.2.weight": 5 * draw(2, 128), "cls_head.2.bias": draw(2)}
    torch.save({"model": kept}, folder / "model_base_nlvr.pth")
    tokenizer.save(folder)
    return folder / "model_base_nlvr.pth", kept


def linear(weights: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def norm(weights: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-12)


def attention(weights: Weights, name: str, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Two heads of 64, one text: [T, 128] over [S, 128]."""
    parts = []
    q, k, v = (linear(weights, f"{name}.{part}", y) for part, y in (("query", x), ("key", seen), ("value", seen)))
    for head in range(2):
        own = slice(64 * head, 64 * (head + 1))
        parts.append(torch.softmax(q[:, own] @ k[:, own].T / math.sqrt(64), -1) @ v[:, own])
    return torch.cat(parts, 1)


def plain_logits(weights: Weights, first: torch.Tensor, second: torch.Tensor, ids: list[int]) -> torch.Tensor:
    """The released encoder, text by text: two image states [P, 128], and ids that begin with [ENC]."""
    bert = "text_encoder"
    words, places = (weights[f"{bert}.embeddings.{kind}_embeddings.weight"] for kind in ("word", "position"))
    x = norm(weights, f"{bert}.embeddings.LayerNorm", words[ids] + places[: len(ids)])
    for number, merged in enumerate(MERGED):
        layer = f"{bert}.encoder.layer.{number}"
        own = linear(weights, f"{layer}.attention.output.dense", attention(weights, f"{layer}.attention.self", x, x))
        x = norm(weights, f"{layer}.attention.output.LayerNorm", x + own)
        cross = f"{layer}.crossattention"
        pair = [
            linear(weights, f"{cross}.output.dense{side}", attention(weights, f"{cross}.self{side}", x, states))
            for side, states in enumerate((first, second))
        ]
        both = linear(weights, f"{cross}.output.merge_layer", torch.cat(pair, 1)) if merged else (pair[0] + pair[1]) / 2
        x = norm(weights, f"{cross}.output.LayerNorm", x + both)
        inner = F.gelu(linear(weights, f"{layer}.intermediate.dense", x))
        x = norm(weights, f"{layer}.output.LayerNorm", x + linear(weights, f"{layer}.output.dense", inner))
    return linear(weights, "cls_head.2", linear(weights, "cls_head.0", x[0]).relu())


def write_nlvr(root: Path, count: int = 10) -> tuple[list[dict[str, Any]], list[tuple[torch.Tensor, torch.Tensor]]]:
    """test1.json and its pictures, two sentences a pair."""
    rows, pixels = [], []
    for i, text in enumerate(some_texts(count, 9, 12)):
        group = f"test1-{i // 2}-0"
        pair = [picture(root / "test1" / f"{group}-img{side}.png", 2 * (i // 2) + side) for side in (0, 1)]
        pixels.append((pair[0], pair[1]))
        rows.append({"identifier": f"{group}-{i % 2}", "sentence": text, "label": ("True", "False")[i % 3 > 0]})
    write_lines(root / "test1.json", rows)
    return rows, pixels


@torch.no_grad()
def test_accuracy_is_that_of_the_plain_reference(
    released: tuple[Path, Weights], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    file, weights = released
    rows, pixels = write_nlvr(tmp_path)
    med = tiny(tokenizer)  # whose image encoder the file has
    truths = []
    for row, pair in zip(rows, pixels, strict=True):
        first, second = (med.encode_image(one[None])[0] for one in pair)
        ids = [tokenizer.enc_id, *tokenizer.piece_ids(row["sentence"]), tokenizer.sep_id]
        truths.append(float(plain_logits(weights, first, second, ids).softmax(0)[1]))
    right = [(truth > 0.5) == (row["label"] == "True") for truth, row in zip(truths, rows, strict=True)]
    found = measure(file, "nlvr2", tmp_path, config(), tmp_path / "out")
    assert found["figures"] == {"accuracy": sum(right) / len(right)}
    assert 0 < found["figures"]["accuracy"] < 1
    lines = Path(found["path"]).with_name("nlvr.jsonl").read_text().splitlines()
    assert [json.loads(line)["true"] for line in lines] == pytest.approx(truths, abs=1e-5)


def test_all_three_lists_give_one_figure(released: tuple[Path, Weights], tmp_path: Path) -> None:
    file, _ = released
    rows, _ = write_nlvr(tmp_path)
    one = evaluate_on(file, "nlvr2", tmp_path, config())
    images = [[f"test1/{r['identifier'].rsplit('-', 1)[0]}-img{side}.png" for side in (0, 1)] for r in rows]
    plain = [
        {"sentence": row["sentence"], "label": row["label"], "images": own}
        for row, own in zip(rows, images, strict=True)
    ]
    write_json(tmp_path / "nlvr_test.json", plain)
    assert evaluate_on(file, "nlvr2", tmp_path, config(batch_size=64)) == one
    mine = write_lines(tmp_path / "mine.jsonl", [row | {"label": row["label"] == "True"} for row in plain])
    assert evaluate_on(file, "two_images", mine, config()) == one


def test_another_model_is_told_in_one_line(
    released: tuple[Path, Weights], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    _, weights = released
    write_nlvr(tmp_path, 2)
    tokenizer.save(tmp_path)
    torch.save({k: v for k, v in weights.items() if "cls_head" not in k}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"has no head for two pictures .cls_head.; NLVR2 needs"):
        evaluate_on(tmp_path / "other.pth", "nlvr2", tmp_path, config())
    torch.save(
        {k: v for k, v in weights.items() if "self1.key" not in k} | {"text_encoder.more": torch.zeros(1)},
        tmp_path / "cut.pth",
    )
    with pytest.raises(CheckpointError, match=r"or no NLVR2 model: keys .*self1.key.*; keys text_encoder.more"):
        load_nlvr(tmp_path / "cut.pth")
    with pytest.raises(CheckpointError, match="a folder; the NLVR2 model is the file"):
        load_nlvr(tmp_path)


def test_a_label_that_is_none_is_told(released: tuple[Path, Weights], tmp_path: Path) -> None:
    rows, _ = write_nlvr(tmp_path, 2)
    write_lines(tmp_path / "test1.json", [rows[0], rows[1] | {"label": "maybe"}])
    with pytest.raises(InputError, match=r"test1\.json: row 2: label is 'maybe'; true or false was expected"):
        evaluate_on(released[0], "nlvr2", tmp_path, config())
