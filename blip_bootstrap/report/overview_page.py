"""One self-contained HTML page over all rounds of a run."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from blip_bootstrap.audit.alarms import ALARM_AUDITS, find_alarms
from blip_bootstrap.audit.open_run import OpenRun
from blip_bootstrap.audit.shortfalls import OF_ALL_ROUNDS
from blip_bootstrap.config import ReportConfig
from blip_bootstrap.errors import InputError, writing
from blip_bootstrap.html import charts
from blip_bootstrap.html.elements import charts_html, document, section
from blip_bootstrap.report import data_sections
from blip_bootstrap.report.page import Page
from blip_bootstrap.storage import run_folder
from blip_bootstrap.storage.files import write_whole

CHARTS: tuple[tuple[str, tuple[tuple[str, str, str], ...]], ...] = (
    ("noise ratio", (("web", "noise_ratio_web", "web"), ("synthetic", "noise_ratio_synthetic", "synthetic"))),
    ("dropped share", (("web", "dropped_share_web", "web"), ("synthetic", "dropped_share_synthetic", "synthetic"))),
    ("true of the kept texts", (("all", "caption_truth", "kept"), ("synthetic", "kept_truth_synthetic", "synthetic"))),
    ("CIDEr, held-out", (("this run", "cider", "web"), ("human set only", "human_only_cider", "human"))),
    ("TR@1, held-out", (("this run", "tr1", "web"), ("human set only", "human_only_tr1", "human"))),
    ("ITM AUC", (("held-out", "itm_auc", "web"), ("web texts, against truth", "filter_auc_web", "synthetic"))),
)
"""Title, and for each curve its name, the figure and its tone."""


def write_overview(root: Path, run: OpenRun | None = None) -> Path:
    """Write `root`/report.html about every round of the run that has figures; its path.

    `run` is the run under `root` where a page was just made of it. Raises InputError where no round has a
    metrics.json.
    """
    with nullcontext(run) if run else OpenRun(root) as opened:
        numbers = run_folder.round_numbers(root)
        connection, audits = opened.over(numbers, (*ALARM_AUDITS, *data_sections.NOISE))
        rounds = data_sections.read_rounds(connection, root, max(numbers, default=0))
        if not rounds:
            raise InputError(f"{root}: no round has figures yet; run one first")
        page = Page(root, rounds[-1]["round"], ReportConfig(), connection, audits, rounds, {})
        sections = [
            ("alarms", "Alarms", "Signs that the loop feeds on itself.", _alarms(page)),
            (
                "rounds",
                "Round by round",
                "Each round has a page of its own.",
                _links(page) + data_sections.over_rounds(page),
            ),
            ("curves", "Over the rounds", "Figures of each round's model and data.", _curves(rounds)),
            (
                "noise",
                "Noise ratio",
                "What the filter rejects of each source, and what is dropped in all.",
                data_sections.noise(page),
            ),
            ("words", "Variety", "Of the texts, from round to round.", _variety(page)),
        ]
    nav = [(anchor, title) for anchor, title, _, content in sections if content]
    body = "".join(section(*one) for one in sections if one[3])
    title = f"CapFilt over {len(rounds)} rounds" if len(rounds) > 1 else "CapFilt, one round"
    return _replace(root / "report.html", document(title, f"{root.name}: from round to round.", nav, body, ""))


def _replace(path: Path, page: str) -> Path:
    """Write the page whole or not at all; one that would stay the same is left untouched."""
    content = page.encode()
    if not path.is_file() or path.read_bytes() != content:
        with writing(path):
            write_whole(path, content)
    return path


def _alarms(page: Page) -> str:
    numbers = run_folder.rounds_with_pairs(page.root)
    found = [alarm for number in numbers for alarm in find_alarms(page.audits, page.root, number)]
    said = {alarm.name: alarm for alarm in reversed(found) if alarm.name in OF_ALL_ROUNDS}
    return data_sections.alarms_html(
        [alarm for alarm in found if said.get(alarm.name, alarm) is alarm], with_round=True
    )


def _links(page: Page) -> str:
    numbers = run_folder.round_numbers(page.root)
    made = [number for number in numbers if (run_folder.round_folder(page.root, number) / "report.html").exists()]
    links = "".join(f'<li><a href="{run_folder.round_name(n)}/report.html">page of round {n}</a></li>' for n in made)
    return f"<ul>{links}</ul>" if links else ""


def _curves(rounds: list[dict[str, Any]]) -> str:
    drawn = []
    for title, curves in CHARTS:
        series = {
            name: [(float(one["round"]), float(one[key])) for one in rounds if one.get(key) is not None]
            for name, key, _ in curves
        }
        drawn.append(charts.lines(title, series, [tone for _, _, tone in curves], "round", marked=True))
    return charts_html(drawn)


def _variety(page: Page) -> str:
    rows = page.audits("diversity").table.to_pylist()
    drawn = []
    for key, title in (("distinct_words", "different words"), ("words_per_text", "words a text"),
                       ("most_common_share", "share of the most common text")):  # fmt: skip
        series = {
            source: [(float(row["round"]), float(row[key])) for row in rows if row["source"] == source]
            for source in ("web", "synthetic")
        }
        drawn.append(charts.lines(title, series, ("web", "synthetic"), "round", marked=True))
    return charts_html(drawn)
