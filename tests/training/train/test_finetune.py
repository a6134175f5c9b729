"""Fine-tunes: the captioner learns to caption, the filter to match, and validation keeps the best."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from blip_bootstrap.config import EvaluateConfig, ItmConfig, SamplerConfig
from blip_bootstrap.errors import CheckpointError, InputError
from blip_training.checkpoint.store import load_med
from blip_training.data.held_out import read_held_out
from blip_training.evaluate.evaluate import write_captions
from blip_training.feed.batches import TrainingData
from blip_training.feed.feed import Feed
from blip_training.feed.shards import annotated_shards
from blip_training.train.best_model import Best
from blip_training.train.finetune import finetune_captioner_model, finetune_filter_model
from blip_training.train.pretrain import pretrain_model
from tests.support.drawn import finetune_config, pretrain_config, read_log

GREEDY = EvaluateConfig(sampler=SamplerConfig(preset="greedy"), device="cpu")


@pytest.fixture(scope="module")
def model(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pre-trained enough to tell colours."""
    out = tmp_path_factory.mktemp("model")
    pretrain_model(out, world / "images", world / "pairs", world / "human", pretrain_config(world, steps=60, lr=4e-3))
    return out


def test_the_captioner_learns_to_write_after_the_prompt(world: Path, model: Path, tmp_path: Path) -> None:
    config = finetune_config(steps=60, lr=4e-3).model_copy(update={"label_smoothing": 0.0})
    counts = finetune_captioner_model(tmp_path, model, world / "human", config)
    log = read_log(tmp_path)
    assert counts["lm"] < 0.6 * log[0]["lm"]
    assert set(log[0]) == {"step", "loss", "lm", "lr", "grad_norm"}
    med, tokenizer = load_med(tmp_path)
    with torch.inference_mode():
        written = write_captions(med, tokenizer, read_held_out(world / "human"), config.prompt, GREEDY)
    assert all("circle" in text or "square" in text for text in written.values())
    assert not any("picture of" in text for text in written.values())


def test_word_dropout_is_in_the_training_alone(world: Path, model: Path, tmp_path: Path) -> None:
    config = finetune_config(steps=4).model_copy(update={"validate_every_steps": 2})
    logs, validation = [], []
    for share in (0.0, 0.9):
        out = tmp_path / str(share)
        out.mkdir()
        own = config.model_copy(update={"word_dropout": share})
        counts = finetune_captioner_model(out, model, world / "human", own)
        logs.append(read_log(out)[0]["lm"])
        validation.append(counts["validation_loss"])
    assert logs[1] > 1.2 * logs[0]
    assert validation[1] < 1.3 * validation[0]


def test_the_filter_learns_to_match(world: Path, model: Path, tmp_path: Path) -> None:
    counts = finetune_filter_model(tmp_path, model, world / "human", finetune_config(steps=20))
    log = read_log(tmp_path)
    assert counts["loss"] < log[0]["loss"]
    assert {"itc", "itm", "alpha", "temperature"} <= set(log[0])
    assert "match" in load_med(tmp_path)[0].capabilities


def test_one_model_learns_to_write_and_to_match(world: Path, model: Path, tmp_path: Path) -> None:
    config = finetune_config(steps=20).model_copy(update={"shared": True, "validate_every_steps": 10})
    (tmp_path / "captioner").mkdir()
    counts = finetune_captioner_model(tmp_path / "captioner", model, world / "human", config)
    log = read_log(tmp_path / "captioner")
    assert {"itc", "itm", "lm", "alpha"} <= set(log[0])
    assert counts["lm"] < log[0]["lm"]
    assert counts["validation_loss"] < log[0]["loss"]
    (tmp_path / "filter").mkdir()
    finetune_filter_model(tmp_path / "filter", model, world / "human", config, captioner=tmp_path / "captioner")
    both, judge = load_med(tmp_path / "captioner")[0], load_med(tmp_path / "filter")[0]
    assert both.capabilities == {"embed", "match", "decode"}
    assert judge.capabilities == {"embed", "match"}
    own, again = both.state_dict(), judge.state_dict()
    assert all(torch.equal(own[name], again[name]) for name in own if "causal" not in name and "lm_head" not in name)


def test_itm_joins_when_it_is_told_to(world: Path, model: Path, tmp_path: Path) -> None:
    config = finetune_config(steps=5).model_copy(update={"itm": ItmConfig(start_step=3)})
    finetune_filter_model(tmp_path, model, world / "human", config)
    log = read_log(tmp_path)
    assert ["itm" in line for line in log] == [False, False, False, True, True]
    assert all(line["loss"] == pytest.approx(line["itc"] + line.get("itm", 0.0), rel=1e-5) for line in log)


def test_validation_keeps_the_best_and_not_the_last(world: Path) -> None:
    feed = Feed(batch_size=4, image_size=32, seed=0)
    data = TrainingData([], annotated_shards(world / "human", "validation"), feed)
    module = nn.Linear(1, 1, bias=False)
    best = Best(module, data, lambda batch: module.weight.abs().sum(), every_steps=2)  # type: ignore[arg-type]
    for step, weight in enumerate([9.0, 3.0, 0.0, 1.0, 8.0, 2.0, 0.5], start=1):
        nn.init.constant_(module.weight, weight)
        best.measure(step, last=step == 7)
    assert best.figures() == {"best_step": 7, "validation_loss": 0.5}
    nn.init.constant_(module.weight, 0.6)
    best.measure(8, last=False)
    assert best.best.get_parameter("weight").item() == 0.5
    other = Best(module, data, lambda batch: module.weight.abs().sum(), every_steps=2)  # type: ignore[arg-type]
    other.load_state_dict(best.state_dict())
    assert other.figures() == best.figures()


def test_without_a_step_the_model_stays_and_nothing_is_validated(world: Path, model: Path, tmp_path: Path) -> None:
    config = finetune_config(steps=0).model_copy(update={"validate_every_steps": 2})
    tunes: dict[str, Callable[..., dict[str, int | float]]]
    tunes = {"captioner": finetune_captioner_model, "filter": finetune_filter_model}
    for name, tune in tunes.items():
        (tmp_path / name).mkdir()
        counts = tune(tmp_path / name, model, world / "human", config)
        assert counts["steps"] == 0
        assert "best_step" not in counts
        now, before = (load_med(one)[0].vision.state_dict() for one in (tmp_path / name, model))
        assert all(torch.equal(now[weight], before[weight]) for weight in before)


@pytest.mark.parametrize("kind", ["captioner", "filter"])
def test_a_killed_fine_tune_goes_on_with_the_same_losses(world: Path, model: Path, tmp_path: Path, kind: str) -> None:
    run = {"captioner": finetune_captioner_model, "filter": finetune_filter_model}[kind]
    config = finetune_config(steps=6, checkpoint_every_steps=2).model_copy(update={"validate_every_steps": 2})

    def kill(step: int, figures: object) -> None:
        if step == 5:
            raise KeyboardInterrupt

    straight, killed = tmp_path / "straight", tmp_path / "killed"
    for out in (straight, killed):
        out.mkdir()
    expected = run(straight, model, world / "human", config)
    with pytest.raises(KeyboardInterrupt):
        run(killed, model, world / "human", config, kill)
    counts = run(killed, model, world / "human", config)
    assert read_log(killed) == read_log(straight)
    assert [counts[k] for k in ("best_step", "validation_loss")] == [
        expected[k] for k in ("best_step", "validation_loss")
    ]


def test_a_captioner_is_no_start_for_a_filter(world: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "captioner").mkdir()
    finetune_captioner_model(tmp_path / "captioner", model, world / "human", finetune_config(steps=1))
    with pytest.raises(CheckpointError, match="cannot embed"):
        finetune_filter_model(tmp_path, tmp_path / "captioner", world / "human", finetune_config(steps=1))


def test_a_human_set_without_captions_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no training pairs"):
        finetune_captioner_model(tmp_path, model, tmp_path, finetune_config(steps=1))
