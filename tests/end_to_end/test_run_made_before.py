"""A run of the version before the modules were put into rooms: it is read, audited, current, and gone on with.

`tests/fixtures/run_before_rooms.tar.xz` holds two rounds over 26 URLs of the built-in world, models of width 16, and
the lists and pictures that they were made from (`config.yaml`, `run/`, `world/`).
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from contextlib import chdir
from pathlib import Path

import pytest

from blip_bootstrap.labels.sample import draw_sample
from blip_bootstrap.storage.labels import read_labels, write_labels
from tests.support.in_process import blip_here

FIXTURE = Path(__file__).parents[1] / "fixtures" / "run_before_rooms.tar.xz"


OF_THE_CHECK = [f"round-01/{name}" for name in ("filter_check", "metrics.json", "report.html")]
"""What a run of that version gets when it is run again."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with tarfile.open(FIXTURE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


@pytest.fixture(scope="module")
def run_again(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder after the same command, and what that told."""
    folder = tmp_path_factory.mktemp("again")
    with tarfile.open(FIXTURE) as archive:
        archive.extractall(folder, filter="data")
    return folder, blip(folder, "run", "--round", "1", "--config", "config.yaml").stderr


def blip(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    with chdir(folder):
        done = blip_here(*arguments)
    assert done.returncode == 0, done.stderr
    return done


def test_it_is_current(run_again: tuple[Path, str]) -> None:
    """But for the groups of pictures and the check of the scores, which there were not yet, and what tells of them."""
    folder, told = run_again
    made = [line.split(":")[0] for line in told.splitlines() if ": done in" in line]
    assert made == ["groups", *OF_THE_CHECK]
    done = blip(folder, "run", "--round", "1", "--config", "config.yaml")
    steps = [line for line in done.stderr.splitlines() if line.startswith(("images", "human", "held_out", "round-"))]
    assert len(steps) > 12
    assert [line for line in steps if not line.endswith(": current")] == []


def test_it_is_current_without_the_check(folder: Path) -> None:
    done = blip(folder, "run", "--round", "1", "--config", "config.yaml", "--set", "filter_check.pictures=0")
    made = [line.split(":")[0] for line in done.stderr.splitlines() if ": done in" in line]
    assert made == ["groups", "round-01/metrics.json", "round-01/report.html"]


def test_it_is_asked_and_audited(folder: Path) -> None:
    kept = blip(
        folder, "sql", "SELECT round, count(*) AS n FROM pairs WHERE kept GROUP BY ALL ORDER BY ALL", "--root", "run",
        "--format", "csv",
    )  # fmt: skip
    assert kept.stdout.splitlines() == ["round,n", "0,23", "1,27"]
    assert "accounting" in blip(folder, "audit", "--root", "run").stdout
    assert "0000000000" in blip(folder, "why", "0000000000", "--root", "run").stdout


def test_it_is_gone_on_with(folder: Path) -> None:
    """Its pictures are there, so that no server is needed."""
    done = blip(folder, "run", "--round", "2", "--config", "config.yaml")
    made = [line.split(":")[0] for line in done.stderr.splitlines() if ": done in" in line]
    first = ("captioner", "filter", "captions", "filter_check", "pairs")
    assert made[:6] == ["groups", *(f"round-02/{name}" for name in first)]
    assert all(name.startswith("round-02/") for name in made[1:])
    assert (folder / "run" / "round-02" / "report.html").is_file()


def test_labels_that_are_answered_later_are_shown_by_the_same_command(
    run_again: tuple[Path, str], tmp_path: Path
) -> None:
    folder = shutil.copytree(run_again[0], tmp_path / "again", symlinks=True)
    command = ("run", "--round", "1", "--config", "config.yaml")
    path = draw_sample(folder / "run", 1, 20)
    write_labels(path, [row | {"answer": "yes"} for row in read_labels(path)])
    page, other = (folder / "run" / f"round-0{number}" / "report.html" for number in (1, 0))
    before = other.stat().st_mtime_ns
    said = blip(folder, *command).stderr.splitlines()
    assert [line for line in said if line.startswith("round-01/report.html: done in")]
    assert "Spot check" in page.read_text(encoding="utf-8")
    written = page.stat().st_mtime_ns
    assert "round-01/report.html: current" in blip(folder, *command).stderr.splitlines()
    assert (page.stat().st_mtime_ns, other.stat().st_mtime_ns) == (written, before)
