"""One picture at a time: the same captions, scores and answers as elsewhere; maps of words by plain attention."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from blip_bootstrap.config import SamplerConfig
from blip_bootstrap.errors import CheckpointError, InputError
from blip_training.checkpoint.store import load_med, load_vqa, save_captioner, save_filter, save_med, save_vqa
from blip_training.data.tokenizer import Tokenizer
from blip_training.decoding.generate import generate
from blip_training.decoding.sampler import Sampler
from blip_training.evaluate.ask_model import AskModel
from blip_training.evaluate.word_attention import word_maps
from tests.support.benchmark_files import picture
from tests.support.tiny_med import WORDS, tiny
from tests.support.tiny_vqa import tiny_vqa

PIECES = [*WORDS, "##x", "##y"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(PIECES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_captioner(folder / "captioner", tiny(tokenizer), tokenizer)
    save_filter(folder / "filter", tiny(tokenizer), tokenizer)
    save_med(folder / "own", tiny(tokenizer), tokenizer)
    save_vqa(folder / "vqa", tiny_vqa(tokenizer), tokenizer)
    picture(folder / "picture.png", 1)
    return folder


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "I;16", "CMYK"])
@pytest.mark.parametrize("size", [(40, 60), (3, 900), (1, 1)])
def test_a_picture_of_pils_is_seen_as_its_file_is(
    folder: Path, tmp_path: Path, mode: str, size: tuple[int, int]
) -> None:
    model = AskModel(folder / "own", "cpu")
    image = Image.radial_gradient("L").resize(size)
    image = image.point(lambda shade: shade * 256, "I").convert("I;16") if mode == "I;16" else image.convert(mode)
    if "A" in mode:
        image.putalpha(Image.linear_gradient("L").resize(size))
    path = tmp_path / ("picture.tif" if mode == "CMYK" else "picture.png")
    image.save(path)
    assert torch.equal(model.states(path), model.states(Image.open(path)))


def test_a_turned_picture_is_set_upright(folder: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.linear_gradient("L").convert("RGB").save(tmp_path / "a.png", exif=exif)
    model = AskModel(folder / "own", "cpu")
    assert torch.equal(model.states(tmp_path / "a.png"), model.states(Image.open(tmp_path / "a.png")))


def test_a_url_is_no_file(folder: Path) -> None:
    with pytest.raises(InputError, match=r"https://a\.org/b\.jpg: a file is asked for, and this is a URL; download it"):
        AskModel(folder / "own", "cpu").states("https://a.org/b.jpg")


@torch.no_grad()
def test_captions_are_those_of_generate(folder: Path, tokenizer: Tokenizer) -> None:
    model = AskModel(folder / "captioner", "cpu")
    assert model.can == ["decode"]
    pixels = picture(folder / "picture.png", 1)[None]
    med, _ = load_med(folder / "captioner")
    beams = generate(
        med, tokenizer, med.encode_image(pixels), "a picture of", Sampler(sample=False, num_beams=3), [[0, 1]]
    )
    found = model.caption(folder / "picture.png", 2)
    assert [one.text for one in found] == [one.text for one in beams[0]]
    same = model.caption(Image.fromarray(pixels[0].permute(1, 2, 0).numpy()), 2)
    assert [one.ids for one in same] == [one.ids for one in found]
    nucleus = SamplerConfig(preset="nucleus")
    one, other = (model.caption(folder / "picture.png", 1, nucleus, seed)[0].ids for seed in (0, 1))
    assert one != other


@torch.no_grad()
def test_matches_and_answers_are_the_models_own(folder: Path, tokenizer: Tokenizer) -> None:
    texts = ["w1 w2", "w3 w4 w5"]
    pixels = picture(folder / "picture.png", 1)[None]
    med, _ = load_med(folder / "filter")
    states = med.encode_image(pixels)
    for found, text in zip(AskModel(folder / "filter", "cpu").match(folder / "picture.png", texts), texts, strict=True):
        ids, mask = tokenizer.encode([text], 35)
        assert found.itm == pytest.approx(float(med.match(states, ids, mask).softmax(1)[0, 1]))
        assert found.itc == pytest.approx(float(med.cosines(states, ids, mask)))
    vqa, _ = load_vqa(folder / "vqa")
    ids, mask = tokenizer.encode(["w1 w9"], 35)
    read = vqa.read_questions(vqa.encode_image(pixels), ids, mask)
    sampler = Sampler(sample=False, num_beams=3, min_tokens=1, max_tokens=10)
    expected = generate(vqa, tokenizer, read, "", sampler, [[0]])[0][0]
    answer = AskModel(folder / "vqa", "cpu").answer(folder / "picture.png", "w1 w9")
    assert answer.text == expected.text
    assert answer.logprob == pytest.approx(expected.logprob)


@torch.no_grad()
@pytest.mark.parametrize("reading", ["bidirectional", "causal"])
def test_maps_are_the_attention_of_each_word(tokenizer: Tokenizer, reading: str) -> None:
    """Computed here layer by layer; a word of three pieces has their mean, and each map sums to 1."""
    med = tiny(tokenizer)
    states = med.encode_image(torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8))
    ids = torch.tensor([[tokenizer.cls_id, *tokenizer.piece_ids("w1 w2xyx w3"), tokenizer.sep_id]])
    assert ids.shape[1] == 8
    first = tokenizer.enc_id if reading == "bidirectional" else tokenizer.dec_id
    x = med.text.embeddings.of(reading)(torch.cat([torch.tensor([[first]]), ids[:, 1:]], 1))  # type: ignore[arg-type]
    mask = torch.ones(1, 1, 1, 8, dtype=torch.bool) if reading == "bidirectional" else None
    total = torch.zeros(8, 17)
    for layer in med.text.each_layer():
        cross = layer.cross_attention.of(reading)  # type: ignore[arg-type]
        own = layer.self_attention.of(reading)(x, mask)  # type: ignore[arg-type]
        keys, _ = cross.keys_values(states)
        for head in range(2):
            query = cross.query(own)[0, :, 64 * head : 64 * (head + 1)]
            total += (query @ keys[0, head].T / math.sqrt(64)).softmax(-1) / 4
        x = layer(x, reading, mask, cross.keys_values(states))
    patches = total[:, 1:] / total[:, 1:].sum(1, keepdim=True)
    expected = [patches[1], patches[2:6].mean(0), patches[6]]
    found = word_maps(med, tokenizer, states, ids, reading)  # type: ignore[arg-type]
    assert [one.word for one in found] == ["w1", "w2xyx", "w3"]
    for one, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(one.map, wanted.view(4, 4))
        assert float(one.map.sum()) == pytest.approx(1)


@pytest.mark.parametrize("kind", ["captioner", "filter", "own", "vqa"])
def test_every_kind_of_model_looks_at_the_picture(folder: Path, kind: str) -> None:
    maps = AskModel(folder / kind, "cpu").look(folder / "picture.png", "w1 w2 w3")
    assert [one.word for one in maps] == ["w1", "w2", "w3"]
    assert all(one.map.shape == (4, 4) and float(one.map.std()) > 0 for one in maps)


def test_what_a_model_cannot_do_is_told(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="filter cannot decode"):
        AskModel(folder / "filter", "cpu").caption(folder / "picture.png")
    with pytest.raises(CheckpointError, match="captioner cannot match"):
        AskModel(folder / "captioner", "cpu").match(folder / "picture.png", ["w1"])
    with pytest.raises(CheckpointError, match="own cannot answer"):
        AskModel(folder / "own", "cpu").answer(folder / "picture.png", "w1")
    with pytest.raises(CheckpointError, match="vqa cannot caption: it answers questions"):
        AskModel(folder / "vqa", "cpu").caption(folder / "picture.png")
    (tmp_path / "none.png").write_bytes(b"none")
    with pytest.raises(InputError, match=r"none\.png: the picture cannot be decoded"):
        AskModel(folder / "own", "cpu").caption(tmp_path / "none.png")
    with pytest.raises(InputError, match=r"nowhere\.png: cannot be read \(No such file or directory"):
        AskModel(folder / "own", "cpu").caption(tmp_path / "nowhere.png")
