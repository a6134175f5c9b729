"""Pairs of settings of which one must not exceed the other."""

from __future__ import annotations

import pytest

from blip_bootstrap.config import load_config
from blip_bootstrap.config.caption import MAX_TOKENS, MIN_TOKENS
from blip_bootstrap.errors import ConfigError
from blip_training.decoding.sampler import PRESETS


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["pretrain.optimizer.min_lr=0.1"], "pretrain.optimizer: min_lr 0.1 is more than lr 0.0003; lower min_lr"),
        (["filter.optimizer.warmup_lr=1e-4"], "filter.optimizer: warmup_lr 0.0001 is more than lr 1e-05; lower"),
        (["vqa.optimizer.min_lr=1e-4"], "vqa.optimizer: min_lr 0.0001 is more than lr 2e-05; lower min_lr"),
        (["rounds.1.captioner.optimizer.min_lr=1"], "rounds.1.captioner.optimizer: min_lr 1.0 is more than lr 1e-05"),
        (
            ["pretrain.itc.temperature=0.01", "pretrain.itc.min_temperature=0.05"],
            "pretrain.itc: min_temperature 0.05 is more than temperature 0.01; lower min_temperature",
        ),
        (["caption.sampler.min_tokens=30"], "caption.sampler: min_tokens 30 is more than max_tokens 20; set both"),
        (["evaluate.sampler.max_tokens=4"], "evaluate.sampler: min_tokens 5 is more than max_tokens 4; set both"),
        (["select.min_tokens=300"], "select: min_tokens 300 is more than max_tokens 200; lower min_tokens"),
        (["text_rules.max_words=2"], "text_rules: min_words 3 is more than max_words 2; lower min_words"),
        (["download.max_aspect_ratio=0.5"], "download.max_aspect_ratio: must be at least 1.0 (got 0.5)"),
        (
            ["download.min_image_size=6000"],
            "download: a picture of min_image_size 6000 has more than max_pixels 25000000 pixels",
        ),
        (
            ["vqa.optimizer.accumulate=3"],
            "vqa: optimizer.batch_size 256 cannot be shared out evenly over accumulate 3; take a multiple of 3",
        ),
    ],
)
def test_what_must_not_exceed_the_other_is_told_with_both_values(settings: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, settings)
    (mistake,) = caught.value.mistakes
    assert mistake.startswith(said), mistake


@pytest.mark.parametrize(
    "settings",
    [
        ["pretrain.optimizer.min_lr=3e-4", "pretrain.optimizer.warmup_lr=3e-4"],
        ["caption.sampler.min_tokens=20"],
        ["caption.sampler={min_tokens: 30, max_tokens: 30}"],
        ["pretrain.itc.min_temperature=0.07"],
        ["select={min_tokens: 7, max_tokens: 7}"],
        ["text_rules.max_words=3"],
        ["download.max_aspect_ratio=1"],
        ["download.min_image_size=5000"],
    ],
)
def test_equal_ones_are_taken(settings: list[str]) -> None:
    load_config(None, settings)


def test_every_preset_has_the_lengths_that_settings_are_compared_with() -> None:
    assert {(one.min_tokens, one.max_tokens) for one in PRESETS.values()} == {(MIN_TOKENS, MAX_TOKENS)}
