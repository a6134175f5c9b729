"""The caption step with every kind of BLIP that a user may have, of base and of large shape."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from blip_bootstrap.config import CaptionConfig, ModelConfig, SamplerConfig
from blip_bootstrap.storage.parquet import read_parquet
from blip_pipelines.caption.worker import CaptionWorker
from blip_training.checkpoint.blip_config import config_from_transformers
from blip_training.checkpoint.blip_format import med_from_blip
from blip_training.checkpoint.store import load_med, save_captioner, save_filter, save_med
from blip_training.data.tokenizer import Tokenizer
from blip_training.model.med import Med
from tests.support.tiny_med import original_weights

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "picture", "of", *(f"w{i}" for i in range(60))]
# Width, depth and heads of the ViT and the text stack: the ratios of BLIP's base and large.
SHAPES = {"base": ((128, 2, 2), (128, 2, 2)), "large": ((256, 4, 4), (192, 2, 3))}
CAPTIONER_PX, FILTER_PX = 384, 224
CONFIG = CaptionConfig(device="cpu", seed=3, sampler=SamplerConfig(preset="blip-official", max_tokens=10))


def random_blip(shape: str, image_size: int, seed: int) -> tuple[Med, Tokenizer]:
    (vision_width, vision_depth, vision_heads), (width, depth, heads) = SHAPES[shape]
    vision = {"width": vision_width, "depth": vision_depth, "heads": vision_heads}
    text = {"width": width, "depth": depth, "heads": heads, "intermediate": 4 * width, "max_positions": 40}
    tokenizer = Tokenizer(WORDS)
    torch.manual_seed(seed)
    vision |= {"image_size": image_size, "patch_size": 32}
    med = Med(ModelConfig.model_validate({"vision": vision, "text": text, "embed_dim": 16}), tokenizer.num_tokens)
    with torch.no_grad():
        for weight in med.parameters():
            weight.add_(torch.randn_like(weight) * 0.05)
    return med, tokenizer


def as_own_folder(folder: Path, med: Med, tokenizer: Tokenizer, save: Callable[..., None]) -> str:
    save_med(folder, med, tokenizer)
    return str(folder)


def as_transformers_folder(folder: Path, med: Med, tokenizer: Tokenizer, save: Callable[..., None]) -> str:
    """As transformers itself writes it, after loading what we wrote."""
    import transformers

    ours, theirs = folder / "ours", folder / "theirs"
    save(ours, med, tokenizer)
    name = "BlipForConditionalGeneration" if save is save_captioner else "BlipForImageTextRetrieval"
    getattr(transformers, name).from_pretrained(ours).save_pretrained(theirs)
    tokenizer.save(theirs)
    return str(theirs)


def as_hub_name(folder: Path, med: Med, tokenizer: Tokenizer, save: Callable[..., None]) -> str:
    """In the layout of the hub's cache, which `cached` points to."""
    name = f"someone/{folder.name}"
    cached = folder.parent / "hub" / f"models--{name.replace('/', '--')}"
    shutil.copytree(as_transformers_folder(folder, med, tokenizer, save), cached / "snapshots" / "a1b2c3")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("a1b2c3")
    return name


def as_original_file(folder: Path, med: Med, tokenizer: Tokenizer, save: Callable[..., None]) -> str:
    folder.mkdir()
    torch.save({"model": original_weights(med, folder, tokenizer)}, folder / "model.pth")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return str(folder / "model.pth")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An offline hub whose cache lies in `tmp_path`."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, make_images: Callable[..., Path]) -> pa.Table:
    return read_parquet(make_images(tmp_path_factory.mktemp("images"), 4, 4) / "part-00000.parquet")


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("kind", "shape"),
    [(as_hub_name, "base"), (as_original_file, "base"), (as_transformers_folder, "large"), (as_original_file, "large")],
)
def test_captions_and_scores_are_those_of_the_same_model_in_our_format(
    tmp_path: Path, images: pa.Table, shape: str, kind: Callable[..., str]
) -> None:
    captioner, filter = random_blip(shape, CAPTIONER_PX, 0), random_blip(shape, FILTER_PX, 1)
    own = [
        as_own_folder(tmp_path / f"own-{part}", *model, save_med)
        for part, model in (("captioner", captioner), ("filter", filter))
    ]
    given = [
        kind(tmp_path / f"{shape}-captioner", *captioner, save_captioner),
        kind(tmp_path / f"{shape}-filter", *filter, save_filter),
    ]
    expected = CaptionWorker(own[0], own[1], CONFIG, num_threads=1)(images).to_pylist()
    worker = CaptionWorker(given[0], given[1], CONFIG, num_threads=1)
    found = worker(images).to_pylist()
    assert [row["caption"] for row in found] == [row["caption"] for row in expected]
    assert len({row["caption"] for row in found}) == len(found) == 8
    for row, other in zip(found, expected, strict=True):
        for score in ("itm_score", "itc_score"):
            assert row[score] == pytest.approx(other[score], abs=1e-5)
    assert [model.image_size for model in worker.models.all] == [CAPTIONER_PX, FILTER_PX]


def published(shape: str) -> Any:
    """The configuration of BLIP's published base and large models, as transformers has it."""
    from transformers import BlipConfig

    vision = {"image_size": 384}
    large = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    return BlipConfig(
        vision_config=vision | (large if shape == "large" else {}),
        text_config={"encoder_hidden_size": 1024 if shape == "large" else 768, "num_attention_heads": 12},
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["BlipForConditionalGeneration", "BlipForImageTextRetrieval"])
def test_every_weight_of_the_published_sizes_has_its_place(shape: str, name: str) -> None:
    """On the meta device: names and shapes, no memory."""
    import transformers

    config = published(shape)
    with torch.device("meta"):
        theirs = getattr(transformers, name)(config)
        model_config, num_tokens = config_from_transformers(config.to_dict(), Path("config.json"))
        med = med_from_blip(theirs.state_dict(), model_config, num_tokens, Path(name))
    assert num_tokens == 30_524
    assert (model_config.vision.width, model_config.text.width) == (1024 if shape == "large" else 768, 768)
    assert med.capabilities == ({"decode"} if name == "BlipForConditionalGeneration" else {"embed", "match"})
    assert sum(weight.numel() for weight in med.vision.parameters()) == sum(
        weight.numel() for weight in theirs.vision_model.parameters()
    )


def test_the_hub_is_asked_in_vain_in_one_line(hub: Path) -> None:
    from blip_bootstrap.errors import CheckpointError

    with pytest.raises(CheckpointError, match="someone/absent: neither a file, a folder nor a model the hub gives"):
        load_med("someone/absent")
