"""Checkpoints as they are published, random and tiny: made, saved and asked by transformers, and evaluated here.

Each is a folder of transformers with its processor, and a .pth file by the released code's names, of both layouts: in
the large one the image encoder is wider than the text stack. Pictures are of many shapes and modes, texts have marks,
capitals and accents; what transformers is given is prepared as the released code does it.
"""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from blip_bootstrap.config import Config
from blip_training.benchmarks.evaluate_on import measure
from tests.support.benchmark_files import write_json

LETTERS = list("abcdefghijklmnopqrstuvwxyz0123456789,?'-/&")

WORDS = ["a", "picture", "of", "dog", "cat", "red", "blue", "what", "colour", "is", "the", "two", "and", "cafe", "1"]

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(w for w in WORDS if w not in LETTERS)]

TEXTS = [
    "A red DOG, and a cat.", "a red dog and a cat", "The café (blue)!", 'What "is" the picture of?', "two: a; b ~ c",
    "a dog - the cat's/dog's", "the " * 50, "of a picture", "Blue & red #1", "a cat  \t and\n two dogs",
]  # fmt: skip

ORIGINAL = (
    ("vision_model.embeddings.class_embedding", "visual_encoder.cls_token"),
    ("vision_model.embeddings.position_embedding", "visual_encoder.pos_embed"),
    ("vision_model.embeddings.patch_embedding", "visual_encoder.patch_embed.proj"),
    ("vision_model.post_layernorm", "visual_encoder.norm"), ("vision_model.encoder.layers", "visual_encoder.blocks"),
    ("layer_norm", "norm"), ("self_attn.projection", "attn.proj"), ("self_attn", "attn"),
)  # fmt: skip

LAYOUTS = {"base": 128, "large": 192}
"""The width of the image encoder; the text stack's is 128."""


def config_of(layout: str) -> Any:
    from transformers import BlipConfig

    width, tokens = LAYOUTS[layout], len(PIECES) + 2
    vision = {
        "hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": 2, "layer_norm_eps": 1e-6,
        "num_attention_heads": width // 64, "image_size": 48, "patch_size": 16,
    }  # fmt: skip
    text = {
        "vocab_size": tokens, "hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2,
        "num_attention_heads": 2, "encoder_hidden_size": width, "max_position_embeddings": 60, "pad_token_id": 0,
        "bos_token_id": tokens - 2, "sep_token_id": 3, "eos_token_id": 3,
    }  # fmt: skip
    return BlipConfig(text_config=text, vision_config=vision, image_text_hidden_size=24)


def publish(folder: Path, kind: Any, layout: str) -> tuple[Any, Any]:
    """A random model of that class in `folder` with its processor, and as FOLDER.pth; the model and the processor."""
    import transformers

    named: Any = transformers  # some of whose names its types do not know

    torch.manual_seed(3)
    model = kind(config_of(layout)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            is_gain = "norm" in name.lower() and name.endswith("weight")
            weight.copy_(1 + 0.1 * torch.randn_like(weight) if is_gain else 0.12 * torch.randn_like(weight))
            weight.mul_(4 if "crossattention.output.dense.weight" in name else 1)
    folder.mkdir()
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in PIECES))
    pieces = named.BertTokenizerFast(str(folder / "vocab.txt"), do_lower_case=True)
    pieces.add_special_tokens({"bos_token": "[DEC]"})
    pieces.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
    processor = named.BlipProcessor(named.BlipImageProcessorPil(size={"height": 48, "width": 48}), pieces)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    save_as_released(folder.with_suffix(".pth"), model.state_dict())
    return model, processor


def save_as_released(file: Path, weights: dict[str, torch.Tensor]) -> None:
    """A training's file: weights by the released names with queues, momentum encoders, counters and settings."""
    renamed = {}
    for name, weight in weights.items():
        for theirs, released in ORIGINAL:
            name = name.replace(theirs, released)
        renamed[name] = weight.clone()
        module, _, rest = name.partition(".")
        if "itm_head.weight" in weights and module in ("visual_encoder", "vision_proj", "text_encoder", "text_proj"):
            renamed[f"{module}_m.{rest}"] = weight + 1
    if "itm_head.weight" in weights:
        renamed |= {f"{one}_queue": torch.randn(24, 70) for one in ("image", "text")} | {"temp": torch.tensor(0.07)}
        renamed |= {"idx_queue": torch.full((1, 70), -100), "ptr_queue": torch.zeros(1, dtype=torch.long)}
    for root in ("text_encoder", "text_decoder.bert"):
        if any(name.startswith(root) for name in renamed):
            renamed[f"{root}.embeddings.position_ids"] = torch.arange(60)[None]
    torch.save({"model": renamed, "optimizer": {}, "config": {"image_size": 48}, "epoch": 5}, file)
    (file.with_name("vocab.txt")).write_text("".join(f"{piece}\n" for piece in PIECES))


def draw(file: Path, seed: int) -> None:
    """A picture that is not square, of another mode each."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (5 + seed, 9, 3), dtype=np.uint8)
    mode, kind = (("RGB", "JPEG"), ("L", "PNG"), ("CMYK", "JPEG"), ("P", "PNG"))[seed % 4]
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).resize((60 + 7 * seed, 90)).convert(mode).save(file, kind)


def pre_caption(text: str) -> str:
    """As the released code's function of that name."""
    text = re.sub(r"([.!\"()*#:;~])", " ", text.lower())
    return " ".join(re.sub(r"\s{2,}", " ", text).strip().split(" ")[:30])


def seen(processor: Any, file: Path) -> torch.Tensor:
    pixels: torch.Tensor = processor(images=Image.open(file).convert("RGB"), return_tensors="pt").pixel_values
    return pixels


def settings(**changes: Any) -> Config:
    return Config.model_validate({"benchmark": {"device": "cpu", "meteor": False, "batch_size": 3} | changes})


def both(folder: Path) -> tuple[Path, Path]:
    return folder, folder.with_suffix(".pth")


def rows_of(result: dict[str, Any], task: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(result["path"]).with_name(f"{task}.jsonl").read_text().splitlines()]


def write_flickr30k(root: Path, count: int = 6) -> list[list[str]]:
    """dataset_flickr30k.json; each picture has two texts, and some texts are those of others, too."""
    texts = [[TEXTS[i % len(TEXTS)], TEXTS[(3 * i + 1) % len(TEXTS)]] for i in range(count)]
    images = []
    for i, own in enumerate(texts):
        draw(root / "flickr30k-images" / f"{i}.jpg", i)
        images.append({"filename": f"{i}.jpg", "split": "test", "imgid": i, "sentences": [{"raw": t} for t in own]})
    write_json(root / "dataset_flickr30k.json", {"images": images, "dataset": "flickr30k"})
    return texts


@torch.no_grad()
@pytest.mark.parametrize("layout", LAYOUTS)
def test_captioners(layout: str, tmp_path: Path) -> None:
    from transformers import BlipForConditionalGeneration

    model, processor = publish(tmp_path / "model", BlipForConditionalGeneration, layout)
    write_flickr30k(tmp_path / "data")
    ids = processor.tokenizer("a picture of", return_tensors="pt").input_ids
    ids[:, 0] = len(PIECES)
    expected = []
    for i in range(6):
        pixels = seen(processor, tmp_path / "data" / "flickr30k-images" / f"{i}.jpg")
        row = model.generate(
            pixel_values=pixels, input_ids=ids, num_beams=3, min_length=5, max_length=20, do_sample=False
        )[0]
        text = processor.tokenizer.decode(row, skip_special_tokens=True)
        expected.append(text.removeprefix("a picture of").strip())
    assert len(set(expected)) > 2
    for source in both(tmp_path / "model"):
        result = measure(source, "flickr30k", tmp_path / "data", settings(), tmp_path / "out")
        assert [row["caption"] for row in rows_of(result, "captioning")] == expected


@torch.no_grad()
@pytest.mark.parametrize("layout", LAYOUTS)
def test_filters(layout: str, tmp_path: Path) -> None:
    from transformers import BlipForImageTextRetrieval

    model, processor = publish(tmp_path / "model", BlipForImageTextRetrieval, layout)
    texts = write_flickr30k(tmp_path / "data")
    similar, matched = (torch.zeros(6, 12) for _ in range(2))
    for t, text in enumerate(text for own in texts for text in own):
        ids = processor.tokenizer(pre_caption(text), truncation=True, max_length=35, return_tensors="pt").input_ids
        matching = torch.cat([torch.full((1, 1), len(PIECES) + 1), ids[:, 1:]], dim=1)
        for i in range(6):
            pixels = seen(processor, tmp_path / "data" / "flickr30k-images" / f"{i}.jpg")
            similar[i, t] = model(ids, pixels, use_itm_head=False).itm_score[0, 0]
            matched[i, t] = model(matching, pixels).itm_score[0, 1]
    expected = {f"itc_{name}": value for name, value in figures_of(similar, similar.T).items()}
    rows, columns = ranked_anew(similar, matched), ranked_anew(similar.T, matched.T)
    expected |= figures_of(rows, columns)
    assert len(set(expected.values())) > 5
    for source in both(tmp_path / "model"):
        result = measure(source, "flickr30k", tmp_path / "data", settings(rerank_top_k=3), tmp_path / "out")
        assert {name: result["figures"][name] for name in expected} == pytest.approx(expected)


def ranked_anew(similar: torch.Tensor, matched: torch.Tensor) -> torch.Tensor:
    """The first three of each row by the sum of both scores above all others."""
    scores = similar.clone()
    for row, own in enumerate(similar.tolist()):
        for at in sorted(range(len(own)), key=lambda at: -own[at])[:3]:
            scores[row, at] = 1000 + similar[row, at] + matched[row, at]
    return scores


def figures_of(by_picture: torch.Tensor, by_text: torch.Tensor) -> dict[str, float]:
    """Recalls and median ranks; picture i has the texts 2 i and 2 i + 1. Scores within rounding are equal ones."""
    texts = [
        min(sum(o >= row[own] - 1e-4 and at // 2 != i for at, o in enumerate(row)) for own in (2 * i, 2 * i + 1))
        for i, row in enumerate(by_picture.tolist())
    ]
    pictures = [
        sum(o >= row[t // 2] - 1e-4 and at != t // 2 for at, o in enumerate(row))
        for t, row in enumerate(by_text.tolist())
    ]
    figures: dict[str, float] = {}
    for name, ranks in (("tr", texts), ("ir", pictures)):
        figures |= {f"{name}{k}": sum(rank < k for rank in ranks) / len(ranks) for k in (1, 5, 10)}
        figures[f"{name}_mdr"] = statistics.median(rank + 1 for rank in ranks)
    return figures


@torch.no_grad()
def test_models_that_answer(tmp_path: Path) -> None:
    from transformers import BlipForQuestionAnswering

    model, processor = publish(tmp_path / "model", BlipForQuestionAnswering, "base")
    asked = ["What colour is the DOG?", "is the cat (red) / blue?", "what's two & 1;", "the café?", "What is it... "]
    people = ["a dog", "two", "2", "the cat's", "1"]
    expected, rows = [], []
    for i, question in enumerate(asked):
        draw(tmp_path / "data" / "val2014" / f"{i % 3}.jpg", i % 3)
        pixels = seen(processor, tmp_path / "data" / "val2014" / f"{i % 3}.jpg")
        text = re.sub(r"([.!\"()*#:;~])", "", question.lower()).strip()
        ids = processor.tokenizer(text, return_tensors="pt").input_ids
        ids[:, 0] = len(PIECES) + 1
        row = model.generate(ids, pixels, do_sample=False, num_beams=3, min_length=1, max_length=10)[0]
        expected.append(processor.tokenizer.decode(row, skip_special_tokens=True))
        given = [expected[i].upper()] * (i % 4) + people[: 10 - i % 4] * 2
        rows.append({"question_id": i, "question": question, "answer": given[:10], "image": f"val2014/{i % 3}.jpg"})
    write_json(tmp_path / "data" / "vqa_val.json", rows)
    assert len(set(expected)) > 1
    for source in both(tmp_path / "model"):
        result = measure(source, "vqav2", tmp_path / "data", settings(), tmp_path / "out")
        assert [row["answer"] for row in rows_of(result, "vqa")] == expected
        assert 0 < result["figures"]["accuracy"] < 1
