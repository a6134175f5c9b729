"""A text encoder that training leaves as it is reads each text once, and gives what it would give every time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from blip_bootstrap.config import ItcConfig, ItmConfig
from blip_training.checkpoint.fresh import started_names
from blip_training.checkpoint.store import load_med, save_med
from blip_training.data.tokenizer import Tokenizer
from blip_training.model.med import Med
from blip_training.objective.contrast import Contrast
from blip_training.objective.frozen_texts import FrozenTexts, has_frozen_texts
from blip_training.objective.micro_batches import encode_texts, micro_batches_of
from blip_training.runtime.workers import Worker
from blip_training.train.finetune import finetune_filter_model
from blip_training.train.run import prepare
from tests.support.drawn import finetune_config, model_config, optimizer_config, read_log
from tests.support.tiny_batch import whole_batch

CPU = Worker(torch.device("cpu"))
TEXTS = ["a red circle", "there is a square, it is blue", "a green square", "a red circle", "blue"]
FIXED = optimizer_config(started_lr_scale=0)


@pytest.fixture(scope="module")
def tokenizer(world: Path) -> Tokenizer:
    return Tokenizer.load(str(world / "vocab.txt"))


def started_med(world: Path, tokenizer: Tokenizer, dropout: float = 0.0) -> Med:
    """A model whose text stack counts as started by a BERT; the mean of its random states tells texts apart."""
    torch.manual_seed(0)
    config = model_config(world)
    text = config.text.model_copy(update={"start": "a BERT", "dropout": dropout})
    return Med(config.model_copy(update={"text": text, "itc_pooling": "mean"}), tokenizer.num_tokens)


def test_the_text_encoder_is_frozen_where_a_start_stays_fixed(world: Path, tokenizer: Tokenizer) -> None:
    med = prepare(started_med(world, tokenizer), FIXED)
    assert has_frozen_texts(med)
    assert {name for name, p in med.named_parameters() if not p.requires_grad} == started_names(med)
    assert not has_frozen_texts(prepare(started_med(world, tokenizer), optimizer_config(started_lr_scale=0.1)))
    assert not has_frozen_texts(prepare(Med(model_config(world), tokenizer.num_tokens), FIXED))


def test_what_is_kept_is_what_the_encoder_gives_without_dropout(world: Path, tokenizer: Tokenizer) -> None:
    med = started_med(world, tokenizer, dropout=0.5).train()
    ids, mask = encode_texts(med, tokenizer, TEXTS)
    found = FrozenTexts(med).pooled(ids, mask)
    assert med.text.training
    with torch.no_grad():
        expected = med.eval().pool_text(ids, mask)
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=2e-3)


def test_a_text_gives_the_same_bits_in_any_company_and_is_read_once(
    world: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    med = started_med(world, tokenizer)
    many = [f"{text} {text}" for text in TEXTS] * 9 + TEXTS
    together = FrozenTexts(med).pooled(*encode_texts(med, tokenizer, many))[-len(TEXTS) :]
    reads: list[int] = []
    whole = med.pool_text
    monkeypatch.setattr(med, "pool_text", lambda ids, mask: reads.append(len(ids)) or whole(ids, mask))
    texts = FrozenTexts(med)
    alone = torch.cat([texts.pooled(*encode_texts(med, tokenizer, [text])) for text in TEXTS])
    assert torch.equal(alone, together)
    assert len(reads) == len(set(TEXTS))
    texts.pooled(*encode_texts(med, tokenizer, TEXTS))
    assert len(reads) == len(set(TEXTS))


def test_texts_beyond_the_limit_are_read_again(world: Path, tokenizer: Tokenizer) -> None:
    med = started_med(world, tokenizer)
    tokens = encode_texts(med, tokenizer, TEXTS)
    small = FrozenTexts(med, limit_bytes=0)
    assert torch.equal(small.pooled(*tokens), FrozenTexts(med).pooled(*tokens))
    assert small.size_bytes == 0
    assert torch.equal(small.pooled(*tokens), FrozenTexts(med).pooled(*tokens))


def test_itc_of_kept_texts_is_that_of_texts_read_anew(world: Path, tokenizer: Tokenizer) -> None:
    losses = []
    for optimizer in (FIXED, optimizer_config()):
        med = prepare(started_med(world, tokenizer), optimizer)
        contrast = Contrast(med, ItcConfig(queue_size=12), ItmConfig(), CPU)
        (batch,) = micro_batches_of(med, tokenizer, [whole_batch()], CPU)
        losses.append(contrast.itc(contrast.features([batch]), batch, med.encode_image(batch.images), 0.4).loss)
    assert losses[0].item() == pytest.approx(losses[1].item(), abs=2e-3)
    losses[0].backward()


def test_a_filter_learns_by_its_heads_alone(world: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    med = started_med(world, tokenizer)
    save_med(tmp_path / "start", med, tokenizer, {})
    config = finetune_config(steps=40, lr=1e-2, started_lr_scale=0)
    (tmp_path / "out").mkdir()
    counts = finetune_filter_model(tmp_path / "out", tmp_path / "start", world / "human", config)
    after = load_med(tmp_path / "out")[0]
    before, now = med.state_dict(), after.state_dict()
    unimodal = {name for name in started_names(med) if ".causal." not in name}
    assert all(torch.equal(before[name], now[name]) for name in unimodal)
    assert not torch.equal(before["text_projection.weight"], now["text_projection.weight"])
    log = read_log(tmp_path / "out")
    assert counts["itc"] < log[0]["itc"] - 0.2


def test_the_temperature_falls_no_lower_than_told(world: Path, tokenizer: Tokenizer) -> None:
    med = started_med(world, tokenizer)
    contrast = Contrast(med, ItcConfig(min_temperature=0.06), ItmConfig(), CPU)
    features = contrast.features(micro_batches_of(med, tokenizer, [whole_batch()], CPU))
    torch.nn.init.constant_(med.temperature, 0.01)
    contrast.update(features)
    assert med.temperature.item() == pytest.approx(0.06)
