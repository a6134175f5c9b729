"""The pages as a browser draws them: on a phone, dark and light, by keyboard and screen reader, and alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from blip_bootstrap.config import ReportConfig
from blip_bootstrap.labels import draw_sample, read_labels, write_labels
from blip_bootstrap.overview import write_overview
from blip_bootstrap.report import page_html
from tests.browser import CHROMIUM, look

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium to draw the page")


@pytest.fixture(scope="module")
def pages(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A round's page, spot check and all, and the one over all rounds."""
    root = tmp_path_factory.mktemp("pages") / "run"
    shutil.copytree(finished_run, root)
    path = draw_sample(root, 1, 40)
    write_labels(path, [row | {"answer": "yes" if at % 3 else "no"} for at, row in enumerate(read_labels(path))])
    return {"round": page_html(root, 1, ReportConfig(num_gallery=4)), "overview": write_overview(root).read_text()}


@pytest.mark.parametrize(("width", "dark"), [(390, False), (390, True), (1280, False)])
@pytest.mark.parametrize("name", ["round", "overview"])
def test_a_page_is_read_by_all(pages: dict[str, str], name: str, width: int, dark: bool, tmp_path: Path) -> None:
    seen = look(pages[name], width, tmp_path, dark)
    found = seen.measured
    assert found["texts"] > 50
    assert found["dark"] == dark
    assert found["scroll_width"] <= found["width"], found["wider"]
    for mistakes in ("wider", "faint", "unnamed", "headless", "silent", "broken", "unreached", "skipped"):
        assert found[mistakes] == [], mistakes
    assert found["landmarks"] == [1, 1, 1, 1]
    assert seen.console == []
    assert found["resources"] == []
    assert set(seen.asked) <= {"/", "/page.html", "/favicon.ico"}


def test_the_browser_does_see_mistakes(tmp_path: Path) -> None:
    bad = """<!doctype html><meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:">
        <body><h1>One</h1><h3>Three</h3><main><p id="w">wide<style>#w {width: 900px}</style></p>
        <p style="color: #999; background: #fff">faint</p><table><tr><th></th></tr></table>
        <div class="scroll">a</div><img src="http://127.0.0.1:9/leaves.png"></main></body>"""
    seen = look(bad.replace("default-src 'none'", "default-src 'unsafe-inline'"), 390, tmp_path)
    found = seen.measured
    assert found["scroll_width"] > found["width"]
    assert [bool(found[mistake]) for mistake in ("wider", "faint", "unnamed", "headless", "silent", "broken")] == [
        True
    ] * 6
    assert found["unreached"]
    assert found["skipped"] == [3]
    assert found["landmarks"] == [0, 0, 1, 0]
    assert any("leaves.png" in line for line in seen.console)
