"""The word pieces of the model that is planned: as many as will be built, or the most that there can be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from blip_bootstrap.cli.app import app
from blip_bootstrap.config import Config
from blip_bootstrap.planning.sample import find_models, with_usual_length
from blip_bootstrap.planning.vocabulary import planned_tokens, with_planned_vocabulary
from blip_bootstrap.schemas.tables import IMAGES
from blip_bootstrap.storage.parquet import rows_to_table, write_parquet
from blip_training.checkpoint.store import load_med
from blip_training.data.tokenizer import Tokenizer
from blip_training.feed.shards import known_texts
from blip_training.runtime.workers import Worker
from blip_training.train.pretrain import start_model

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = [sign + letter for letter in "abcdefghijklmnopqrstuvwxyz" for sign in ("", "##")]
WORDS = ["red", "dog", "cat", "runs", "blue", "boat"]
SMALL = {"width": 16, "depth": 1, "heads": 2, "intermediate": 16, "max_tokens": 12, "max_positions": 16}
VISION = {"image_size": 16, "patch_size": 8, "width": 16, "depth": 1, "heads": 2}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tokenizer of 63 pieces, and the pictures of a run with three texts."""
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL, *LETTERS, *WORDS]) + "\n")
    empty = dict.fromkeys(IMAGES.schema.names)
    rows = [
        empty | {"key": f"{at:010d}", "status": "success", "caption": text}
        for at, text in enumerate(("red dog", "Dog runs", "a cat"))
    ]
    write_parquet(tmp_path / "run/images/part-00000.parquet", rows_to_table(rows, IMAGES), IMAGES)
    return tmp_path


def config_of(folder: Path, root: str = "run", **text: Any) -> Config:
    model = {"vision": VISION, "text": SMALL | {"tokenizer": str(folder / "vocab.txt")} | text, "embed_dim": 8}
    pretrain = {"model": model, "optimizer": {"device": "cpu", "steps": 10, "warmup_steps": 0}}
    return Config.model_validate({"root": folder / root, "pretrain": pretrain})


def said_of(config: Config) -> tuple[int, list[str]]:
    said: list[str] = []
    return planned_tokens(config, said.append), said


def test_a_tokenizer_of_the_runs_own_counts_by_its_pieces(folder: Path) -> None:
    assert said_of(config_of(folder)) == (len(SPECIAL) + len(LETTERS) + len(WORDS) + 2, [])
    assert said_of(config_of(folder, tokenizer="bert-base-uncased")) == (30_524, [])


@pytest.mark.parametrize("least", [1, 2])
def test_seen_counts_what_the_training_will_build(folder: Path, least: int) -> None:
    config = config_of(folder, vocabulary="seen", least_seen=least)
    med, tokenizer = start_model(
        config.pretrain, None, Worker(torch.device("cpu")), known_texts(folder / "run/images", None)
    )
    assert said_of(config) == (med.num_tokens, [])
    assert med.num_tokens == tokenizer.num_tokens == len(SPECIAL) + len(LETTERS) + {1: 4, 2: 1}[least] + 2
    planned = with_planned_vocabulary(config, folder, lambda line: pytest.fail(line))
    text = planned.pretrain.model.text
    assert text.vocabulary == "whole"
    assert Tokenizer.load(text.tokenizer).vocabulary == tokenizer.vocabulary
    assert load_med(find_models(planned, folder / "random").captioner)[0].num_tokens == med.num_tokens


def test_seen_without_pictures_is_an_upper_bound_and_said_to_be(folder: Path) -> None:
    config = config_of(folder, "nothing", vocabulary="seen")
    tokens, (line,) = said_of(config)
    assert tokens == len(SPECIAL) + len(LETTERS) + len(WORDS) + 2
    assert line.endswith(f"planned with all {tokens - 2} of the tokenizer, an upper bound")
    said: list[str] = []
    assert with_planned_vocabulary(config, folder, said.append).pretrain.model.text.vocabulary == "whole"
    assert said == [line]


def test_a_tokenizer_that_cannot_be_read_counts_as_berts_and_is_told(folder: Path) -> None:
    tokens, (line,) = said_of(config_of(folder, tokenizer=str(folder / "nowhere")))
    assert tokens == 30_524
    assert "nowhere" in line
    assert line.endswith("its word pieces are counted as BERT's, 30,522")


def test_the_figures_are_those_of_the_model_that_will_be_built(folder: Path) -> None:
    def figures(tokenizer: str) -> dict[str, float]:
        text = json.dumps(SMALL | {"tokenizer": tokenizer})
        settings = {"root": folder / "run", "pretrain.model.text": text, "pretrain.optimizer.batch_size": 8}
        settings |= {"pretrain.model.vision": json.dumps(VISION), "pretrain.itc.queue_size": 0}
        asked = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
        done = CliRunner().invoke(
            app, ["plan", "--images", "100", "--gpus", "1", "--json", *asked], catch_exceptions=False
        )
        found: dict[str, float] = json.loads(done.stdout)
        return found

    own, berts = figures(str(folder / "vocab.txt")), figures("bert-base-uncased")
    fewer = 30_524 - 65
    # Of each word piece: its row of the embeddings, and its bias, in weights and both moments; and the embeddings once
    # more in the momentum encoder.
    assert berts["checkpoint_bytes"] - own["checkpoint_bytes"] == 4 * fewer * (3 * (16 + 1) + 16)
    assert own["gflop_per_sample"] < berts["gflop_per_sample"] / 10


@pytest.mark.parametrize(("least", "most"), [(None, 6), (0, 3), (7, 8)])
def test_a_usual_length_is_no_shorter_than_the_shortest(folder: Path, least: int | None, most: int) -> None:
    """The decoder of an evaluation writes without a prompt, and these texts have one piece."""
    config = config_of(folder)
    own = config.model_dump() | {"evaluate": {"sampler": {"min_tokens": least}}}
    assert with_usual_length(Config.model_validate(own), ["dog", "cat"]).evaluate.sampler.max_tokens == most
