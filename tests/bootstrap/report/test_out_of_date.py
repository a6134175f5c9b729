"""A round that was made from something that is another now says so, wherever its figures stand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from blip_bootstrap.audit.alarms import alarms
from blip_bootstrap.audit.diff import print_diff
from blip_bootstrap.report.overview_page import overview_html
from blip_bootstrap.report.round_page import write_report
from blip_bootstrap.report.summary import print_summary
from blip_bootstrap.storage.run_folder import out_of_date

TOLD = "round 1 is out of date: made from another round 0"


@pytest.fixture
def root(finished_run: Path, tmp_path: Path) -> Path:
    """A run whose first round was made anew after its second."""
    root = Path(shutil.copytree(finished_run, tmp_path / "run"))
    path = root / "round-01/model/MANIFEST.json"
    manifest = json.loads(path.read_text())
    manifest["recipe"]["inputs"]["round-00/model"] = "e" * 64
    path.write_text(json.dumps(manifest))
    return root


def test_a_run_made_in_one_go_says_nothing(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert out_of_date(finished_run) == {}
    print_summary(finished_run)
    assert "out of date" not in capsys.readouterr().out
    assert "out of date" not in overview_html(finished_run)


def test_tables_and_pages_say_so(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert out_of_date(root) == {1: "made from another round 0"}
    print_summary(root)
    said = capsys.readouterr().out
    assert "out of date" in said.partition("alarm:")[0]
    assert f"alarm: out_of_date: {TOLD}" in said
    assert [alarm.message for alarm in alarms(root, 1) if alarm.name == "out_of_date"] == [TOLD]
    assert [alarm for alarm in alarms(root, 0) if alarm.name == "out_of_date"] == []
    page = write_report(root, 1, always=True).read_text()
    assert f"<strong>out_of_date</strong>: {TOLD}" in page
    assert "round 1 (out of date)</th>" in page
    assert "round 0</th>" in page
    assert "page of round 1</a> (out of date)" in overview_html(root)
    print_diff(root, 0, 1)
    assert capsys.readouterr().out.splitlines()[0] == TOLD
