"""The commands about a finished run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from blip_bootstrap.audit_cli import mount
from blip_bootstrap.errors import RunFailed
from blip_bootstrap.labels import labels_path, read_labels

app = typer.Typer()
mount(app)


def invoke(*words: str) -> str:
    done = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_audit_prints_the_audits_asked_for(finished_run: Path) -> None:
    shown = invoke("audit", "--root", str(finished_run), "--name", "noise")
    assert "Noise ratio of each source" in shown
    assert "Downloads" not in shown
    assert "alarm: itm_idle" in shown


def test_alarms_can_be_made_an_exit_code(finished_run: Path) -> None:
    with pytest.raises(RunFailed, match="itm_idle"):
        invoke("audit", "--root", str(finished_run), "--name", "noise", "--alarms")


def test_sample_and_estimate(finished_run: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(finished_run, tmp_path / "run"))
    path = invoke("audit", "sample", "--root", str(root), "--round", "1", "--size", "8").strip()
    assert len(read_labels(Path(path.replace("\n", "")))) == 8
    assert labels_path(root, 1).exists()
    assert "noise_kept" in invoke("audit", "estimate", "--root", str(root), "--round", "1")


def test_why_and_diff(finished_run: Path, tmp_path: Path) -> None:
    page = tmp_path / "why.html"
    assert "below_threshold" in invoke("why", "0000000011", "--root", str(finished_run), "--page", str(page))
    assert page.exists()
    assert "What changed" in invoke("diff", "--rounds", "0", "1", "--root", str(finished_run))


@pytest.mark.parametrize("command", [["audit"], ["audit", "sample"], ["audit", "label"], ["why"], ["diff"]])
def test_every_command_has_an_example(command: list[str]) -> None:
    assert "Example: " in " ".join(invoke(*command, "--help").split())
