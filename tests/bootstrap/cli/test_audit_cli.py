"""The commands about a finished run."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from blip_bootstrap.audit.audits import audit
from blip_bootstrap.cli.app import app
from blip_bootstrap.errors import InputError, RunFailed
from blip_bootstrap.labels.estimates import told_enough
from blip_bootstrap.query.questions import query
from blip_bootstrap.query.views import connect
from blip_bootstrap.storage.labels import read_labels
from blip_bootstrap.storage.run_folder import labels_path


def invoke(*words: str) -> str:
    done = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_audit_prints_the_audits_asked_for(finished_run: Path) -> None:
    shown = invoke("audit", "--root", str(finished_run), "--name", "noise")
    assert "Noise ratio of each source" in shown
    assert "Downloads" not in shown
    assert "alarm: itm_idle" in shown


def test_an_audit_that_is_named_as_a_command_is_told_how_to_ask_it() -> None:
    done = CliRunner().invoke(app, ["audit", "duplicates"])
    assert done.exit_code == 2
    assert "audit --name duplicates" in " ".join(done.output.split())


def test_alarms_can_be_made_an_exit_code(finished_run: Path) -> None:
    with pytest.raises(RunFailed, match="itm_idle"):
        invoke("audit", "--root", str(finished_run), "--name", "noise", "--alarms")


def test_sample_and_estimate(finished_run: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(finished_run, tmp_path / "run"))
    path = invoke("audit", "sample", "--root", str(root), "--round", "1", "--size", "8").strip()
    assert len(read_labels(Path(path.replace("\n", "")))) == 8
    assert labels_path(root, 1).exists()
    assert "noise_kept" in invoke("audit", "estimate", "--root", str(root), "--round", "1")
    assert "round-01.parquet: no answer yet that is yes or no" in told_enough(root, 1)


def test_why_and_diff(finished_run: Path, tmp_path: Path) -> None:
    page = tmp_path / "why.html"
    assert "below_threshold" in invoke("why", "0000000011", "--root", str(finished_run), "--page", str(page))
    assert page.exists()
    assert "What changed" in invoke("diff", "--rounds", "0", "1", "--root", str(finished_run))


def test_an_audit_shows_its_sql_and_sql_answers_it(finished_run: Path) -> None:
    shown = invoke("audit", "--sql", "--name", "people")
    assert "('origin: asian', 'korean')" in shown
    with connect(finished_run, [1]) as connection:
        assert query(connection, shown).equals(audit(finished_run, 1, ["people"])[0].table)


def test_all_rounds_stand_below_each_other(finished_run: Path) -> None:
    (answer,) = audit(finished_run, None, ["noise"], all_rounds=True)
    assert answer.table["round"].to_pylist() == [0, 1, 1]
    assert invoke("audit", "--root", str(finished_run), "--name", "noise", "--all-rounds").count("web") == 2


@pytest.mark.parametrize("words", [["sample"], ["label"], ["estimate"], ["languages"], ["calibrate"], []])
def test_a_root_without_rounds_is_told_and_nothing_is_written(tmp_path: Path, words: list[str]) -> None:
    for root, told in ((tmp_path / "nothing", "no such run"), (tmp_path, "no |sample")):
        if words or root != tmp_path:
            with pytest.raises(InputError, match=told):
                invoke("audit", *words, "--root", str(root))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["audit"], ["why", "0000000011"], ["diff", "--rounds", "0", "1"]])
def test_a_reader_may_leave_early(finished_run: Path, words: list[str]) -> None:
    command = [sys.executable, "-m", "blip_bootstrap", *words, "--root", str(finished_run)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        told = process.stderr.read().decode()
    assert (process.returncode, [line for line in told.splitlines() if not line.startswith("alarm: ")]) == (0, [])


@pytest.mark.parametrize("command", [["audit"], ["audit", "sample"], ["audit", "label"], ["why"], ["diff"]])
def test_every_command_has_an_example(command: list[str]) -> None:
    assert "Example: " in " ".join(invoke(*command, "--help").split())
