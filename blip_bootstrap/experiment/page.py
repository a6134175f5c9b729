"""The page of an experiment: its arms, their differences with intervals, each seed a dot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

import pyarrow as pa

from blip_bootstrap import __version__
from blip_bootstrap.experiment.file import Experiment
from blip_bootstrap.experiment.record import Record
from blip_bootstrap.experiment.results import arms_table, differences, differences_table, values_of
from blip_bootstrap.experiment.run import Finished
from blip_bootstrap.experiment.statistics import spread_of
from blip_bootstrap.html.charts import Dots, dots, lines
from blip_bootstrap.html.elements import charts_html, document, section, table_html
from blip_bootstrap.storage.files import write_whole

TONES = ("web", "synthetic", "kept", "human", "dropped", "other")

Section = tuple[str, str, str, str]
"""Anchor, heading, a sentence about it, HTML."""


def write_page(root: Path, experiment: Experiment, finished: Finished) -> Path:
    """Write the page of an experiment beside its results; its path."""
    of_split = "" if experiment.split == "held_out" else f".{experiment.split}"
    path = root / f"{experiment.name}{of_split}.html"
    write_whole(path, page_html(experiment, finished))
    return path


def page_html(experiment: Experiment, finished: Finished) -> str:
    """The page of an experiment as one HTML document that needs no other file."""
    drawn = [one for one in _sections(experiment, finished) if one[3]]
    seeds = sorted({one["seed"] for one in finished.records})
    told = f"{len(seeds)} seeds" if len(seeds) > 1 else "one seed, so that nothing is said of chance"
    return document(
        f"Experiment {experiment.name}",
        experiment.question,
        [(anchor, heading) for anchor, heading, _, _ in drawn],
        "".join(section(*one) for one in drawn),
        f"Measured on {experiment.split}, {told}. blip-bootstrap {__version__}",
    )


def _sections(experiment: Experiment, finished: Finished) -> Iterator[Section]:
    records = finished.records
    yield "remarks", "Remarks", "", _remarks(experiment, finished)
    note = "Mean and standard deviation over the seeds; minutes are of all that the arm rests on, what it shares too."
    yield "arms", "Arms", note, _table(arms_table(experiment, records), "figures of each arm") + _says(experiment)
    note = "Seed by seed, with 95 % intervals of the mean by Student's t; dots are seeds. An interval that leaves the "
    note += "dashed line out is a difference beyond the seeds' spread."
    yield "differences", "Differences", note, _differences(experiment, records)
    note = "A dot is a seed, the bar their mean, the band one standard deviation to both sides."
    yield "figures", "Figures", note, charts_html(_dots(experiment, records))
    yield "curves", "Curves", "Means over the seeds.", charts_html(_curves(experiment, records))


def _remarks(experiment: Experiment, finished: Finished) -> str:
    """What the file says, what differs in budget, what failed, and where the rounds stop."""
    more = [name for name, arm in experiment.arms.items() if arm.more_steps]
    said = [*experiment.remarks]
    said += [f"Another budget than the others: {', '.join(more)}."] if more else []
    said += [f"The rule of rounds {finished.stopped.told}."] if finished.stopped else []
    there = {one["arm"] for one in finished.records}
    missing = [name for name in experiment.arms if name not in there]
    said += [f"Not run here: {', '.join(missing)}."] if missing else []
    said += [f"Seed {one.seed}, arm {one.arm} failed: {one.text}" for one in finished.failed]
    return f"<ul>{''.join(f'<li>{escape(one)}</li>' for one in said)}</ul>" if said else ""


def _says(experiment: Experiment) -> str:
    rows = [{"arm": name, "what it is": arm.says} for name, arm in experiment.arms.items() if arm.says]
    return table_html(rows, "what each arm is")


def _table(table: pa.Table, label: str) -> str:
    return table_html(table.to_pylist(), label)


def _differences(experiment: Experiment, records: Sequence[Record]) -> str:
    found = list(differences(experiment, records))
    if not found:
        return ""
    charts = []
    for metric in experiment.metrics:
        rows = []
        for one in (one for one in found if one.metric == metric):
            mine, theirs = values_of(records, one.arm, metric), values_of(records, one.rival, metric)
            both = [mine[seed] - theirs[seed] for seed in sorted(mine.keys() & theirs.keys())]
            tone = "other" if not one.spread.is_beyond_zero else "kept" if one.spread.mean > 0 else "dropped"
            rows.append(Dots(f"{one.arm} - {one.rival}", both, one.spread.mean, one.spread.low, one.spread.high, tone))
        charts.append(dots(metric, rows, with_zero=True))
    return charts_html(charts) + _table(differences_table(found), "paired differences")


def _dots(experiment: Experiment, records: Sequence[Record]) -> Iterator[str]:
    for metric in experiment.metrics:
        rows = []
        for name in experiment.arms:
            if values := list(values_of(records, name, metric).values()):
                spread = spread_of(values)
                off = spread.deviation
                low, high = (None, None) if off is None else (spread.mean - off, spread.mean + off)
                rows.append(Dots(name, values, spread.mean, low, high, "web"))
        yield dots(metric, rows)


def _curves(experiment: Experiment, records: Sequence[Record]) -> Iterator[str]:
    if not (curve := experiment.curve):
        return
    for metric in experiment.metrics:
        series = {name: _line(line, records, metric) for name, line in curve.lines.items()}
        yield lines(metric, series, TONES, curve.x, marked=True)


def _line(line: Mapping[float, str], records: Sequence[Record], metric: str) -> list[tuple[float, float]]:
    found = ((x, list(values_of(records, arm, metric).values())) for x, arm in sorted(line.items()))
    return [(float(x), spread_of(values).mean) for x, values in found if values]
