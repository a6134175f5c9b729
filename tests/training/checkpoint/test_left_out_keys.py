"""No key or setting of a checkpoint that changes what a model computes is left out unsaid."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from blip_bootstrap.config import ModelConfig
from blip_bootstrap.errors import CheckpointError
from blip_training.checkpoint.fresh import new_med, vqa_from_med
from blip_training.checkpoint.skip_init import undrawn
from blip_training.checkpoint.store import load_any, load_med, save_captioner, save_filter, save_med, save_vqa
from blip_training.data.tokenizer import Tokenizer
from blip_training.evaluate.clip_scorer import ClipScorer
from blip_training.model.med import Med
from tests.support.tiny_med import WORDS, original_weights, tiny
from tests.support.tiny_scorers import save_clip, save_siglip

BERT_SIZES: dict[str, Any] = {
    "vocab_size": len(WORDS), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2, "max_position_embeddings": 40,
}  # fmt: skip
VISION = {"image_size": 16, "patch_size": 8, "width": 32, "depth": 2, "heads": 2}
TEXT = {"width": 32, "depth": 2, "heads": 2, "intermediate": 64, "max_positions": 40}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(WORDS)


def add_keys(folder: Path, *names: str, like: str | None = None) -> None:
    weights = load_file(folder / "model.safetensors")
    for name in names:
        weights[name] = weights[like].clone() if like else torch.ones(3)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def change_json(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text())
    for name, value in changes.items():
        section, _, key = name.rpartition("__")
        (content[section] if section else content)[key] = value
    file.write_text(json.dumps(content))


@pytest.mark.parametrize("kind", ["captioner", "filter", "vqa"])
@pytest.mark.parametrize(
    "name",
    [
        "text_decoder.bert.encoder.layer.2.output.dense.weight", "lora_A.weight", "vision_model.pooler.dense.weight",
        "text_encoder.cls.predictions.bias", "text_decoder.cls.predictions.decoder.scale", "my_text_encoder_m.weight",
        "image_queue_of_mine", "vision_model.embeddings.position_ids_scale",
    ],
)  # fmt: skip
def test_a_strange_key_of_a_blip_is_refused(tmp_path: Path, tokenizer: Tokenizer, kind: str, name: str) -> None:
    med = tiny(tokenizer)
    if kind == "vqa":
        save_vqa(tmp_path, vqa_from_med(med), tokenizer)
    else:
        (save_captioner if kind == "captioner" else save_filter)(tmp_path, med, tokenizer)
    add_keys(tmp_path, name)
    with pytest.raises(CheckpointError, match=r"left over|missing"):
        load_any(tmp_path)


@torch.no_grad()
def test_keys_that_are_left_out_knowingly(tmp_path: Path, tokenizer: Tokenizer) -> None:
    save_filter(tmp_path, tiny(tokenizer), tokenizer)
    with undrawn():
        before = load_med(tmp_path)[0].state_dict()
    known = (
        "text_encoder.embeddings.position_ids", "text_encoder.pooler.dense.weight", "logit_scale", "image_queue",
        "text_queue_m", "idx_queue", "ptr_queue", "queue_ptr", "text_encoder_m.embeddings.word_embeddings.weight",
        "visual_encoder_m.norm.bias", "vision_proj_m.weight",
    )  # fmt: skip
    add_keys(tmp_path, *known)
    with undrawn():
        after = load_med(tmp_path)[0].state_dict()
    assert all(torch.equal(after[name], before[name]) for name in after)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"text_config__hidden_act": "relu"}, "text_config.hidden_act is 'relu'; only 'gelu'"),
        ({"vision_config__hidden_act": "quick_gelu"}, "vision_config.hidden_act is 'quick_gelu'"),
        ({"text_config__layer_norm_eps": 1e-5}, "text_config.layer_norm_eps is 1e-05"),
        ({"vision_config__layer_norm_eps": 0.1}, "vision_config.layer_norm_eps is 0.1"),
        ({"vision_config__num_channels": 4}, "num_channels is 4"),
        ({"text_config__position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
    ],
)
def test_settings_that_are_not_computed_are_refused(
    tmp_path: Path, tokenizer: Tokenizer, change: dict[str, Any], says: str
) -> None:
    save_captioner(tmp_path, tiny(tokenizer), tokenizer)
    change_json(tmp_path / "config.json", **change)
    with pytest.raises(CheckpointError, match=says):
        load_med(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"image_mean": [0.5, 0.5, 0.5]}, r"image_mean is \[0\.5, 0\.5, 0\.5\]"),
        ({"image_std": 0.5}, "image_std is 0.5"),
        ({"do_normalize": False}, "do_normalize is False"),
        ({"do_center_crop": True}, "do_center_crop is True"),
        ({"resample": 2}, "resample is 2; pictures are made pixels with 3 here"),
        ({"rescale_factor": 1 / 127.5}, "rescale_factor is"),
    ],
)
def test_other_pixels_than_are_made_here_are_refused(
    tmp_path: Path, tokenizer: Tokenizer, change: dict[str, Any], says: str
) -> None:
    save_captioner(tmp_path, tiny(tokenizer), tokenizer)
    load_med(tmp_path)
    change_json(tmp_path / "preprocessor_config.json", **change)
    with pytest.raises(CheckpointError, match=says):
        load_med(tmp_path)
    inside = {"image_processor": json.loads((tmp_path / "preprocessor_config.json").read_text()), "tokenizer": {}}
    (tmp_path / "preprocessor_config.json").unlink()
    (tmp_path / "processor_config.json").write_text(json.dumps(inside))
    with pytest.raises(CheckpointError, match=says):
        load_med(tmp_path)


def test_a_strange_key_of_an_original_file_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    weights = original_weights(tiny(tokenizer), tmp_path, tokenizer) | {"prompt_tokens": torch.ones(3)}
    torch.save({"model": weights}, tmp_path / "model.pth")
    tokenizer.save(tmp_path)
    with pytest.raises(CheckpointError, match="keys prompt_tokens left over"):
        load_med(tmp_path / "model.pth")


def test_a_broken_vocabulary_beside_an_original_file_is_not_passed_over(tmp_path: Path, tokenizer: Tokenizer) -> None:
    torch.save({"model": original_weights(tiny(tokenizer), tmp_path, tokenizer)}, tmp_path / "model.pth")
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(CheckpointError, match=r"vocab\.txt: vocabulary of 2 pieces lacks"):
        load_med(tmp_path / "model.pth")


def save_bert(folder: Path) -> Path:
    from transformers import BertConfig, BertForPreTraining

    torch.manual_seed(0)
    BertForPreTraining(BertConfig(**BERT_SIZES)).save_pretrained(folder)
    return folder


def start_from(folder: Path, **text: Any) -> Med:
    given = {"vision": VISION, "text": TEXT | text | {"start": str(folder)}, "embed_dim": 16}
    return new_med(ModelConfig.model_validate(given), len(WORDS) + 2)


def test_a_berts_next_sentence_head_is_left_out_and_nothing_else(tmp_path: Path) -> None:
    start_from(save_bert(tmp_path))
    add_keys(tmp_path, "bert.embeddings.word_embeddings_2.weight")
    with pytest.raises(CheckpointError, match=r"embeddings\.word_embeddings_2\.weight left over"):
        start_from(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "roberta"}, "model_type is 'roberta'; only 'bert'"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
    ],
)
def test_a_bert_that_computes_otherwise_is_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    change_json(save_bert(tmp_path) / "config.json", **change)
    with pytest.raises(CheckpointError, match=says):
        start_from(tmp_path)


def test_a_berts_own_output_layer_is_taken_or_said(tmp_path: Path) -> None:
    save_bert(tmp_path)
    tied = start_from(tmp_path, tied_output=False)
    words = tied.text.embeddings.of("causal").words.weight
    assert tied.text.lm_head.output is not None
    assert torch.equal(tied.text.lm_head.output.weight[:-2], words[:-2])

    add_keys(tmp_path, "cls.predictions.decoder.weight", like="bert.embeddings.word_embeddings.weight")
    start_from(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["cls.predictions.decoder.weight"] += 1
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"set pretrain\.model\.text\.tied_output: false"):
        start_from(tmp_path)
    med = start_from(tmp_path, tied_output=False)
    assert med.text.lm_head.output is not None
    assert torch.equal(med.text.lm_head.output.weight[:-2], weights["cls.predictions.decoder.weight"])


def test_fewer_layers_of_a_bert_are_taken_without_a_word(tmp_path: Path) -> None:
    assert len(list(start_from(save_bert(tmp_path), depth=1).text.each_layer())) == 1


def test_a_strange_key_or_setting_of_a_vit_is_refused(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2}
    sizes["num_attention_heads"] = 2
    ViTForImageClassification(ViTConfig(**sizes, image_size=16, patch_size=8)).save_pretrained(tmp_path)
    config = ModelConfig.model_validate({"vision": VISION | {"start": str(tmp_path)}, "text": TEXT, "embed_dim": 16})
    new_med(config, len(WORDS) + 2)
    add_keys(tmp_path, "vit.encoder.layer.0.lambda_1")
    with pytest.raises(CheckpointError, match=r"encoder\.layer\.0\.lambda_1 left over"):
        new_med(config, len(WORDS) + 2)
    change_json(tmp_path / "config.json", hidden_act="relu")
    with pytest.raises(CheckpointError, match="hidden_act is 'relu'"):
        new_med(config, len(WORDS) + 2)


@pytest.mark.parametrize("save", [save_clip, save_siglip])
def test_a_scorers_keys(tmp_path: Path, save: Any) -> None:
    folder = save(tmp_path / "scorer")
    file = folder / "model.safetensors"
    weights = load_file(file)
    lost = next(name for name in weights if name.startswith("text_model") and name.endswith("fc1.weight"))
    save_file({name: w for name, w in weights.items() if name != lost}, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"{lost} missing"):
        ClipScorer(folder)
    save_file(weights | {"text_model.adapter.weight": torch.ones(2)}, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"text_model\.adapter\.weight left over"):
        ClipScorer(folder)
    save_file(weights | {"text_model.embeddings.position_ids": torch.arange(12)[None]}, file, {"format": "pt"})
    ClipScorer(folder)
    file.unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    ClipScorer(folder)
    (folder / "pytorch_model.bin").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: a Git LFS pointer"):
        ClipScorer(folder)


@pytest.mark.parametrize("name", ["vision_proj", "text_proj"])
def test_half_of_the_projections_is_refused(tmp_path: Path, tokenizer: Tokenizer, name: str) -> None:
    save_filter(tmp_path, tiny(tokenizer), tokenizer)
    weights = load_file(tmp_path / "model.safetensors")
    left = {key: weight for key, weight in weights.items() if not key.startswith(name)}
    save_file(left, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"damaged: of vision_proj and text_proj it holds only"):
        load_med(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda weight: (100 * weight).to(torch.int8), r"no dense tensor of floats \(int8, strided\)"),
        (lambda weight: weight > 0, "bool"), (lambda weight: weight.to(torch.complex64), "complex64"),
        (lambda weight: weight.to_sparse(), "sparse_coo"), (lambda weight: weight.to("meta"), "missing"),
    ],
)  # fmt: skip
def test_weights_that_are_no_plain_floats_are_refused(
    tmp_path: Path, tokenizer: Tokenizer, change: Any, says: str
) -> None:
    save_captioner(tmp_path, tiny(tokenizer), tokenizer)
    weights = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    name = "text_decoder.bert.encoder.layer.0.intermediate.dense.weight"
    torch.save(weights | {name: change(weights[name])}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=says):
        load_med(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"text_config": "x"}, "text_config is 'x'"), ({"vision_config": 3}, "vision_config is 3"),
        ({"text_config__vocab_size": "70"}, "vocab_size is '70'"),
        ({"vision_config__hidden_size": None}, "vision_config.hidden_size is None"),
        ({"text_config__max_position_embeddings": {}}, "max_position_embeddings is {}"),
        ({"text_config__num_hidden_layers": -1}, "num_hidden_layers is -1"),
    ],
)  # fmt: skip
def test_sizes_that_are_no_numbers_are_named(
    tmp_path: Path, tokenizer: Tokenizer, change: dict[str, Any], says: str
) -> None:
    save_captioner(tmp_path, tiny(tokenizer), tokenizer)
    (tmp_path / "med.json").unlink()
    change_json(tmp_path / "config.json", **change)
    with pytest.raises(CheckpointError, match=says):
        load_med(tmp_path)


def places(content: Any, found: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every value of a JSON file stands; of the vocabulary the first piece alone."""
    pairs = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for name, value in pairs:
        yield (*found, name)
        yield from list(places(value, (*found, name)))[: 1 if name == "vocab" else None]


@pytest.mark.parametrize("kind", ["own", "theirs", "bare"])
def test_a_value_of_any_other_type_is_a_line_or_changes_nothing(
    tmp_path: Path, tokenizer: Tokenizer, kind: str
) -> None:
    (save_med if kind == "own" else save_filter)(tmp_path, tiny(tokenizer), tokenizer)
    if kind == "bare":  # as others save it
        (tmp_path / "med.json").unlink()
        (tmp_path / "tokenizer.json").unlink()
        (tmp_path / "added_tokens.json").write_text(json.dumps({"[DEC]": len(WORDS), "[ENC]": len(WORDS) + 1}))
    lines = 0
    for file in sorted(tmp_path.glob("*.json")):
        whole = file.read_text()
        for number, (*above, last) in enumerate(places(json.loads(whole))):
            content = json.loads(whole)
            reduce(getitem, above, content)[last] = (None, "x", {}, 1.5)[number % 4]
            file.write_text(json.dumps(content))
            try:
                load_any(tmp_path)
            except CheckpointError as error:
                lines += len(str(error).splitlines())
        file.write_text(whole)
    load_any(tmp_path)
    assert lines > 15
