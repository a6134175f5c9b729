"""The page over all rounds of a run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from blip_bootstrap.audit.alarms import ALARM_AUDITS, find_alarms
from blip_bootstrap.audit.open_run import OpenRun
from blip_bootstrap.audit.shortfalls import OF_ALL_ROUNDS
from blip_bootstrap.config import ReportConfig
from blip_bootstrap.errors import InputError
from blip_bootstrap.html import charts
from blip_bootstrap.html.elements import charts_html, document, note_html, section, table_html
from blip_bootstrap.progress import Say, quiet
from blip_bootstrap.report import data_sections
from blip_bootstrap.report.page_data import PageData
from blip_bootstrap.report.report_file import Content, ReportFile, write_if_changed
from blip_bootstrap.report.round_page import what_a_page_reads
from blip_bootstrap.storage import run_folder

CHARTS: tuple[tuple[str, tuple[tuple[str, str, str], ...]], ...] = (
    ("noise ratio", (("web", "noise_ratio_web", "web"), ("synthetic", "noise_ratio_synthetic", "synthetic"))),
    ("dropped share", (("web", "dropped_share_web", "web"), ("synthetic", "dropped_share_synthetic", "synthetic"))),
    ("true of the kept texts", (("all", "caption_truth", "kept"), ("synthetic", "kept_truth_synthetic", "synthetic"))),
    ("CIDEr, held-out", (("this run", "cider", "web"), ("human set only", "human_only_cider", "human"))),
    ("TR@1, held-out", (("this run", "tr1", "web"), ("human set only", "human_only_tr1", "human"))),
    ("ITM AUC", (("held-out", "itm_auc", "web"), ("web texts, by the truth file", "filter_auc_web", "synthetic"))),
)
"""Title, and for each curve its name, the figure and its tone."""


def write_overview(root: Path, run: OpenRun | None = None, say: Say = quiet, always: bool = False) -> Path:
    """Write `root`/report.html about every round that has figures, if it may have changed; its path.

    `run` is the run under `root` where a page was just made of it. `say` gets the lines of progress; `always` draws
    the page in any case. Raises InputError where no round has a metrics.json, or the page cannot be written.
    """
    numbers = run_folder.round_numbers(root)
    pages = ", ".join(map(str, _rounds_with_page(root)))
    reads = what_a_page_reads(root, numbers) | {"pages": pages}

    def content() -> Content:
        page = overview_html(root, run)
        return page, {"size_bytes": len(page.encode())}

    return write_if_changed(ReportFile(root, "report.html", "write_overview", reads), content, say, always)


def overview_html(root: Path, run: OpenRun | None = None) -> str:
    """The page over all rounds of the run under `root` as one HTML document; `run` is that run, where it is open.

    Raises InputError where no round has figures.
    """
    with nullcontext(run) if run else OpenRun(root) as opened:
        numbers = run_folder.round_numbers(root)
        connection, audits = opened.over(numbers, (*ALARM_AUDITS, *data_sections.NOISE))
        rounds = data_sections.read_rounds(connection, root, max(numbers, default=0))
        if not rounds:
            raise InputError(f"{root}: no round has figures yet; run one first")
        page = PageData(root, rounds[-1]["round"], ReportConfig(), connection, audits, rounds, {})
        drawn = [(anchor, title, note, draw(page)) for anchor, title, note, draw in SECTIONS]
    drawn = [one for one in drawn if one[3]]
    title = f"CapFilt over {len(rounds)} rounds" if len(rounds) > 1 else "CapFilt, one round"
    return document(
        title,
        f"How data and models changed from round to round. Run: {root.name}",
        [(anchor, heading) for anchor, heading, _, _ in drawn],
        "".join(section(*one) for one in drawn),
        "",
    )


def _alarms(page: PageData) -> str:
    numbers = run_folder.rounds_with_pairs(page.root)
    found = [alarm for number in numbers for alarm in find_alarms(page.audits, page.root, number)]
    said = {alarm.name: alarm for alarm in reversed(found) if alarm.name in OF_ALL_ROUNDS}
    return data_sections.alarms_html(
        [alarm for alarm in found if said.get(alarm.name, alarm) is alarm], with_round=True
    )


def _rounds(page: PageData) -> str:
    """Links to the rounds' own pages, and the main figures of each round."""
    old = run_folder.out_of_date(page.root)
    links = "".join(
        f'<li><a href="{run_folder.round_name(number)}/report.html">page of round {number}</a>'
        f"{' (out of date)' if number in old else ''}</li>"
        for number in _rounds_with_page(page.root)
    )
    return (f"<ul>{links}</ul>" if links else "") + data_sections.over_rounds(page)


def _rounds_with_page(root: Path) -> list[int]:
    numbers = run_folder.round_numbers(root)
    return [number for number in numbers if (run_folder.round_folder(root, number) / "report.html").exists()]


def _curves(page: PageData) -> str:
    drawn = []
    for title, curves in CHARTS:
        series = {
            name: [(float(one["round"]), float(one[key])) for one in page.rounds if one.get(key) is not None]
            for name, key, _ in curves
        }
        drawn.append(charts.lines(title, series, [tone for _, _, tone in curves], "round", marked=True))
    return charts_html(drawn)


def _variety(page: PageData) -> str:
    rows = page.audits("diversity").table.to_pylist()
    drawn = []
    for key, title in (("distinct_words", "different words"), ("words_per_text", "words per text"),
                       ("most_common_share", "share of the most common text")):  # fmt: skip
        series = {
            source: [(float(row["round"]), float(row[key])) for row in rows if row["source"] == source]
            for source in ("web", "synthetic")
        }
        drawn.append(charts.lines(title, series, ("web", "synthetic"), "round", marked=True))
    return charts_html(drawn)


def _collapse(page: PageData) -> str:
    """What the texts of a loop lose from round to round."""
    answer = page.audits("collapse")
    rows = answer.table.to_pylist()
    if len({row["round"] for row in rows if row["of_texts"] == "synthetic"}) < 2:
        return ""
    drawn = []
    for key, title in (
        ("distinct_words", "different words"),
        ("content_words", "content words"),
        ("variance", "variance of the texts"),
        ("common_share", "share of the ten commonest texts"),
    ):
        series = {
            of: [(float(row["round"]), float(row[key])) for row in rows if row["of_texts"] == of]
            for of in ("kept", "synthetic")
        }
        drawn.append(charts.lines(title, series, ("kept", "synthetic"), "round", marked=True))
    shown = [{name: value for name, value in row.items() if name != "most_common"} for row in rows]
    return charts_html(drawn) + table_html(shown, answer.title) + note_html(answer.meaning)


SECTIONS: tuple[tuple[str, str, str, Callable[[PageData], str]], ...] = (
    ("alarms", "Alarms", "Signs that something went wrong, or that the loop makes itself worse.", _alarms),
    ("rounds", "Round by round", "The main figures; each round also has a page of its own.", _rounds),
    ("curves", "Over the rounds", "How data and model change from round to round.", _curves),
    (
        "noise",
        "Noise ratio",
        "How much of each source the filter rejects, and how much is dropped in all.",
        data_sections.noise,
    ),
    ("words", "Variety", "How varied the texts are, from round to round.", _variety),
    ("collapse", "Collapse", "What a loop that learns from its own texts may lose.", _collapse),
)
"""Anchor, heading, a sentence about it, and the function that draws it."""
