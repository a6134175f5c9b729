"""Weights as people have them on disk: loaded where that is safe, else one line that says what they are."""

from __future__ import annotations

import argparse
import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from blip_bootstrap.errors import CheckpointError
from blip_training.checkpoint.store import load_med, save_captioner
from blip_training.data.tokenizer import Tokenizer
from blip_training.runtime.stored import read_pickled
from tests.support.tiny_med import WORDS, original_weights, tiny

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 990275136\n"
Weights = dict[str, torch.Tensor]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A captioner as transformers reads it."""
    tokenizer = Tokenizer(WORDS)
    save_captioner(tmp_path / "model", tiny(tokenizer), tokenizer)
    return tmp_path / "model"


def take_weights(folder: Path) -> Weights:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    return weights


def prefixed(weights: Weights, root: str) -> Weights:
    return {root + name: weight for name, weight in weights.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: weights,
        lambda weights: prefixed(weights, "module."),
        lambda weights: {"state_dict": weights, "epoch": 3},
        lambda weights: {"model": prefixed(weights, "_orig_mod."), "optimizer": {"state": {}}},
        lambda weights: {"model_state_dict": prefixed(weights, "module._orig_mod.")},
        lambda weights: {"state_dict": {"model": weights}},
        lambda weights: {"state_dict": prefixed(weights, "model.")},
        lambda weights: {n.replace("text_decoder.", "text_decoder._orig_mod."): w for n, w in weights.items()},
    ],
)
def test_a_pickle_of_plain_tensors_is_loaded_however_wrapped(folder: Path, wrap: Any) -> None:
    wanted = load_med(folder)[0].state_dict()
    torch.save(wrap(take_weights(folder)), folder / "pytorch_model.bin")
    found = load_med(folder)[0].state_dict()
    held = [name for name in wanted if not name.startswith(("itm_head", "vision_projection", "text_projection"))]
    held = [name for name in held if ".bidirectional." not in name]
    assert all(torch.equal(found[name], wanted[name]) for name in held)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_shards_are_read_by_their_index(folder: Path, name: str) -> None:
    wanted = load_med(folder)[0].decode_states
    weights = take_weights(folder)
    stem, _, suffix = name.partition(".")
    shards: dict[str, Weights] = {f"{stem}-0000{i}-of-00003.{suffix}": {} for i in (1, 2, 3)}
    for i, key in enumerate(sorted(weights)):
        shards[list(shards)[i % 3]]["module." + key] = weights[key]
    for shard, part in shards.items():
        save_file(part, folder / shard) if suffix == "safetensors" else torch.save(part, folder / shard)
    where = {key: shard for shard, part in shards.items() for key in part}
    (folder / f"{name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    med, _ = load_med(folder)
    assert torch.equal(med.vision.class_token, weights["vision_model.embeddings.class_embedding"])
    assert wanted is not None

    (folder / list(shards)[1]).unlink()
    with pytest.raises(CheckpointError, match=rf"{stem}-00002-of-00003\.{suffix}: cannot be read"):
        load_med(folder)
    (folder / f"{name}.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="no weight_map in it"):
        load_med(folder)


def test_the_file_of_a_folder_is_the_folder(folder: Path) -> None:
    med, _ = load_med(folder / "model.safetensors")
    assert med.config == load_med(folder)[0].config


def test_an_original_file_as_safetensors_or_wrapped_by_a_trainer(tmp_path: Path) -> None:
    tokenizer = Tokenizer(WORDS)
    med = tiny(tokenizer)
    weights = {name: weight.clone() for name, weight in original_weights(med, tmp_path, tokenizer).items()}
    save_file(prefixed(weights, "module."), tmp_path / "blip.safetensors")
    torch.save({"state_dict": prefixed(weights, "_orig_mod."), "epoch": 1}, tmp_path / "blip.pt")
    tokenizer.save(tmp_path)
    for name in ("blip.safetensors", "blip.pt"):
        loaded, _ = load_med(tmp_path / name)
        assert torch.equal(loaded.itm_head.weight, med.itm_head.weight)


def refused(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_med(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.json", "preprocessor_config.json", "med.json"]
)
def test_a_pointer_of_git_lfs_is_called_one(folder: Path, name: str) -> None:
    (folder / name).write_text(POINTER)
    assert refused(folder) == f"{folder / name}: a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"


def test_other_pointers_of_git_lfs(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text(POINTER)
    assert "vocab.txt: a Git LFS pointer" in refused(folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_text(POINTER)
    assert "pytorch_model.bin: a Git LFS pointer" in refused(folder)
    (folder / "blip.pth").write_text(POINTER)
    assert "blip.pth: a Git LFS pointer" in refused(folder / "blip.pth")


def test_a_half_downloaded_file_says_how_much_of_it_is_there(folder: Path) -> None:
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1000])
    assert f"{len(whole) - 1000:,} of {len(whole):,} bytes: download it again" in refused(folder)
    file.write_bytes(whole[:500])
    assert "500 bytes, not even its header is whole: download it again" in refused(folder)
    file.write_bytes(b"")
    assert "0 bytes, not even its header" in refused(folder)
    file.write_bytes(b"<!DOCTYPE html><title>404</title>")
    assert "not a safetensors file" in refused(folder)
    file.unlink()
    file.symlink_to(folder / "gone")
    assert "a link to a file that is gone" in refused(folder)


def test_half_a_pickle_and_one_that_runs_code(folder: Path) -> None:
    torch.save(take_weights(folder), folder / "pytorch_model.bin")
    whole = (folder / "pytorch_model.bin").read_bytes()
    (folder / "pytorch_model.bin").write_bytes(whole[: len(whole) // 2])
    assert "pytorch_model.bin: cannot be read as plain weights" in refused(folder)
    torch.save({"model": torch.nn.Linear(2, 2)}, folder / "pytorch_model.bin")
    assert "plain weights (it holds a Python object, torch.nn.modules.linear.Linear, which could" in refused(folder)
    torch.save({"model": {}, "args": argparse.Namespace(lr=1)}, folder / "pytorch_model.bin")
    assert "plain weights (it holds a Python object, argparse.Namespace, which could run" in refused(folder)
    torch.save({"epoch": 3, "args": {"lr": 0.1}}, folder / "pytorch_model.bin")
    assert "no weights in it (keys epoch, args)" in refused(folder)
    torch.save([torch.zeros(1)], folder / "pytorch_model.bin")
    assert "no weights in it (list)" in refused(folder)


def test_a_folder_that_is_no_model_is_told_what_it_is(tmp_path: Path, folder: Path) -> None:
    assert "neither model.safetensors nor pytorch_model.bin" in refused_without_weights(folder)
    (folder / "tf_model.h5").write_bytes(b"")
    assert "TensorFlow weights alone" in refused(folder)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    assert "an adapter (LoRA), not a whole model" in refused(adapter)


def test_a_run_or_a_round_in_a_models_place_is_told_what_models_it_has(tmp_path: Path, folder: Path) -> None:
    places = [tmp_path / "run" / round / kind for round in ("round-01", "round-02") for kind in ("captioner", "filter")]
    for place in places:
        shutil.copytree(folder, place)
    assert f"no model, but 2 below it: {places[0]}, {places[1]}" in refused(tmp_path / "run" / "round-01")
    assert f"no model, but 3 below it: {places[1]}, {places[2]}, {places[3]}" in refused(tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text("[")
    assert "config.json: cannot be read" in refused(tmp_path / "run")


def refused_without_weights(folder: Path) -> str:
    (folder / "model.safetensors").unlink()
    return refused(folder)


@pytest.mark.parametrize("content", [b"", b"garbage", b"{}", b"<html>", b"\x80\x02}q\x00.", b"hi there\n" * 9])
def test_a_file_that_is_no_pickle_of_weights_is_told_without_torchs_advice(folder: Path, content: bytes) -> None:
    take_weights(folder)
    (folder / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"0 bytes|Ran out of input|torch\.save wrote|no weights in it") as caught:
        load_med(folder)
    assert "weights_only" not in str(caught.value)


def test_a_pickle_with_any_byte_changed_is_a_line_or_loads(folder: Path) -> None:
    weights = take_weights(folder)
    file = folder / "pytorch_model.bin"
    torch.save(dict(list(weights.items())[:4]), file, _use_new_zipfile_serialization=False)
    whole = file.read_bytes()
    for at in range(0, min(len(whole), 1500), 7):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        with suppress(CheckpointError):
            read_pickled(file)
