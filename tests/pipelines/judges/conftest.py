from __future__ import annotations

import os
from pathlib import Path

import pytest

KINDS = {name.lower(): f"tests.support.judges:{name}" for name in ("Plain", "One", "Drifting")}


@pytest.fixture
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package, by what it leaves in site-packages, that brings the judges of the tests."""
    folder = tmp_path / "site" / "test_judges-1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: test-judges\nVersion: 1.0\n")
    lines = [f"{name} = {place}" for name, place in KINDS.items()]
    (folder / "entry_points.txt").write_text("[blip_bootstrap.judges]\n" + "\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(folder.parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder.parent), str(Path(__file__).parents[3])]))
