"""Pre-training: exact resume, one batch learned by heart."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from blip_bootstrap.config import ItmConfig, PretrainConfig
from blip_bootstrap.errors import InputError
from blip_bootstrap.schemas.tables import SAME_PICTURES
from blip_bootstrap.storage.parquet import rows_to_table, write_parquet
from blip_training.checkpoint.store import load_med
from blip_training.feed.counts import count_samples
from blip_training.feed.shards import web_shards
from blip_training.feed.stream import Stream
from blip_training.runtime.workers import Worker
from blip_training.train.checkpoint_files import newest_step
from blip_training.train.pretrain import pretrain_model, start_model
from tests.support.checkpoints import newest_state
from tests.support.drawn import pretrain_config, read_log, write_world


class KilledError(Exception):
    """Stands for a kill between two steps."""


def train(world: Path, out: Path, config: PretrainConfig, kill_at: int | None = None) -> dict[str, float]:
    def progress(step: int, figures: Mapping[str, float]) -> None:
        if step == kill_at:
            raise KilledError

    out.mkdir(exist_ok=True)
    return pretrain_model(out, world / "images", world / "pairs", world / "human", config, progress)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_med(folder)[0].state_dict()


@pytest.mark.parametrize(("kill_at", "every"), [(1, 1), (5, 3), (7, 4), (2, 100)])
def test_a_killed_run_gives_the_same_losses_bit_for_bit(world: Path, tmp_path: Path, kill_at: int, every: int) -> None:
    config = pretrain_config(world, checkpoint_every_steps=every)
    train(world, tmp_path / "straight", config)
    with pytest.raises(KilledError):
        train(world, tmp_path / "killed", config, kill_at)
    assert newest_step(tmp_path / "killed") == (kill_at - 1) // every * every
    train(world, tmp_path / "killed", config)
    assert read_log(tmp_path / "killed") == read_log(tmp_path / "straight")
    straight, killed = weights(tmp_path / "straight"), weights(tmp_path / "killed")
    assert all(torch.equal(straight[name], killed[name]) for name in straight)
    assert newest_step(tmp_path / "killed") == config.optimizer.steps


def test_resume_with_dropout_augmentation_and_means_over_steps(world: Path, tmp_path: Path) -> None:
    config = pretrain_config(world, checkpoint_every_steps=2, log_every_steps=3, steps=9)
    text = config.model.text.model_copy(update={"dropout": 0.2})
    model = config.model.model_copy(update={"text": text})
    config = config.model_copy(update={"model": model, "augment": "randaugment", "human_share": 0.3})
    train(world, tmp_path / "straight", config)
    with pytest.raises(KilledError):
        train(world, tmp_path / "killed", config, kill_at=6)
    train(world, tmp_path / "killed", config)
    assert read_log(tmp_path / "killed") == read_log(tmp_path / "straight")


def test_one_batch_is_learned_by_heart(tmp_path: Path) -> None:
    write_world(tmp_path, num_web=3, num_human=8, num_parts=1)
    config = pretrain_config(tmp_path, steps=300, lr=4e-3, warmup_steps=10, log_every_steps=10)
    itc, itm = config.itc.model_copy(update={"alpha": 0.0}), ItmConfig(uniform_share=0.5)
    config = config.model_copy(update={"label_smoothing": 0.0, "itc": itc, "itm": itm})
    (tmp_path / "out").mkdir()
    figures = pretrain_model(tmp_path / "out", None, None, tmp_path / "human", config)
    first = read_log(tmp_path / "out")[0]
    assert figures["lm"] < 0.45 < first["lm"]
    assert figures["itm"] < 0.2  # guessing costs .6365
    assert figures["itm_at_rest"] == 0


def test_accumulation_gives_the_queue_every_pair_and_the_log_one_line_a_step(world: Path, tmp_path: Path) -> None:
    config = pretrain_config(world, steps=3, accumulate=4, checkpoint_every_steps=2)
    with pytest.raises(KilledError):
        train(world, tmp_path / "out", config, kill_at=3)
    state = newest_state(tmp_path / "out")
    assert state["queue"]["_extra_state"]["filled"] == 32
    assert [line["step"] for line in read_log(tmp_path / "out")] == [1, 2, 3]


def test_activation_checkpointing_changes_no_loss(world: Path, tmp_path: Path) -> None:
    train(world, tmp_path / "plain", pretrain_config(world, steps=4))
    train(world, tmp_path / "saving", pretrain_config(world, steps=4, activation_checkpointing=True))
    for plain, saving in zip(read_log(tmp_path / "plain"), read_log(tmp_path / "saving"), strict=True):
        assert saving["loss"] == pytest.approx(plain["loss"], rel=1e-5)


def test_itm_joins_when_it_is_told_to(world: Path, tmp_path: Path) -> None:
    config = pretrain_config(world, steps=4).model_copy(update={"itm": ItmConfig(start_step=2)})
    train(world, tmp_path, config)
    log = read_log(tmp_path)
    assert ["itm" in line for line in log] == [False, False, True, True]
    assert all("lm" in line for line in log)


def test_bfloat16_follows_float32(world: Path, tmp_path: Path) -> None:
    train(world, tmp_path / "full", pretrain_config(world, steps=4))
    train(world, tmp_path / "half", pretrain_config(world, steps=4, dtype="bfloat16"))
    for full, half in zip(read_log(tmp_path / "full"), read_log(tmp_path / "half"), strict=True):
        assert half["loss"] == pytest.approx(full["loss"], rel=0.03)
    assert all(weight.dtype != torch.bfloat16 for weight in weights(tmp_path / "half").values())


def test_human_or_web_alone_will_do_but_neither_will_not(world: Path, tmp_path: Path) -> None:
    config = pretrain_config(world, steps=1)
    (tmp_path / "web").mkdir()
    human = pretrain_model(tmp_path, None, None, world / "human", config)
    assert (human["pairs"], human["human_captions"]) == (0, 40)
    web = pretrain_model(tmp_path / "web", world / "images", world / "pairs", None, config)
    assert web["human_captions"] == 0
    assert web["pairs"] > 0
    with pytest.raises(InputError, match="no training pairs"):
        pretrain_model(tmp_path / "none", None, None, None, config)


def test_no_steps_save_the_model_as_it_starts(world: Path, tmp_path: Path) -> None:
    config = pretrain_config(world, steps=0)
    train(world, tmp_path / "one", config)
    train(world, tmp_path / "two", config)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert float(one["temperature"]) == pytest.approx(config.itc.temperature)


def test_the_next_model_may_go_on_from_the_last(world: Path, tmp_path: Path) -> None:
    config = pretrain_config(world, steps=30)
    train(world, tmp_path / "first", config)
    on = config.model_copy(update={"start_from": "previous"})
    (tmp_path / "second").mkdir()
    pretrain_model(tmp_path / "second", world / "images", world / "pairs", None, on, previous=tmp_path / "first")
    assert read_log(tmp_path / "second")[0]["lm"] < 0.8 * read_log(tmp_path / "first")[0]["lm"]


def test_the_validation_tenth_and_left_out_pictures_are_not_trained_on(world: Path, tmp_path: Path) -> None:
    """By the counts that the training itself gives: two captions a human picture."""
    config = pretrain_config(world, steps=1)
    keys = [f"{at:010d}" for at in range(20)]
    validation = [key for key in keys if zlib.crc32(key.encode()) % 10 == 0]
    assert validation
    shards = web_shards(world / "images", world / "pairs")
    web = {s.key for s in Stream(shards, count_samples(shards), 0).samples(0, 60)}
    left_out = [key for key in keys if key not in validation][:3]
    rows = [{"set": "human", "key": key, "same_as": "held_out", "same_key": "x", "left_out": True} for key in left_out]
    rows += [{"set": "web", "key": key, "same_as": "human", "same_key": "x", "left_out": False} for key in web]
    write_parquet(tmp_path / "same" / "part-00000.parquet", rows_to_table(rows, SAME_PICTURES), SAME_PICTURES)
    found = {}
    for name, held_out, same in (("a", False, None), ("b", True, None), ("c", True, tmp_path / "same")):
        (tmp_path / name).mkdir()
        own = config.model_copy(update={"hold_out_validation": held_out})
        inputs = world / "images", world / "pairs", world / "human", own
        found[name] = pretrain_model(tmp_path / name, *inputs, same_pictures=same)
    assert [found[name]["human_captions"] for name in "abc"] == [
        2 * 20, 2 * (20 - len(validation)), 2 * (20 - len(validation) - 3),
    ]  # fmt: skip
    assert found["a"]["pairs"] == found["c"]["pairs"]


def test_a_second_stage_goes_on_with_larger_pictures(world: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    train(world, first, pretrain_config(world, steps=1))
    config = pretrain_config(world).model_copy(update={"start_from": "previous", "image_size": 48})
    med, _ = start_model(config, first, Worker(torch.device("cpu")))
    assert med.vision.positions.shape[1] == 1 + (48 // 8) ** 2
    with pytest.raises(ValueError, match=r"image_size is of start_from: previous; from scratch set model\.vision"):
        PretrainConfig(image_size=384)
