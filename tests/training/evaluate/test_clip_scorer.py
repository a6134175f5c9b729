"""The second scorer against transformers called plainly, on the same pictures and texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from blip_bootstrap.errors import CheckpointError
from blip_training.evaluate.clip_scorer import ClipScorer
from tests.support.tiny_scorers import SAVED, save_clip

TEXTS = ["a dog", "red cat on a square", "dog", "a " * 40, "two unknownword"]
IMAGE_OF_ROW = [0, 0, 1, 2, 2]


@pytest.fixture(scope="module", params=list(SAVED.values()), ids=list(SAVED))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = request.param(tmp_path_factory.mktemp("scorer") / "tiny")
    return made


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    numbers = np.random.default_rng(0)
    return [
        Image.fromarray(numbers.integers(0, 255, (height, width, 3), dtype=np.uint8))
        for height, width in ((40, 50), (32, 32), (90, 33))
    ]


def plainly(folder: Path, pictures: list[Image.Image]) -> torch.Tensor:
    """Cosines [texts, images] as the model's own forward has them."""
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    model: Any = AutoModel.from_pretrained(folder).eval()
    pixels = AutoImageProcessor.from_pretrained(folder, backend="pil")(images=pictures, return_tensors="pt")
    is_siglip = model.config.model_type.startswith("siglip")
    padding = "max_length" if is_siglip else True
    tokens = AutoTokenizer.from_pretrained(folder)(
        TEXTS, padding=padding, truncation=True, max_length=12, return_tensors="pt"
    )
    if is_siglip:
        tokens = {"input_ids": tokens["input_ids"]}
    with torch.inference_mode():
        logits = model(**tokens, **pixels).logits_per_text
    bias = getattr(model, "logit_bias", torch.zeros(()))
    cosines: torch.Tensor = (logits - bias) / model.logit_scale.exp()
    return cosines


def test_scores_are_those_of_transformers(folder: Path, pictures: list[Image.Image]) -> None:
    scorer = ClipScorer(folder)
    with torch.inference_mode():
        pixels = [scorer.to_pixels(picture) for picture in pictures]
        scores = scorer.score(pixels, TEXTS, torch.tensor(IMAGE_OF_ROW))
    expected = plainly(folder, pictures)[torch.arange(len(TEXTS)), IMAGE_OF_ROW]
    torch.testing.assert_close(torch.tensor(scores), expected, atol=1e-5, rtol=1e-5)
    assert len({round(score, 4) for score in scores}) == len(TEXTS)


def test_a_score_does_not_depend_on_its_neighbours(folder: Path, pictures: list[Image.Image]) -> None:
    scorer = ClipScorer(folder)
    with torch.inference_mode():
        pixels = [scorer.to_pixels(picture) for picture in pictures]
        together = scorer.score(pixels, TEXTS, torch.tensor(IMAGE_OF_ROW))
        alone = [
            scorer.score(pixels[i : i + 1], [text], torch.tensor([0]))[0]
            for text, i in zip(TEXTS, IMAGE_OF_ROW, strict=True)
        ]
    assert together == pytest.approx(alone, abs=1e-5)


def test_what_is_no_scorer_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "blip"}))
    with pytest.raises(CheckpointError, match="model_type is 'blip'; a scorer's is one of clip, metaclip_2"):
        ClipScorer(tmp_path)
    whole = save_clip(tmp_path / "clip")
    for name in ("preprocessor_config.json", "tokenizer.json", "model.safetensors"):
        (whole / name).rename(whole / "away")
        with pytest.raises(CheckpointError, match="not a whole scorer") as error:
            ClipScorer(whole)
        assert "\n" not in str(error.value)
        (whole / "away").rename(whole / name)
    with pytest.raises(CheckpointError, match="no such file"):
        ClipScorer(tmp_path / "none")


def test_logits_are_those_of_transformers(folder: Path, pictures: list[Image.Image]) -> None:
    from transformers import AutoModel

    model: Any = AutoModel.from_pretrained(folder)
    cosines = plainly(folder, pictures)[torch.arange(len(TEXTS)), IMAGE_OF_ROW]
    logits = cosines * model.logit_scale.exp() + getattr(model, "logit_bias", 0)
    for output, expected in (("logit", logits), ("probability", logits.sigmoid())):
        scorer = ClipScorer(folder, output=output)  # type: ignore[arg-type]
        with torch.inference_mode():
            scores = scorer.score([scorer.to_pixels(one) for one in pictures], TEXTS, torch.tensor(IMAGE_OF_ROW))
        torch.testing.assert_close(torch.tensor(scores), expected, atol=1e-4, rtol=1e-4)
