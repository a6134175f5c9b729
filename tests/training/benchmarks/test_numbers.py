"""What a number format and an overflowing model do to figures: bfloat16 makes no ties, NaN makes no perfect model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from blip_bootstrap.config import Config, EvaluateConfig
from blip_bootstrap.errors import CheckpointError
from blip_training.benchmarks.evaluate_on import evaluate_on
from blip_training.benchmarks.work import check_finite
from blip_training.checkpoint.store import save_captioner, save_filter, save_vqa
from blip_training.data.held_out import HeldOut, Picture
from blip_training.data.tokenizer import Tokenizer
from blip_training.evaluate.matching import measure_matching
from blip_training.evaluate.retrieval import best_ranks, similarities
from blip_training.model.med import Med
from blip_training.model.vqa import Vqa
from tests.support.benchmark_files import picture, some_texts, write_coco, write_vqav2
from tests.support.tiny_med import WORDS, tiny
from tests.support.tiny_vqa import WORDS as VQA_WORDS
from tests.support.tiny_vqa import tiny_vqa

SHARES = ("tr1", "tr5", "tr10", "ir1", "ir5", "ir10")


def config(**changes: Any) -> Config:
    return Config.model_validate({"benchmark": {"device": "cpu", "meteor": False} | changes})


def test_embeddings_are_compared_in_single_precision() -> None:
    torch.manual_seed(0)
    items, texts = F.normalize(torch.randn(50, 16), dim=1), F.normalize(torch.randn(70, 16), dim=1)
    with torch.autocast("cpu", torch.bfloat16):
        found = similarities(items.bfloat16(), texts)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, items.bfloat16().float() @ texts.T)
    assert found.unique().numel() > 3400


def near(med: Med) -> Med:
    """A model whose ITC similarities are all close to 1, and its ITM logits to each other, as real ones' are."""
    with torch.no_grad():
        for projection in (med.vision_projection, med.text_projection):
            projection.weight.mul_(0.1)
            projection.bias.fill_(1.0)
        med.itm_head.weight.mul_(0.1)
    return med


def test_figures_in_half_precision_are_near_those_in_single(tmp_path: Path) -> None:
    """A similarity of .99 plus 100 has steps of one half in bfloat16: re-ranked candidates were nearly all equal."""
    tokenizer = Tokenizer(WORDS)
    save_filter(tmp_path / "filter", near(tiny(tokenizer)), tokenizer)
    write_coco(tmp_path / "coco", 30)
    for top_k in (0, 8):
        whole, half = (
            evaluate_on(tmp_path / "filter", "coco", tmp_path / "coco", config(dtype=kind, rerank_top_k=top_k))
            for kind in ("float32", "bfloat16")
        )
        assert {name: half[name] for name in SHARES} == pytest.approx({n: whole[n] for n in SHARES}, abs=0.15)
        assert half["ir_mdr"] == pytest.approx(whole["ir_mdr"], rel=0.25)


def test_a_rounds_figures_in_half_precision_are_near_those_in_single(tmp_path: Path) -> None:
    tokenizer = Tokenizer(WORDS)
    med, texts = near(tiny(tokenizer)), some_texts(60)
    pictures = []
    for i in range(30):
        file = tmp_path / f"{i}.png"
        picture(file, i)
        pictures.append(Picture(str(i), file.name, None, tuple(texts[2 * i : 2 * i + 2]), file.read_bytes(), file))
    found = []
    for is_half in (False, True):
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=is_half):
            found.append(measure_matching(med, tokenizer, HeldOut(pictures), EvaluateConfig(device="cpu")))
    assert {name: found[1][name] for name in SHARES} == pytest.approx({n: found[0][n] for n in SHARES}, abs=0.15)


def test_nan_is_no_rank() -> None:
    """A comparison with NaN is false: each right candidate would stand first."""
    nan = float("nan")
    scores = torch.tensor([[nan, nan, nan], [0.5, nan, 0.1], [nan, 0.2, 0.9]])
    right = torch.eye(3, dtype=torch.bool)
    assert best_ranks(scores, right).tolist() == [2, 2, 1]
    assert best_ranks(torch.full((2, 3), nan), right[:2]).tolist() == [2, 2]


def overflowing(model: Any) -> Any:
    """Finite weights of which the activations are not."""
    with torch.no_grad():
        model.vision.norm.weight.mul_(1e38)
        for layer in model.text.each_layer():
            layer.cross_attention.of("causal").query.weight.mul_(1e30)
        if not isinstance(model, Vqa):
            model.vision_projection.weight.mul_(1e30)
    return model


def test_a_model_that_overflows_has_no_figures(tmp_path: Path) -> None:
    tokenizer, of_vqa = Tokenizer(WORDS), Tokenizer(VQA_WORDS)
    write_coco(tmp_path / "coco", 4)
    write_vqav2(tmp_path / "vqav2")
    save_filter(tmp_path / "filter", overflowing(tiny(tokenizer)), tokenizer)
    save_captioner(tmp_path / "captioner", overflowing(tiny(tokenizer)), tokenizer)
    save_vqa(tmp_path / "vqa", overflowing(tiny_vqa(of_vqa)), of_vqa)
    for kind, name, what in (
        ("filter", "coco", "ITC similarities"),
        ("captioner", "coco", "likelihoods of captions"),
        ("vqa", "vqav2", "likelihoods of answers"),
    ):
        with pytest.raises(CheckpointError, match=f"{what} are NaN or infinite: the model overflows, or is damaged"):
            evaluate_on(tmp_path / kind, name, tmp_path / name, config())


def test_lost_numbers_are_counted() -> None:
    check_finite([0.5, -3.0], "numbers")
    with pytest.raises(CheckpointError, match="2 of 3 numbers are NaN or infinite"):
        check_finite(torch.tensor([1.0, float("nan"), float("inf")]), "numbers")
