"""Small benchmarks on disk as their publishers ship them, about pictures and videos of random colours."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

SIZE = 32


def write_json(file: Path, content: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    return file


def write_lines(file: Path, rows: Sequence[Any]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def picture(file: Path, seed: int) -> torch.Tensor:
    """Write a picture; its pixels [3, SIZE, SIZE]."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def some_texts(count: int, seed: int = 0, longest: int = 7) -> list[str]:
    """Different texts of words that tests' vocabularies have."""
    rng = random.Random(seed)
    return [" ".join(f"w{rng.randrange(60)}" for _ in range(rng.randint(2, longest))) for _ in range(count)]


def write_coco(root: Path, count: int = 9, texts_each: int = 3) -> tuple[list[list[str]], torch.Tensor]:
    """dataset_coco.json with `count` pictures of the test split and one of others; their captions and pixels."""
    texts = some_texts((count + 1) * texts_each)
    images, pixels = [], []
    for i in range(count + 1):
        name = f"COCO_val2014_{i:012d}.png"
        sentences = [{"raw": text} for text in texts[i * texts_each : (i + 1) * texts_each]]
        split = "test" if i < count else "restval"
        images.append({"filepath": "val2014", "filename": name, "split": split, "sentences": sentences})
        if i < count:
            pixels.append(picture(root / "val2014" / name, i))
    write_json(root / "dataset_coco.json", {"dataset": "coco", "images": images})
    captions = [[one["raw"] for one in image["sentences"]] for image in images[:count]]  # type: ignore[index]
    return captions, torch.stack(pixels)


def write_vqav2(root: Path, num_pictures: int = 4, count: int = 12) -> tuple[list[str], list[list[str]], torch.Tensor]:
    """VQAv2's two files; questions, the ten answers to each, and pixels of the picture of each."""
    rng = random.Random(1)
    pictures = [
        picture(root / "val2014" / f"COCO_val2014_{i:012d}.jpg", i) for i in range(num_pictures)
    ]  # PNG bytes would do too: decoding goes by content
    for i in range(num_pictures):
        file = root / "val2014" / f"COCO_val2014_{i:012d}.jpg"
        Image.fromarray(pictures[i].permute(1, 2, 0).numpy()).save(file, format="PNG")
    questions = some_texts(count, 5, 4)
    answers = [[f"w{rng.randrange(60)}" for _ in range(10)] for _ in questions]
    of = [i % num_pictures for i in range(count)]
    write_json(
        root / "v2_OpenEnded_mscoco_val2014_questions.json",
        {"questions": [{"question_id": 7000 + i, "image_id": of[i], "question": q} for i, q in enumerate(questions)]},
    )
    write_json(
        root / "v2_mscoco_val2014_annotations.json",
        {
            "annotations": [
                {
                    "question_id": 7000 + i, "answer_type": ("yes/no", "other")[i % 2],
                    "answers": [{"answer": text, "answer_id": n + 1} for n, text in enumerate(own)],
                }
                for i, own in enumerate(answers)
            ]
        },
    )  # fmt: skip
    return questions, answers, torch.stack([pictures[i] for i in of])


def write_frames(folder: Path, seed: int, count: int = 20) -> torch.Tensor:
    """A video as a folder of frames; their pixels."""
    return torch.stack([picture(folder / f"{i:04d}.png", seed * 1000 + i) for i in range(count)])
