from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from blip_bootstrap.cli.app import app
from blip_bootstrap.errors import ConfigError
from blip_pipelines.captioners.conformance import CHECKS, FAILED, PASSED, SKIPPED, assert_conforms, check_captioner
from blip_pipelines.captioners.registry import BUILT_IN
from tests.support.captioners import SAVED

OF_A_CHECKPOINT = {"transformers": sorted(SAVED), "blip": ["blip"]}


def options(name: str, tmp_path: Path, models: tuple[Path, Path]) -> dict[str, Any]:
    if name == "smolvlm":
        pytest.importorskip("num2words")
    checkpoint = models[0] if name == "blip" else SAVED[name](tmp_path / name)
    return {"checkpoint": str(checkpoint), "max_tokens": 40 if name == "blip" else 6}


@pytest.mark.parametrize(("kind", "name"), [(kind, one) for kind, names in OF_A_CHECKPOINT.items() for one in names])
def test_built_in_captioners_conform(kind: str, name: str, tmp_path: Path, models: tuple[Path, Path]) -> None:
    given = options(name, tmp_path, models)
    outcomes = {one.check: one.outcome for one in assert_conforms(kind, given)}
    assert set(outcomes) == set(CHECKS)
    weaker = {"same at any batch size", "same in any order"} if kind == "transformers" else set()
    assert {name for name, outcome in outcomes.items() if outcome != PASSED} == weaker


def test_one_by_one_promises_more(tmp_path: Path, models: tuple[Path, Path]) -> None:
    given = options("qwen", tmp_path, models) | {"one_by_one": True}
    assert {one.outcome for one in assert_conforms("transformers", given)} == {PASSED}


def test_each_built_in_kind_is_checked() -> None:
    """Kinds that ask a server have their checks beside it."""
    assert {"blip", "transformers"} == set(OF_A_CHECKPOINT) <= set(BUILT_IN)


@pytest.mark.usefixtures("registered")
def test_a_broken_promise_is_found() -> None:
    outcomes = {one.check: one for one in check_captioner("drifting", {})}
    assert outcomes["same at any batch size"].outcome == FAILED
    assert outcomes["same at any batch size"].told == ("by 1, ask 1 is answered by 'number 0' instead of 'number 1'")
    assert outcomes["same in any order"].outcome == FAILED
    assert outcomes["answers each ask"].outcome == PASSED
    with pytest.raises(AssertionError, match="captioner drifting: same at any batch size"):
        assert_conforms("drifting", {})


@pytest.mark.usefixtures("registered")
def test_a_captioner_that_raises_is_a_finding() -> None:
    outcomes = {one.check: one for one in check_captioner("sure", {"at_most": 2})}
    assert outcomes["answers each ask"].outcome == FAILED
    assert outcomes["answers each ask"].told.startswith("it raised MemoryError")
    unknown = {one.check: one for one in check_captioner("sure", {"fails": {"6": "tired"}})}
    assert unknown["declares its promise and digest"].outcome == PASSED
    with pytest.raises(ConfigError, match="there is no such option"):
        check_captioner("sure", {"wrod": 1})


@pytest.mark.usefixtures("registered")
def test_the_command_tells_and_exits_by_it() -> None:
    ran = CliRunner().invoke(app, ["conformance", "drifting", "--json"])
    assert ran.exit_code == 1
    told = json.loads(ran.stdout)
    assert told["kind"] == "drifting"
    assert {one["outcome"] for one in told["checks"]} <= {PASSED, FAILED, SKIPPED}
    writers = "caption.writers=[{name: mine, kind: sure, options: {word: a}}]"
    fine = CliRunner().invoke(app, ["conformance", "mine", "--set", writers, "--option", "word=a red dog"])
    assert fine.exit_code == 0, fine.output
    assert "same in another process, after a kill" in fine.stdout
