"""The pages as a browser draws them: on a phone, dark and light, by keyboard and screen reader, and alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from blip_bootstrap.config import ReportConfig
from blip_bootstrap.html.elements import document, section
from blip_bootstrap.labels.page import Labelling
from blip_bootstrap.labels.sample import draw_sample
from blip_bootstrap.report.overview_page import write_overview
from blip_bootstrap.report.round_page import page_html
from blip_bootstrap.report.why import story_html, why
from blip_bootstrap.storage.labels import read_labels, write_labels
from tests.support.browser import CHROMIUM, Seen, look, look_at, printed

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium to draw the page")


@pytest.fixture(scope="module")
def pages(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A round's page, spot check and all, and the one over all rounds."""
    root = tmp_path_factory.mktemp("pages") / "run"
    shutil.copytree(finished_run, root)
    path = draw_sample(root, 1, 40)
    write_labels(path, [row | {"answer": "yes" if at % 3 else "no"} for at, row in enumerate(read_labels(path))])
    draw_sample(root, 0, 10)
    return {
        "round": page_html(root, 1, ReportConfig(num_gallery=4)),
        "overview": write_overview(root).read_text(),
        "why": story_html(why(root, "0000000010")),
        "label": Labelling(root, 0).page(),
    }


@pytest.fixture(scope="module")
def drawn(pages: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int, bool], Seen]:
    """The pages by width, by day and by night: a browser each for these two."""
    return {
        (page, width, dark): seen
        for dark in (False, True)
        for (page, width), seen in look_at(
            [(page, width) for page in pages.values() for width in ((390,) if dark else (390, 1280))],
            tmp_path_factory.mktemp("browser"), dark,
        ).items()
    }  # fmt: skip


@pytest.mark.parametrize(("width", "dark"), [(390, False), (390, True), (1280, False)])
@pytest.mark.parametrize("name", ["round", "overview", "why", "label"])
def test_a_page_is_read_by_all(
    pages: dict[str, str], drawn: dict[tuple[str, int, bool], Seen], name: str, width: int, dark: bool
) -> None:
    seen = drawn[pages[name], width, dark]
    found = seen.measured
    assert found["texts"] > {"round": 200, "overview": 50, "why": 50, "label": 5}[name]
    assert found["dark"] == dark
    assert found["scroll_width"] <= found["width"], found["wider"]
    for mistakes in ("wider", "faint", "unnamed", "headless", "silent", "broken", "unreached", "skipped"):
        assert found[mistakes] == [], mistakes
    assert found["landmarks"] == ([0, 0, 1, 0] if name == "label" else [1, 1, 1, 1])
    assert seen.console == []
    assert found["resources"] == []
    assert set(seen.asked) <= {"/", "/page.html", "/favicon.ico"}


@pytest.mark.skipif(not shutil.which("pdftotext"), reason="no poppler to read what was printed")
def test_what_is_folded_is_printed(tmp_path: Path) -> None:
    folded = "<details><summary>Heading</summary><p>What is folded away.</p></details>"
    page = document("Title", "Lead.", [], section("one", "One", "A note.", folded), "")
    told = printed(page, tmp_path)
    assert "Heading" in told
    assert "What is folded away." in told
    assert "What is folded away." not in printed(page.replace("::details-content", "::nothing"), tmp_path)


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
