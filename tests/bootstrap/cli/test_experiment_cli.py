"""The command `experiment`: options of several values, mistakes, and what is left when it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from blip_bootstrap.cli import experiment as cli
from blip_bootstrap.cli.app import app
from blip_bootstrap.errors import ConfigError, InputError, RunFailed
from blip_bootstrap.experiment.plan import Job
from blip_bootstrap.experiment.run import Finished
from blip_bootstrap.experiment.seed import Told


class Asked:
    """Stands for the runs; `asked` is what was asked for."""

    def __init__(self) -> None:
        self.finished = Finished()
        self.asked: dict[str, Any] = {}

    def __call__(self, job: Job, seeds: Any, names: Any, split: str, parallel: int, say: Any) -> Finished:
        self.asked = {"job": job, "seeds": seeds, "names": tuple(names), "split": split, "parallel": parallel}
        return self.finished


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    found = Asked()
    monkeypatch.setattr(cli, "run_experiment", found)
    return found


def call(*words: str) -> Any:
    return CliRunner().invoke(app, ["experiment", *words], catch_exceptions=True)


@pytest.mark.parametrize(
    "words",
    [
        ["--seeds", "3", "4", "--arms", "none", "cf"],
        ["--seeds", "3", "--seeds", "4", "--arms", "none", "--arms", "cf"],
    ],
)
def test_options_take_several_values(asked: Asked, words: list[str]) -> None:
    assert call("table1", *words, "--set", "report.seed=1", "--parallel", "2").exit_code == 0
    assert asked.asked["seeds"] == (3, 4)
    assert asked.asked["names"] == ("none", "cf")
    assert asked.asked["job"].given == ("report.seed=1",)
    assert asked.asked["job"].ray == "none"  # side by side each seed does without


def test_defaults_are_those_of_the_file(asked: Asked) -> None:
    assert call("rounds_flickr8k").exit_code == 0
    assert (asked.asked["seeds"], asked.asked["split"], asked.asked["parallel"]) == ((0,), "held_out", 1)
    assert asked.asked["job"].root == Path("runs/experiments-flickr8k_table1")
    assert asked.asked["job"].ray is None
    assert call("table1", "--split", "validation", "--root", "here").exit_code == 0
    assert (asked.asked["split"], asked.asked["job"].root) == ("validation", Path("here"))


def test_wrong_arms_and_splits_are_told_at_once(asked: Asked) -> None:
    error = call("table1", "--arms", "nune", "cf", "--split", "test").exception
    assert isinstance(error, ConfigError)
    assert error.mistakes == [
        "--arms nune: no such arm; did you mean none?",
        "--split test: is one of held_out, validation",
    ]


def test_what_failed_is_told_at_the_end(asked: Asked, tmp_path: Path) -> None:
    asked.finished = Finished(failed=[Told(1, "cf", "failed", text="no more words")])
    error = call("table1", "--root", str(tmp_path)).exception
    assert isinstance(error, RunFailed)
    assert str(error) == "seed 1, arm cf: no more words"


def test_results_are_written(asked: Asked, tmp_path: Path) -> None:
    record = {"experiment": "table1", "arm": "cf", "seed": 0, "split": "held_out", "round": 1, "steps": 7,
              "pictures": 70, "seconds": 60.0, "model": "abc", "artifacts": {},
              "figures": {"cider": 1.5, "seconds.a": 2.0}}  # fmt: skip
    asked.finished = Finished(records=[record])
    told = call("table1", "--root", str(tmp_path), "--results", str(tmp_path / "a/b.json"))
    assert told.exit_code == 0
    assert "1.500" in told.output
    assert json.loads((tmp_path / "a/b.json").read_text()) == [
        {"arm": "cf", "seed": 0, "metric": "cider", "value": 1.5}
    ]
    assert (tmp_path / "results.parquet").is_file()
    assert "one seed" in (tmp_path / "table1.html").read_text()


def test_the_shipped_experiments_are_listed() -> None:
    told = call("--list")
    assert told.exit_code == 0
    for name in ("table1", "rounds", "shop", "scale"):
        assert f"│ {name} " in told.output


def test_what_is_named_twice_is_run_once(asked: Asked) -> None:
    assert call("table1", "--seeds", "3", "3", "--arms", "cf", "none", "cf").exit_code == 0
    assert asked.asked["seeds"] == (3,)
    assert asked.asked["names"] == ("cf", "none")


@pytest.mark.parametrize("words", [["--seeds"], ["--seeds", "--arms", "cf"], ["--arms", "--parallel", "2"]])
def test_an_option_of_several_values_needs_one(asked: Asked, words: list[str]) -> None:
    told = call("table1", *words)
    assert told.exit_code == 2
    assert "a value is needed" in told.output
    assert not asked.asked


@pytest.mark.parametrize("seed", ["-1", str(2**63)])
def test_seeds_out_of_range_are_told(asked: Asked, seed: str) -> None:
    assert call("table1", "--seeds", seed).exit_code == 2
    assert not asked.asked


def test_results_that_cannot_be_written_are_told_before_the_run(asked: Asked, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, why in ((tmp_path, "is a folder; name the file"), (tmp_path / "file/a.json", "cannot be written")):
        error = call("table1", "--results", str(path)).exception
        assert isinstance(error, InputError)
        assert str(error).startswith(f"{path}: {why}")
    assert not asked.asked


@pytest.mark.parametrize("command", [["audit"], ["report"], ["why", "0"], ["gc"], ["status"], ["artifacts"]])
def test_commands_that_ask_one_run_are_told_where_those_of_experiments_lie(tmp_path: Path, command: list[str]) -> None:
    for seed in (1, 0):
        (tmp_path / f"seed-{seed}").mkdir()
        (tmp_path / f"seed-{seed}" / "config.yaml").write_text("")
    error = CliRunner().invoke(app, [*command, "--root", str(tmp_path)]).exception
    assert isinstance(error, InputError)
    assert str(error).endswith(f"holds experiments, a run for each seed; name one of the runs, as {tmp_path}/seed-0")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["seed-0", "seed-1"]


def test_an_arm_that_is_not_there_is_told_with_those_that_are(asked: Asked) -> None:
    error = call("table1", "--arms", "xyz").exception
    assert str(error) == "--arms xyz: no such arm; known: c, cf, f, human_only, none, oracle"
