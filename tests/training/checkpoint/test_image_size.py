"""Fine-tuning at another picture size than pre-training: positions interpolated, the size kept in what is saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from blip_bootstrap.config import EvaluateConfig, SamplerConfig, load_config
from blip_bootstrap.errors import CheckpointError, ConfigError
from blip_bootstrap.storage.manifest import recipe_of
from blip_training.checkpoint.store import load_med, load_vqa
from blip_training.evaluate.evaluate import evaluate_model
from blip_training.train.finetune import finetune_captioner_model, finetune_filter_model
from blip_training.train.pretrain import pretrain_model
from tests.support.drawn import finetune_config, pretrain_config, read_log
from tests.support.tiny_med import normalised_of

OLD, NEW, PATCH = 32, 48, 8


@pytest.fixture(scope="module")
def model(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("model")
    pretrain_model(out, world / "images", world / "pairs", world / "human", pretrain_config(world, steps=4))
    return out


def tune(kind: str, out: Path, model: Path, world: Path, steps: int = 3, image_size: int | None = NEW) -> Path:
    out.mkdir(exist_ok=True)
    run = {"captioner": finetune_captioner_model, "filter": finetune_filter_model}[kind]
    run(out, model, world / "human", finetune_config(steps=steps).model_copy(update={"image_size": image_size}))
    return out


def test_positions_are_interpolated_bicubically_and_nothing_else_is_changed(model: Path, world: Path) -> None:
    """The reference: the grid of patches as a picture of `width` channels; the class token's stays."""
    old, new = load_med(model)[0].state_dict(), load_med(model, image_size=NEW)[0].state_dict()
    grid = old["vision.positions"][:, 1:].transpose(1, 2).unflatten(2, (4, 4))
    larger = F.interpolate(grid, (6, 6), mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    torch.testing.assert_close(new["vision.positions"][:, 1:], larger)
    assert torch.equal(new["vision.positions"][:, 0], old["vision.positions"][:, 0])
    assert all(torch.equal(new[name], old[name]) for name in old if name != "vision.positions")


@torch.no_grad()
@pytest.mark.parametrize("size", [16, NEW, 64])
def test_transformers_computes_what_a_captioner_of_another_size_computes(
    model: Path, world: Path, tmp_path: Path, size: int
) -> None:
    from transformers import BlipForConditionalGeneration

    with torch.enable_grad():
        tune("captioner", tmp_path, model, world, image_size=size)
    med, tokenizer = load_med(tmp_path)
    assert med.config.vision.image_size == size
    theirs: Any = BlipForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert theirs.config.vision_config.image_size == size
    assert json.loads((tmp_path / "preprocessor_config.json").read_text())["size"] == {"height": size, "width": size}
    pixels = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ids, mask = tokenizer.encode(["a red circle", "one square"], 14)
    decoding = torch.cat([torch.full_like(ids[:, :1], tokenizer.dec_id), ids[:, 1:]], dim=1)
    out = theirs(normalised_of(med, pixels), input_ids=decoding, attention_mask=mask)
    ours = med.decode(med.encode_image(pixels), ids, mask)
    torch.testing.assert_close(ours[mask == 1], out.logits[mask == 1], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_transformers_computes_what_a_filter_of_another_size_computes(model: Path, world: Path, tmp_path: Path) -> None:
    from transformers import BlipForImageTextRetrieval

    with torch.enable_grad():
        tune("filter", tmp_path, model, world)
    med, tokenizer = load_med(tmp_path)
    theirs: Any = BlipForImageTextRetrieval.from_pretrained(tmp_path).eval()
    pixels = torch.randint(0, 256, (2, 3, NEW, NEW), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ids, mask = tokenizer.encode(["a red circle", "one square"], 14)
    states, normalised = med.encode_image(pixels), normalised_of(med, pixels)
    read = torch.cat([torch.full_like(ids[:, :1], tokenizer.enc_id), ids[:, 1:]], dim=1)
    itm = theirs(read, normalised, attention_mask=mask).itm_score
    torch.testing.assert_close(med.match(states, ids, mask), itm, atol=1e-5, rtol=1e-5)


def test_by_default_the_size_is_that_of_the_start(model: Path, world: Path, tmp_path: Path) -> None:
    tune("captioner", tmp_path / "a", model, world, image_size=None)
    assert load_med(tmp_path / "a")[0].config.vision.image_size == OLD
    tune("captioner", tmp_path / "b", model, world, image_size=OLD)
    assert read_log(tmp_path / "a") == read_log(tmp_path / "b")


def test_evaluation_takes_each_models_own_size(model: Path, world: Path, tmp_path: Path) -> None:
    """The captioner's pictures are larger than those of the model that matches."""
    tune("captioner", tmp_path, model, world)
    config = EvaluateConfig(sampler=SamplerConfig(preset="greedy"), device="cpu", limit=4)
    found = evaluate_model(model, world / "held_out", config, tmp_path)
    assert {"cider", "tr1"} <= found.metrics.keys()


def test_a_size_that_cuts_patches_is_one_line(model: Path) -> None:
    for load in (load_med, load_vqa):
        with pytest.raises(
            CheckpointError, match=r"cannot take pictures of 50 px: image_size 50 is not a multiple"
        ) as told:
            load(model, image_size=50)
        assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", ["captioner", "filter"])
def test_the_configuration_tells_before_any_work(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name}\.image_size 380 is not a multiple of .*patch_size 16"):
        load_config(None, [f"{name}.image_size=380"])
    with pytest.raises(ConfigError, match=rf"{name}: .*a given checkpoint keeps its own"):
        load_config(None, [f"{name}.image_size=384", f"{name}.checkpoint=somewhere"])
    assert getattr(load_config(None, [f"{name}.image_size=384"]), name).image_size == 384


def test_the_recipe_holds_a_size_only_where_one_is_given() -> None:
    plain, larger = (load_config(None, settings).captioner for settings in ([], ["captioner.image_size=384"]))
    assert "image_size" not in recipe_of("step", plain, {})["config"]
    assert recipe_of("step", larger, {})["config"]["image_size"] == 384
