"""Checkpoints: parity with transformers in both directions, the original files, and damaged ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from blip_bootstrap.errors import CheckpointError
from blip_training.checkpoint.skip_init import undrawn
from blip_training.checkpoint.store import load_med, save_captioner, save_filter, save_med
from blip_training.data.tokenizer import Tokenizer
from blip_training.model.med import Med, require
from tests.support.tiny_med import WORDS, normalised_of, original_weights, randomise, read_by, tiny, transformers_config


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(WORDS)


@pytest.fixture
def inputs(tokenizer: Tokenizer) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=generator)
    ids, mask = tokenizer.encode(["a picture of w3 w9", "w1", "w2 w3 w4"], 30)
    return pixels, ids, mask


def first(ids: torch.Tensor, token: int) -> torch.Tensor:
    return torch.cat([torch.full_like(ids[:, :1], token), ids[:, 1:]], dim=1)


def assert_captioner_parity(med: Med, theirs: Any, inputs: tuple[torch.Tensor, ...]) -> None:
    pixels, ids, mask = inputs
    states = med.encode_image(pixels)
    out = theirs(normalised_of(med, pixels), input_ids=first(ids, med.dec_id), attention_mask=mask)
    torch.testing.assert_close(states, out.last_hidden_state, atol=1e-5, rtol=1e-5)
    logits = med.decode(states, ids, mask)
    torch.testing.assert_close(logits[mask == 1], out.logits[mask == 1], atol=1e-5, rtol=1e-5)


def assert_filter_parity(med: Med, theirs: Any, inputs: tuple[torch.Tensor, ...]) -> None:
    pixels, ids, mask = inputs
    states, normalised = med.encode_image(pixels), normalised_of(med, pixels)
    itm = theirs(first(ids, med.enc_id), normalised, attention_mask=mask).itm_score
    torch.testing.assert_close(med.match(states, ids, mask), itm, atol=1e-5, rtol=1e-5)
    itc = theirs(ids, normalised, attention_mask=mask, use_itm_head=False).itm_score
    ours = med.embed_image(states) @ med.embed_text(ids, mask).T
    torch.testing.assert_close(ours, itc, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("share", ["all", "all_but_ca", "all_but_sa", "none"])
def test_transformers_computes_what_a_saved_captioner_and_filter_compute(
    tmp_path: Path, tokenizer: Tokenizer, inputs: tuple[torch.Tensor, ...], share: str
) -> None:
    from transformers import BlipForConditionalGeneration, BlipForImageTextRetrieval

    med = tiny(tokenizer, share=share)
    save_captioner(tmp_path / "captioner", med, tokenizer)
    save_filter(tmp_path / "filter", med, tokenizer)
    assert_captioner_parity(med, read_by(BlipForConditionalGeneration, tmp_path / "captioner"), inputs)
    assert_filter_parity(med, read_by(BlipForImageTextRetrieval, tmp_path / "filter"), inputs)


@torch.no_grad()
def test_folders_of_transformers_load_and_compute_the_same(
    tmp_path: Path, tokenizer: Tokenizer, inputs: tuple[torch.Tensor, ...]
) -> None:
    from transformers import BlipForConditionalGeneration, BlipForImageTextRetrieval

    for kind, check in (
        (BlipForConditionalGeneration, assert_captioner_parity),
        (BlipForImageTextRetrieval, assert_filter_parity),
    ):
        theirs = kind(transformers_config(tokenizer)).eval()
        randomise(theirs)
        theirs.save_pretrained(tmp_path / kind.__name__)
        tokenizer.save(tmp_path / kind.__name__)
        med, _ = load_med(tmp_path / kind.__name__)
        check(med, theirs, inputs)


def test_a_captioner_folder_has_no_filter_in_it(tmp_path: Path, tokenizer: Tokenizer) -> None:
    save_captioner(tmp_path, tiny(tokenizer), tokenizer)
    med, _ = load_med(tmp_path)
    assert med.capabilities == {"decode"}
    require(med, "decode")
    with pytest.raises(CheckpointError, match=r"folder cannot match: its checkpoint holds weights for decode only"):
        require(med, "match", "folder")


@torch.no_grad()
@pytest.mark.parametrize("changes", [{}, {"share": "none"}, {"itc_in_itm": True}])
def test_own_format_round_trip(
    tmp_path: Path, tokenizer: Tokenizer, inputs: tuple[torch.Tensor, ...], changes: dict[str, Any]
) -> None:
    med = tiny(tokenizer, **changes)
    save_med(tmp_path, med, tokenizer, {"step": 7})
    loaded, its_tokenizer = load_med(tmp_path)
    assert its_tokenizer.vocabulary == tokenizer.vocabulary
    assert loaded.config == med.config
    assert json.loads((tmp_path / "config.json").read_text())["extra"] == {"step": 7}
    pixels, ids, mask = inputs
    states = med.encode_image(pixels)
    torch.testing.assert_close(loaded.match(loaded.encode_image(pixels), ids, mask), med.match(states, ids, mask))


@torch.no_grad()
def test_filter_that_transformers_cannot_compute_keeps_its_itc_embeddings(
    tmp_path: Path, tokenizer: Tokenizer, inputs: tuple[torch.Tensor, ...]
) -> None:
    med = tiny(tokenizer, itc_pooling="mean")
    save_filter(tmp_path, med, tokenizer)
    assert "architectures" not in json.loads((tmp_path / "config.json").read_text())
    loaded, _ = load_med(tmp_path)
    assert loaded.capabilities == {"embed", "match"}
    pixels, ids, mask = inputs
    torch.testing.assert_close(
        loaded.embed_image(loaded.encode_image(pixels)), med.embed_image(med.encode_image(pixels))
    )
    torch.testing.assert_close(loaded.embed_text(ids, mask), med.embed_text(ids, mask))


@torch.no_grad()
def test_filter_folder_keeps_temperature_configuration_and_scores(
    tmp_path: Path, tokenizer: Tokenizer, inputs: tuple[torch.Tensor, ...]
) -> None:
    med = tiny(tokenizer)
    med.temperature.fill_(0.123)
    save_filter(tmp_path, med, tokenizer)
    loaded, _ = load_med(tmp_path)
    assert loaded.config == med.config
    assert loaded.capabilities == {"embed", "match"}
    assert loaded.temperature.item() == pytest.approx(0.123)
    pixels, ids, mask = inputs
    states = med.encode_image(pixels)
    torch.testing.assert_close(loaded.match(states, ids, mask), med.match(states, ids, mask))


@torch.no_grad()
def test_original_pretraining_file(tmp_path: Path, tokenizer: Tokenizer, inputs: tuple[torch.Tensor, ...]) -> None:
    med = tiny(tokenizer)
    torch.save({"model": original_weights(med, tmp_path, tokenizer), "epoch": 3}, tmp_path / "model.pth")
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    loaded, _ = load_med(tmp_path / "model.pth")
    assert loaded.capabilities == {"embed", "match", "decode"}
    assert loaded.config.share == "all_but_sa"
    assert loaded.temperature.item() == pytest.approx(0.05)
    pixels, ids, mask = inputs
    states = med.encode_image(pixels)
    torch.testing.assert_close(loaded.encode_image(pixels), states)
    torch.testing.assert_close(loaded.decode(states, ids, mask), med.decode(states, ids, mask))
    torch.testing.assert_close(loaded.match(states, ids, mask), med.match(states, ids, mask))


@torch.no_grad()
def test_original_file_at_another_image_size(tmp_path: Path, tokenizer: Tokenizer) -> None:
    weights = original_weights(tiny(tokenizer), tmp_path, tokenizer)
    torch.save(weights, tmp_path / "model.pth")
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    loaded, _ = load_med(tmp_path / "model.pth", image_size=48)
    assert loaded.encode_image(torch.zeros(1, 3, 48, 48, dtype=torch.uint8)).shape == (1, 37, 128)


def test_separate_encoder_and_decoder_are_loaded_as_two_stacks(tmp_path: Path, tokenizer: Tokenizer) -> None:
    med = tiny(tokenizer, share="none")
    torch.save({"model": original_weights(med, tmp_path, tokenizer)}, tmp_path / "vqa.pth")
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    loaded, _ = load_med(tmp_path / "vqa.pth")
    assert loaded.config.share == "none"
    assert loaded.state_dict().keys() == med.state_dict().keys()


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    torch.save({"model": Path("evil")}, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=r"model\.pth: cannot be read as plain weights"):
        load_med(tmp_path / "model.pth")


def test_damage_is_one_line_that_names_the_keys(tmp_path: Path, tokenizer: Tokenizer) -> None:
    med = tiny(tokenizer)
    save_med(tmp_path / "own", med, tokenizer)
    save_filter(tmp_path / "filter", med, tokenizer)
    for name, lost in (("own", "itm_head.bias"), ("filter", "itm_head.bias")):
        file = tmp_path / name / "model.safetensors"
        weights = load_file(file)
        del weights[lost]
        weights["stranger"] = torch.zeros(1)
        save_file(weights, file)
        with pytest.raises(CheckpointError, match=r"itm_head\.bias missing; keys stranger left over") as caught:
            load_med(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_half_a_file_no_file_and_another_model(tmp_path: Path, tokenizer: Tokenizer) -> None:
    save_med(tmp_path / "half", tiny(tokenizer), tokenizer)
    file = tmp_path / "half" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be read"):
        load_med(tmp_path / "half")
    with pytest.raises(CheckpointError, match="no such file or folder"):
        load_med(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read"):
        load_med(tmp_path / "empty")
    (tmp_path / "empty" / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(CheckpointError, match="model_type is 'clip'"):
        load_med(tmp_path / "empty")


def test_tokenizer_of_another_size_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    save_med(tmp_path, tiny(tokenizer), tokenizer)
    Tokenizer(WORDS[:-1]).save(tmp_path)
    with pytest.raises(CheckpointError, match="69 tokens, its tokenizer has 68"):
        load_med(tmp_path)


def test_transformers_tokenizer_and_processor_read_the_folder(tmp_path: Path, tokenizer: Tokenizer) -> None:
    from transformers import BertTokenizer

    save_captioner(tmp_path, tiny(tokenizer), tokenizer)
    theirs = BertTokenizer.from_pretrained(tmp_path)
    ids, _ = tokenizer.encode(["A picture of W3, w9"], 30)
    assert theirs(["A picture of W3, w9"]).input_ids == ids.tolist()


@pytest.mark.parametrize("save", [save_captioner, save_filter, save_med])
def test_nothing_is_drawn_for_weights_that_are_read(save: Any, tmp_path: Path, tokenizer: Tokenizer) -> None:
    save(tmp_path, tiny(tokenizer), tokenizer)
    drawn, _ = load_med(tmp_path)
    before = torch.get_rng_state()
    with undrawn():
        med, _ = load_med(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert med.capabilities == drawn.capabilities
    for name, weight in med.state_dict().items():
        same = torch.equal(weight, drawn.state_dict()[name])
        assert same or (save is not save_med and not weight.any()), name
    pixels = torch.randint(0, 255, (2, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(med.encode_image(pixels), drawn.encode_image(pixels))
