"""The page over all rounds."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from blip_bootstrap.audit import open_run
from blip_bootstrap.audit.open_run import OpenRun
from blip_bootstrap.config import ReportConfig
from blip_bootstrap.errors import InputError
from blip_bootstrap.report.overview_page import write_overview
from blip_bootstrap.report.round_page import page_html


def test_the_page_shows_every_round_and_links_to_its_page(finished_run: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(finished_run, tmp_path / "run"))
    (root / "round-01/report.html").write_text("")
    page = write_overview(root).read_text()
    for told in ("round 0", "round 1", "itm_idle", "noise ratio", 'href="round-01/report.html"', "different words"):
        assert told in page
    assert "round-00/report.html" not in page
    assert "<script" not in page


def test_a_page_that_would_stay_the_same_is_left_untouched(finished_run: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(finished_run, tmp_path / "run"))
    path = write_overview(root)
    os.utime(path, ns=(1, 1))
    assert write_overview(root).stat().st_mtime_ns == 1
    path.write_text("half of it")
    assert "round by round" in write_overview(root).read_text().lower()


def test_a_round_that_has_no_figures_yet_is_not_told_by_those_of_another(finished_run: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(finished_run, tmp_path / "run"))
    (root / "round-01/metrics.json").unlink()
    page = page_html(root, 1, ReportConfig(num_gallery=1))
    assert "CIDEr, held-out" not in page
    assert "kept 50" in page
    (root / "round-01/report.html").write_text(page)
    overview = write_overview(root).read_text()
    assert "Round 1: <strong>itm_idle" in overview
    assert 'href="round-01/report.html"' in overview


def test_a_run_without_figures_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no round has figures yet"):
        write_overview(tmp_path)


def test_pages_of_the_same_rounds_are_made_of_one_connection(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(shutil.copytree(finished_run, tmp_path / "run"))
    config = ReportConfig(num_gallery=1)
    alone = {number: page_html(root, number, config) for number in (0, 1)}, write_overview(root).read_bytes()
    connected: list[list[int]] = []
    connect = vars(open_run)["connect"]
    monkeypatch.setattr(
        open_run, "connect", lambda root, numbers: (connected.append(numbers), connect(root, numbers))[1]
    )
    with OpenRun(root) as run:
        pages = {number: page_html(root, number, config, run) for number in (0, 1)}
        assert (pages, write_overview(root, run).read_bytes()) == alone
        assert connected == [[0], [0, 1]]
        run.close()
        (root / "round-01/metrics.json").unlink()
        assert write_overview(root, run).read_bytes() != alone[1]
    assert connected == [[0], [0, 1], [0, 1]]
