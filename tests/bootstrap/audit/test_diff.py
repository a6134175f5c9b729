"""What `diff` says of settings: those that differ, and one line for what only one of the rounds has."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from blip_bootstrap.audit.diff import diff


@pytest.fixture
def root(finished_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished_run, tmp_path / "run", symlinks=True)
    return tmp_path / "run"


def change(root: Path, place: str, step: str, **settings: Any) -> None:
    """Give the MANIFEST at a place another step, and settings beside its own."""
    path = root / place / "MANIFEST.json"
    told = json.loads(path.read_text())
    told["recipe"]["step"], told["settings"] = step, told["settings"] | settings
    path.write_text(json.dumps(told))


def settings_of(root: Path, before: int, after: int) -> list[tuple[str, str | None, str | None]]:
    (found,) = (one.table for one in diff(root, before, after) if one.name == "settings")
    return [(row["setting"], row["before"], row["after"]) for row in found.to_pylist()]


def test_what_one_round_alone_has_is_one_line(root: Path) -> None:
    """Round 0 has no captions, and its pairs are the web's: each of some hundred settings would be a line."""
    change(root, "round-01/captions", "caption_and_score", sampler={"preset": "nucleus", "top_p": 0.9})
    change(root, "round-00/pairs", "take_web_pairs")
    expected = [("captions", None, "caption_and_score"), ("pairs", "take_web_pairs", "select_pairs")]
    assert settings_of(root, 0, 1) == expected
    assert settings_of(root, 1, 0) == [(name, after, before) for name, before, after in expected]


def test_of_one_step_the_settings_that_differ_are_told(root: Path) -> None:
    change(root, "round-00/pairs", "select_pairs", itm_threshold=0.25, score={"web": "itm"}, new=True)
    assert settings_of(root, 0, 1) == [
        ("captions", None, "caption_and_score"),
        ("pairs.itm_threshold", "0.25", "0.5"),
        ("pairs.new", "true", None),
        ("pairs.score", None, '"itm"'),
        ("pairs.score.web", '"itm"', None),
    ]
    assert settings_of(root, 1, 1) == []
