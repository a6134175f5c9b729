"""The page of a round: what was kept, what was dropped and why, and how good the model became."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

from blip_bootstrap import __version__
from blip_bootstrap.audit.audits import AUDITS
from blip_bootstrap.audit.open_run import OpenRun
from blip_bootstrap.audit.shortfalls import limits
from blip_bootstrap.config import ReportConfig
from blip_bootstrap.html.elements import document, section
from blip_bootstrap.progress import Say, quiet
from blip_bootstrap.report import data_sections, model_sections
from blip_bootstrap.report.costs import costs
from blip_bootstrap.report.page_data import PageData
from blip_bootstrap.report.report_file import (
    Content,
    ReportFile,
    manifest_files,
    manifests_of_steps,
    write_if_changed,
)
from blip_bootstrap.report.rule_section import rule
from blip_bootstrap.storage import run_folder
from blip_bootstrap.storage.run_folder import labels_path, languages_path, resolve_round

SECTIONS: tuple[tuple[str, str, str, Callable[[PageData], str]], ...] = (
    (
        "flow",
        "From URLs to pairs",
        "No row is lost: each goes on or has a reason why not. All bars have the same scale.",
        data_sections.flow,
    ),
    (
        "pictures",
        "Kept and dropped",
        "The next model trains on the green texts and not on the red ones.",
        data_sections.galleries,
    ),
    (
        "noise",
        "Noise ratio",
        "How much of each source the filter rejects (section 4.2 of the BLIP paper), and how much is dropped in all.",
        data_sections.noise,
    ),
    (
        "spot-check",
        "Spot check",
        "What people answered about a sample of texts, projected onto the whole round.",
        data_sections.spot_check,
    ),
    (
        "scores",
        "Scores of the filter",
        "A filter that separates well has two peaks, with a valley at the threshold.",
        data_sections.scores,
    ),
    ("rule", "Learned rule", "By what texts were judged, how well, and what is expected of the kept ones.", rule),
    (
        "filter-quality",
        "What the filter can tell",
        "How often each score puts a right text above a wrong one: 100% is perfect, 50% is chance.",
        data_sections.quality,
    ),
    (
        "truth",
        "Truth",
        "How many texts are true of their picture, by the truth file. It is used for measuring only.",
        data_sections.truth,
    ),
    (
        "cost",
        "What captions cost",
        "What was drawn and what was spared, and what the first captions of each picture bring beside all of them.",
        costs,
    ),
    (
        "held-out",
        "Held-out figures",
        "Measured on the held-out set. The best of each line is bold; controls were trained for as many steps.",
        model_sections.held_out,
    ),
    (
        "rounds",
        "Round by round",
        "The main figures; metrics.json beside this page has all of them.",
        data_sections.over_rounds,
    ),
    (
        "variety",
        "What the rule does to variety",
        "As many texts of those kept as of all, so that they can be compared.",
        data_sections.variety,
    ),
    (
        "diversity",
        "Words",
        "How varied the texts are, which are most common, which words the captioner lost or invented.",
        data_sections.diversity,
    ),
    (
        "training",
        "Training",
        "Losses and learning rate while this round's model was pre-trained.",
        model_sections.training,
    ),
    ("time", "Time", "How long each step took when it last ran.", model_sections.seconds),
    ("settings", "Settings and digests", "What each artifact was made from.", data_sections.settings),
)
"""Anchor, heading, a sentence about it, and the function that draws it."""

AHEAD = tuple(name for name in AUDITS if name not in ("downloads", "costs", "steps"))
"""The audits that the sections show, asked before the first section is drawn."""


def write_report(
    root: Path,
    number: int | None = None,
    config: ReportConfig | None = None,
    run: OpenRun | None = None,
    say: Say = quiet,
    always: bool = False,
) -> Path:
    """Write report.html of round `number` (None: the last) of the run under `root`, if it may have changed; its path.

    The page needs no other file and no network, and holds no time of its own making. `config` None takes the settings
    that the page was last written with. `run` is the run under `root`, where another page is to be made of it. `say`
    gets the lines of progress; `always` draws the page in any case. Raises InputError where the run or the round is
    not there, or the page cannot be written.
    """
    last = resolve_round(root, number)
    name = f"{run_folder.round_name(last)}/report.html"
    settings = config or _settings_of(root / name)

    def content() -> Content:
        page = page_html(root, last, settings, run)
        return page, {"size_bytes": len(page.encode())}

    reads = what_a_page_reads(root, [one for one in run_folder.round_numbers(root) if one <= last])
    file = ReportFile(root, name, "write_report", reads, settings)
    return write_if_changed(file, content, say, always)


def _settings_of(page: Path) -> ReportConfig:
    """The settings that a page was last written with."""
    record = run_folder.read_json(run_folder.manifest_path(page))
    return ReportConfig.model_validate((record or {}).get("settings", {}))


def what_a_page_reads(root: Path, rounds: Sequence[int]) -> dict[str, Path | str]:
    """Every input of a page about these rounds: what steps left, figures, labels, languages, and the alarms' limits.

    The Parquet files count by their MANIFESTs. The version decides, too: another may word or draw a page otherwise.
    """
    files = [run_folder.round_folder(root, number) / "metrics.json" for number in rounds]
    files += [path(root, number) for path in (labels_path, languages_path) for number in rounds]
    found: dict[str, Path | str] = {"version": __version__, "run": root.name, "limits": json.dumps(limits(root))}
    return found | manifest_files(root, rounds) | {file.relative_to(root).as_posix(): file for file in files}


def page_html(root: Path, number: int, config: ReportConfig, run: OpenRun | None = None) -> str:
    """The page of round `number` as one HTML document; `run` is the run under `root`, where it is open already."""
    with nullcontext(run) if run else OpenRun(root) as opened:
        numbers = [one for one in run_folder.round_numbers(root) if one <= number]
        connection, audits = opened.over(numbers, AHEAD)
        rounds = data_sections.read_rounds(connection, root, number)
        page = PageData(root, number, config, connection, audits, rounds, manifests_of_steps(root))
        drawn = [(anchor, title, note, draw(page)) for anchor, title, note, draw in SECTIONS]
        head = data_sections.cards(page) + data_sections.alarm_list(page)
    drawn = [one for one in drawn if one[3]]
    return document(
        f"CapFilt round {number}",
        f"What was kept, what was dropped and why, and how good the model became. Run: {root.name}",
        [(anchor, title) for anchor, title, _, _ in drawn],
        head + "".join(section(*one) for one in drawn),
        _footer(page),
    )


def _footer(page: PageData) -> str:
    made = [str(m["made"]) for name, m in page.manifests.items() if run_folder.round_of(name) == page.number]
    version = next((str(m["version"]) for m in page.manifests.values()), "")
    return f"blip-bootstrap {version}; the last artifact of the round was made {max(made, default='')}."
