"""A tiny model with random weights, transformers' configuration of its sizes, and its weights by the original names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from blip_bootstrap.config import ModelConfig
from blip_training.checkpoint.store import save_captioner, save_filter
from blip_training.data.tokenizer import Tokenizer
from blip_training.model.med import Med
from blip_training.model.vqa import Vqa

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "picture", "of", *(f"w{i}" for i in range(60))]
SIZES = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}


def tiny(tokenizer: Tokenizer, seed: int = 0, **changes: Any) -> Med:
    torch.manual_seed(seed)
    config = ModelConfig.model_validate(
        {
            "vision": {"image_size": 32, "patch_size": 8, "width": 128, "depth": 2, "heads": 2},
            "text": {"width": 128, "depth": 2, "heads": 2, "intermediate": 96, "max_positions": 40},
            "embed_dim": 16,
        }
        | changes
    )
    med = Med(config, tokenizer.num_tokens).eval()
    with torch.no_grad():
        for weight in med.parameters():
            weight.add_(torch.randn_like(weight) * 0.05)
    return med


def transformers_config(tokenizer: Tokenizer) -> Any:
    from transformers import BlipConfig

    text = {
        "vocab_size": tokenizer.num_tokens, "intermediate_size": 96, "max_position_embeddings": 40,
        "bos_token_id": tokenizer.dec_id, "sep_token_id": tokenizer.sep_id, "eos_token_id": tokenizer.sep_id,
    }  # fmt: skip
    vision = {"intermediate_size": 512, "image_size": 32, "patch_size": 8, "layer_norm_eps": 1e-6}
    return BlipConfig(text_config=SIZES | text, vision_config=SIZES | vision, image_text_hidden_size=16)


def randomise(model: torch.nn.Module) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.1)


def read_by(kind: Any, folder: Path) -> Any:
    """The model that the class `kind` of transformers reads from `folder`, without a word about its weights."""
    model, said = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(said.values()), said
    return model.eval()


def normalised_of(model: Med | Vqa, pixels: torch.Tensor) -> torch.Tensor:
    """The pixels as transformers' models take them: ours normalise in their stem."""
    stem: Any = model.vision.stem
    return stem.normalise(pixels)


def original_weights(med: Med, folder: Path, tokenizer: Tokenizer) -> dict[str, torch.Tensor]:
    """What the original pre-training file of `med` holds, by its names."""
    save_captioner(folder / "c", med, tokenizer)
    save_filter(folder / "f", med, tokenizer)
    weights = load_file(folder / "c" / "model.safetensors") | load_file(folder / "f" / "model.safetensors")
    rules = (
        ("vision_model.embeddings.class_embedding", "visual_encoder.cls_token"),
        ("vision_model.embeddings.position_embedding", "visual_encoder.pos_embed"),
        ("vision_model.embeddings.patch_embedding", "visual_encoder.patch_embed.proj"),
        ("vision_model.post_layernorm", "visual_encoder.norm"),
        ("vision_model.encoder.layers", "visual_encoder.blocks"),
        ("layer_norm", "norm"), ("self_attn.projection", "attn.proj"), ("self_attn", "attn"),
    )  # fmt: skip
    renamed = {}
    for name, weight in weights.items():
        for new, old in rules:
            name = name.replace(new, old)
        renamed[name] = weight
    renamed["temp"] = torch.tensor(0.05)
    renamed["text_decoder.cls.predictions.decoder.weight"] = renamed[
        "text_decoder.bert.embeddings.word_embeddings.weight"
    ]
    renamed["text_decoder.cls.predictions.decoder.bias"] = renamed["text_decoder.cls.predictions.bias"]
    for name in [name for name in renamed if name.startswith(("visual_encoder.", "text_encoder.", "vision_proj."))]:
        renamed[re.sub(r"^(\w+?)\.", r"\1_m.", name)] = renamed[name] + 1
    for name in ("image_queue", "text_queue", "queue_ptr", "text_encoder.embeddings.position_ids"):
        renamed[name] = torch.zeros(4)
    return renamed
