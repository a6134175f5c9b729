"""What a configuration lacks for a round: settings of trainings that do not fit each other."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from blip_bootstrap.cli.app import app
from blip_bootstrap.config import load_config
from blip_bootstrap.errors import ConfigError, InputError
from blip_bootstrap.loop.check import check_config, notes_on
from blip_bootstrap.loop.vqa import train_vqa

NOTE = "filter.optimizer.warmup_steps: 400 is more than steps 300, so that the learning rate rises no higher than 75.0%"


@pytest.fixture
def inputs(tmp_path: Path) -> list[str]:
    (tmp_path / "urls.tsv").write_text("url\tcaption\n")
    (tmp_path / "human.jsonl").write_text("")
    listed = [f"{name}.path={tmp_path / 'human.jsonl'}" for name in ("human", "held_out")]
    return [f"download.urls=[{{path: {tmp_path / 'urls.tsv'}}}]", *listed]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            ["filter.itm.start_step=5000"],
            ["filter.itm.start_step: 5000 is past the last of 5000 steps, so that ITM is never trained; lower it"],
        ),
        (["filter.itm.start_step=4999"], []),
        (["pretrain.itm.start_step=100000"], []),
        (
            ["filter.shared=true", "captioner.itm.start_step=5000"],
            ["captioner.itm.start_step: 5000 is past the last of 5000 steps, so that ITM is never trained; lower it"],
        ),
        (
            ["pretrain.model.text.max_positions=40", "caption.sampler.max_tokens=50", "evaluate.sampler.max_tokens=41"],
            [
                "caption.sampler.max_tokens: 50 is more than pretrain.model.text.max_positions 40; lower it",
                "evaluate.sampler.max_tokens: 41 is more than pretrain.model.text.max_positions 40; lower it",
            ],
        ),
    ],
)
def test_a_training_whose_models_would_fail_is_told_before_anything_is_made(
    inputs: list[str], settings: list[str], said: list[str]
) -> None:
    assert check_config(load_config(None, [*inputs, *settings]), 1) == said


def test_what_is_not_trained_has_no_schedule(inputs: list[str]) -> None:
    given = [f"{name}.checkpoint=org/{name}" for name in ("captioner", "filter")]
    idle = ["filter.optimizer={steps: 3, warmup_steps: 4}", "filter.itm.start_step=7", "caption.sampler.max_tokens=900"]
    config = load_config(None, [*inputs, *given, *idle, "pretrain.optimizer.steps=0"])
    assert (check_config(config, 1), notes_on(config, 1)) == ([], [])
    tuned = load_config(None, [*inputs, idle[0]])
    assert (check_config(tuned, 0), notes_on(tuned, 0)) == ([], []), "round 0 has no filter"


def test_a_warm_up_longer_than_its_training_is_noted_and_kept_from_nobody(inputs: list[str]) -> None:
    """Runs made before may have such, and go on."""
    config = load_config(None, [*inputs, "filter.optimizer={steps: 300, warmup_steps: 400}"])
    assert check_config(config, 1) == []
    assert notes_on(config, 1) == [f"{NOTE} of lr; 30 is a tenth of the steps"]
    (default,) = notes_on(load_config(None, [*inputs, "pretrain.optimizer.steps=300"]), 0)
    assert default.startswith("pretrain.optimizer.warmup_steps: 3000 is more than steps 300")
    assert notes_on(load_config(None, [*inputs, "pretrain.optimizer.steps=3000"]), 1) == []


def test_config_check_shows_the_note_beside_a_mistake(inputs: list[str]) -> None:
    settings = (inputs[0], "pretrain.optimizer.steps=300", "pretrain.model.text.tokenizer=./nowhere")
    asked = [part for setting in settings for part in ("--set", setting)]
    done = CliRunner().invoke(app, ["config", "check", "--round", "0", *asked])
    assert isinstance(done.exception, ConfigError)
    assert done.stderr.startswith("note: pretrain.optimizer.warmup_steps: 3000 is more than steps 300")


def test_a_training_for_questions_has_the_note_too(tmp_path: Path) -> None:
    config = load_config(None, ["vqa.optimizer={steps: 300, warmup_steps: 400}"])
    said: list[str] = []
    with pytest.raises(InputError):
        train_vqa("org/model", tmp_path / "q.jsonl", tmp_path / "out", None, config, said.append)
    assert said == [f"note: {NOTE.replace('filter', 'vqa')} of lr; 30 is a tenth of the steps"]
