"""Links between pages lead somewhere; generated pages are those of the code; the picture is small and there."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

REPO = Path(__file__).parents[2]
PAGES = [REPO / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((REPO / "docs").rglob("*.md"))

_FENCED = re.compile(r"^```.*?^```$", re.M | re.S)
_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def prose(page: Path) -> str:
    """A page without its blocks."""
    return _FENCED.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them; a repeated one has its number behind it."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found.add(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
        seen[anchor] += 1
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in _LINK.findall(_CODE.sub("", prose(page))):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_file(), f"{page.name}: {link}: no such file"
        assert target.is_relative_to(REPO)
        if REPO / "docs" in page.parents:
            assert REPO / "docs" in target.parents, f"{page.name}: {link}: the site of docs/ would not have it"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}: no such heading"


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen, todo = set[Path](), [REPO / "README.md"]
    while todo:
        page = todo.pop()
        if page in seen:
            continue
        seen.add(page)
        names = (link.partition("#")[0] for link in _LINK.findall(_CODE.sub("", prose(page))))
        todo += [target for name in names if name.endswith(".md") and (target := (page.parent / name).resolve())]
    assert set(PAGES) - seen == {REPO / "docs" / "index.md"}, "the site's own first page, and no other, stands apart"


def test_generated_pages_are_current() -> None:
    done = subprocess.run([sys.executable, REPO / "docs" / "generate.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}run docs/generate.py"


def test_the_architecture_has_the_doors_that_are_checked() -> None:
    contracts = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (doors,) = (one["layers"] for one in contracts if one["type"] == "layers")
    assert "\n".join(doors) in (REPO / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_figures_of_the_readme_stand_on_the_page_that_is_linked() -> None:
    readme = (REPO / "README.md").read_text(encoding="utf-8")
    lines = [line for line in readme.splitlines() if "](docs/benchmarks/" in line and line.startswith("|")]
    assert len(lines) > 5
    for line in lines:
        *_, figure, _, _ = re.split(r" ?\| ?", line)
        page = (REPO / "docs" / "benchmarks" / re.findall(r"benchmarks/([\w-]+\.md)", line)[0]).read_text(
            encoding="utf-8"
        )
        for number in re.findall(r"\d+\.\d{3}|\d+\.\d+ %|\d\.\d\d|\d{3} MB", figure):
            assert number in page, f"{number} of {line}"


def test_the_picture_is_of_a_size_for_a_readme() -> None:
    path = REPO / "docs" / "images" / "report.png"
    assert path.stat().st_size < 400_000
    with Image.open(path) as picture:
        assert picture.width > 900
