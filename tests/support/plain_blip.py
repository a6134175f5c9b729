"""What tests/bench/engine.py compares with: captions and ITM scores by plain transformers."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import BlipForConditionalGeneration, BlipForImageTextRetrieval
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from blip_training.data.tokenizer import Tokenizer

PROMPT, NUM_TOKENS = "a picture of", 20


class Theirs:
    """Plain transformers: captions of a whole batch, then the retrieval model once for each text."""

    def __init__(self, captioner: Path, filter: Path, dtype: torch.dtype, device: str = "cpu") -> None:
        self.captioner = BlipForConditionalGeneration.from_pretrained(captioner).eval().to(device)
        self.filter = BlipForImageTextRetrieval.from_pretrained(filter).eval().to(device)
        self.device = device
        self.processor = BlipImageProcessorPil.from_pretrained(captioner)
        self.tokenizer, self.dtype = Tokenizer.load(filter), dtype

    def __call__(self, rows: list[dict[str, Any]]) -> list[tuple[str, list[float]]]:
        """Caption, and ITM scores of web text and caption, of each image."""
        with torch.inference_mode(), torch.autocast(self.device, self.dtype, enabled=self.dtype != torch.float32):
            pixels = self.pixels(rows)
            captions = self.write(pixels, do_sample=True, top_p=0.9, top_k=0)
            scores = [self.match(pixels, texts) for texts in ([row["caption"] for row in rows], captions)]
        return list(zip(captions, map(list, zip(*scores, strict=True)), strict=True))

    def pixels(self, rows: list[dict[str, Any]]) -> torch.Tensor:
        images = [Image.open(io.BytesIO(row["jpg"])).convert("RGB") for row in rows]
        pixels: torch.Tensor = self.processor(images=images, return_tensors="pt")["pixel_values"]
        return pixels.to(self.device)

    def write(self, pixels: torch.Tensor, **how: Any) -> list[str]:
        start = [self.tokenizer.dec_id, *self.tokenizer.piece_ids(PROMPT), self.tokenizer.sep_id]
        given = torch.tensor([start] * len(pixels), device=self.device)
        ids = self.captioner.generate(
            pixel_values=pixels, input_ids=given, min_length=NUM_TOKENS, max_length=NUM_TOKENS, **how
        ).tolist()
        assert all(len(row) == NUM_TOKENS for row in ids), [len(row) for row in ids]
        return [self.tokenizer.decode(row[len(start) - 1 :]) for row in ids]

    def match(self, pixels: torch.Tensor, texts: list[str]) -> list[float]:
        ids, mask = self.tokenizer.encode(texts, 30, "[ENC]")
        ids, mask = ids.to(self.device), mask.to(self.device)
        logits = self.filter(input_ids=ids, pixel_values=pixels, attention_mask=mask).itm_score
        scores: list[float] = logits.float().softmax(1)[:, 1].tolist()
        return scores
