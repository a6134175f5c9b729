"""A tiny VQA model with random weights, its tokenizer, and transformers' model of the same sizes."""

from __future__ import annotations

from typing import Any

import torch

from blip_bootstrap.config import ModelConfig
from blip_training.data.tokenizer import Tokenizer
from blip_training.model.vqa import Vqa

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(60))]
SIZES = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
QUESTIONS = ["w3 w9 w4 w4 w5", "w1", "w2 w3 w4"]


def tiny_config(vision_width: int = 128, **changes: Any) -> ModelConfig:
    return ModelConfig.model_validate(
        {
            "vision": {"image_size": 32, "patch_size": 8, "width": vision_width, "depth": 2, "heads": 2},
            "text": {
                "width": 128, "depth": 2, "heads": 2, "intermediate": 96, "max_positions": 40, "dropout": 0.0,
            },
            "embed_dim": 16,
        }
        | changes
    )  # fmt: skip


def spread(model: torch.nn.Module, seed: int = 0, std: float = 0.05) -> None:
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * std)


def tiny_vqa(tokenizer: Tokenizer, vision_width: int = 128) -> Vqa:
    """[SEP] is likely, so that answers end at all lengths."""
    torch.manual_seed(0)
    vqa = Vqa(tiny_config(vision_width), tokenizer.num_tokens).eval()
    spread(vqa)
    with torch.no_grad():
        vqa.text.lm_head.bias[tokenizer.sep_id] += 0.5
    return vqa


def some_pixels(count: int = 3, size: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def theirs_config(tokenizer: Tokenizer) -> Any:
    from transformers import BlipConfig

    text = {
        "vocab_size": tokenizer.num_tokens, "intermediate_size": 96, "max_position_embeddings": 40,
        "bos_token_id": tokenizer.dec_id, "sep_token_id": tokenizer.sep_id, "eos_token_id": tokenizer.sep_id,
        "pad_token_id": tokenizer.pad_id,
    }  # fmt: skip
    vision = {"intermediate_size": 512, "image_size": 32, "patch_size": 8, "layer_norm_eps": 1e-6}
    return BlipConfig(text_config=SIZES | text, vision_config=SIZES | vision, image_text_hidden_size=16)
