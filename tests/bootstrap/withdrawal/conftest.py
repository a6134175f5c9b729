"""A run of two rounds over twelve pictures, made once, and copies of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from blip_bootstrap.cli.forget import _write_pages
from tests.support.small_world_runs import SmallRuns

PAGES = ("round-00/metrics.json", "round-00/report.html", "round-01/metrics.json", "round-01/report.html",
         "report.html")  # fmt: skip


@pytest.fixture(scope="session")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the run, made with stand-ins that are gone when it is there: other tests share this process."""
    with pytest.MonkeyPatch.context() as patch:
        made = SmallRuns(tmp_path_factory.mktemp("runs"), patch)
        made.run(made.folder / "first")
        _write_pages(made.folder / "first", [*PAGES])
    return made.folder


@pytest.fixture
def runs(first_run: Path, monkeypatch: pytest.MonkeyPatch) -> SmallRuns:
    """Stand-ins for one test, over the lists of that run."""
    return SmallRuns(first_run, monkeypatch)


@pytest.fixture
def root(runs: SmallRuns, tmp_path: Path) -> Path:
    """A copy of a run of two rounds over twelve pictures."""
    shutil.copytree(runs.folder / "first", tmp_path / "run", symlinks=True)
    return tmp_path / "run"
