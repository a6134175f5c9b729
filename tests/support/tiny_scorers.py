"""Tiny random folders of dual encoders, as transformers writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
WORDS = ["a", "dog", "cat", "red", "blue", "on", "square", "circle", "two", "picture", "the"]
MAX_TOKENS = 12
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = SIZES | {
    "vocab_size": len(SPECIAL) + len(WORDS), "max_position_embeddings": MAX_TOKENS,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
VISION = SIZES | {"image_size": 32, "patch_size": 8}


def save_clip(folder: Path) -> Path:
    """A random CLIPModel with its image processor and tokenizer."""
    from transformers import CLIPConfig, CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    config = CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=8)
    return _save(folder, CLIPModel(config), processor)


def save_siglip(folder: Path) -> Path:
    """A random SiglipModel with its image processor and tokenizer."""
    from transformers import SiglipConfig, SiglipModel
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    config = SiglipConfig(text_config=TEXT | {"projection_size": 16}, vision_config=VISION)
    return _save(folder, SiglipModel(config), SiglipImageProcessorPil(size={"height": 32, "width": 32}))


def save_siglip2(folder: Path) -> Path:
    """A random Siglip2Model, which takes pictures of any shape in patches, with its image processor and tokenizer."""
    from transformers import Siglip2Config, Siglip2Model
    from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

    vision = SIZES | {"num_patches": 16, "patch_size": 8}
    config = Siglip2Config(text_config=TEXT | {"projection_size": 16}, vision_config=vision)
    return _save(folder, Siglip2Model(config), Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16))


def save_metaclip2(folder: Path) -> Path:
    """A random MetaClip2Model with its image processor and tokenizer."""
    from transformers import MetaClip2Config, MetaClip2Model
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    config = MetaClip2Config(text_config=TEXT, vision_config=VISION, projection_dim=8)
    return _save(folder, MetaClip2Model(config), processor)


SAVED = {"clip": save_clip, "metaclip_2": save_metaclip2, "siglip": save_siglip, "siglip2": save_siglip2}


def _save(folder: Path, model: Any, processor: Any) -> Path:
    from transformers import PreTrainedTokenizerFast
    from transformers.utils import logging

    torch.manual_seed(3)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim():  # the scale and the bias of the logits stay
                weight.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.3)
    pieces = Tokenizer(models.WordLevel({word: i for i, word in enumerate(SPECIAL + WORDS)}, unk_token="<unk>"))
    pieces.pre_tokenizer = pre_tokenizers.Whitespace()
    pieces.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=pieces, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    logging.disable_progress_bar()
    for part in (model, processor, tokenizer):
        part.save_pretrained(folder)
    return folder
