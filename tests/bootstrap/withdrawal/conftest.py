"""A run of two rounds over twelve pictures, made once, and copies of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from blip_bootstrap.cli.forget import _write_pages
from tests.support.small_world_runs import SmallRuns

PAGES = ("round-00/metrics.json", "round-00/report.html", "round-01/metrics.json", "round-01/report.html",
         "report.html")  # fmt: skip


@pytest.fixture(scope="package")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        found = SmallRuns(tmp_path_factory.mktemp("runs"), patch)
        found.run(found.folder / "first")
        _write_pages(found.folder / "first", [*PAGES])
        yield found


@pytest.fixture
def root(runs: SmallRuns, tmp_path: Path) -> Path:
    """A copy of a run of two rounds over twelve pictures."""
    runs.dead.clear()
    shutil.copytree(runs.folder / "first", tmp_path / "run", symlinks=True)
    return tmp_path / "run"
