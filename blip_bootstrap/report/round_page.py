"""One self-contained HTML page per round: what was kept, what was dropped, why, and what came of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from blip_bootstrap.audit.audits import AUDITS
from blip_bootstrap.audit.open_run import OpenRun
from blip_bootstrap.config import ReportConfig
from blip_bootstrap.errors import writing
from blip_bootstrap.html.elements import document, section
from blip_bootstrap.report import data_sections, model_sections
from blip_bootstrap.report.page import Page
from blip_bootstrap.storage import run_folder
from blip_bootstrap.storage.files import check_writable, write_whole
from blip_bootstrap.storage.run_folder import resolve_round

SECTIONS: tuple[tuple[str, str, str, Callable[[Page], str]], ...] = (
    ("flow", "From URLs to pairs", "Every row is accounted for; all bars are to one scale.", data_sections.flow),
    ("pictures", "Kept and dropped", "Green texts train the next model; red do not.", data_sections.galleries),
    (
        "noise",
        "Noise ratio",
        "What the filter rejects of each source (section 4.2 of the paper), and what is dropped in all.",
        data_sections.noise,
    ),
    ("spot-check", "Spot check", "What people's answers to a sample say of the whole round.", data_sections.spot_check),
    (
        "scores",
        "Scores of the filter",
        "Two hills, a valley at the threshold: the filter tells.",
        data_sections.scores,
    ),
    ("truth", "Truth", "Known for these texts, and used for measuring alone.", data_sections.truth),
    (
        "held-out",
        "Held-out figures",
        "The best of each line in bold; controls had the same steps.",
        model_sections.held_out,
    ),
    ("rounds", "Round by round", "All figures are in metrics.json beside this page.", data_sections.over_rounds),
    (
        "diversity",
        "Words",
        "Variety, the most common, what was lost or invented, who is named.",
        data_sections.diversity,
    ),
    ("training", "Training", "Pre-training of this round's model.", model_sections.training),
    ("time", "Time", "Of each step, in its last run.", model_sections.seconds),
    ("settings", "Settings and digests", "What everything was made from.", data_sections.settings),
)
"""Anchor, heading, a sentence about it, and the function that draws it."""

AHEAD = tuple(name for name in AUDITS if name not in ("downloads", "steps"))
"""The audits that the sections tell."""


def write_report(
    root: Path,
    number: int,
    out: Path,
    images: Path,
    pairs: Path,
    model: Path | None,
    metrics: Path,
    config: ReportConfig,
    run: OpenRun | None = None,
) -> dict[str, int]:
    """Write `out`/report.html for round `number` of the run under `root`; returns its size in bytes.

    The page needs no other file and no network. `images`, `pairs`, `model` and `metrics` are what it is made from,
    and lie under `root`. It holds no time of its own making, so that the same inputs give the same bytes. `run` is
    the run under `root`, where another page is to be made of it.
    """
    page = page_html(root, number, config, run)
    (out / "report.html").write_text(page, encoding="utf-8")
    return {"size_bytes": len(page.encode())}


def rewrite_report(root: Path, number: int | None = None, run: OpenRun | None = None) -> Path:
    """Make the page of a round (None: the last) anew in its place, with the settings it was made with; its path.

    `run` as for `write_report`. Raises InputError where the run or the round is not there.
    """
    number = resolve_round(root, number)
    path = run_folder.round_folder(root, number) / "report.html"
    beside = run_folder.manifest_path(path)
    manifest = run_folder.read_json(beside)
    config = ReportConfig.model_validate((manifest or {}).get("settings", {}))
    check_writable(path)
    content = page_html(root, number, config, run).encode()
    with writing(path):
        write_whole(path, content)
        if manifest:
            entry = {"name": path.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            write_whole(beside, json.dumps({**manifest, "files": [entry]}, indent=1))
    return path


def page_html(root: Path, number: int, config: ReportConfig, run: OpenRun | None = None) -> str:
    """The page of round `number` as one HTML document; `run` as for `write_report`."""
    with nullcontext(run) if run else OpenRun(root) as opened:
        numbers = [one for one in run_folder.round_numbers(root) if one <= number]
        connection, audits = opened.over(numbers, AHEAD)
        manifests = {str(m["name"]): m for m in run_folder.manifests(root)}
        rounds = data_sections.read_rounds(connection, root, number)
        page = Page(root, number, config, connection, audits, rounds, manifests)
        drawn = [(anchor, title, note, draw(page)) for anchor, title, note, draw in SECTIONS]
        head = data_sections.cards(page) + data_sections.alarm_list(page)
    drawn = [one for one in drawn if one[3]]
    return document(
        f"CapFilt round {number}",
        f"What was kept, what was dropped, and what came of it: {root.name}, round {number}.",
        [(anchor, title) for anchor, title, _, _ in drawn],
        head + "".join(section(*one) for one in drawn),
        _footer(page),
    )


def _footer(page: Page) -> str:
    made = [str(m["made"]) for name, m in page.manifests.items() if run_folder.round_of(name) == page.number]
    version = next((str(m["version"]) for m in page.manifests.values()), "")
    return f"blip-bootstrap {version}; the last of its parts was made {max(made, default='')}."
