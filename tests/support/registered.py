"""An installed package, by what it leaves in site-packages, that brings the captioners and judges of the tests."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

CAPTIONERS = {name.lower(): f"tests.support.captioners:{name}" for name in ("Sure", "Drifting")}

JUDGES = {name.lower(): f"tests.support.judges:{name}" for name in ("Plain", "One", "Drifting")}


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, group: str, kinds: Mapping[str, str]) -> None:
    """Have the package in `folder` found by this process and those that it starts."""
    name = group.rpartition(".")[2]
    info = folder / f"test_{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: test-{name}\nVersion: 1.0\n")
    lines = [f"{kind} = {place}" for kind, place in kinds.items()]
    (info / "entry_points.txt").write_text(f"[{group}]\n" + "\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(folder)
    paths = [str(folder), os.environ.get("PYTHONPATH", ""), str(Path(__file__).parents[2])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(one for one in paths if one))


@pytest.fixture
def registered_captioners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "site-captioners", monkeypatch, "blip_bootstrap.captioners", CAPTIONERS)


@pytest.fixture
def registered_judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "site-judges", monkeypatch, "blip_bootstrap.judges", JUDGES)
