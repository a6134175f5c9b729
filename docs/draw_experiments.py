"""Writes the tables and pictures of the experiments' page from the lists under notebooks/results.

    .venv/bin/python docs/draw_experiments.py

What stands between `<!-- results: NAME METRIC ... -->` and `<!-- end -->` in the page is written anew: the arms' means
with their standard deviations, the paired differences with 95 % intervals, and docs/images/experiments/NAME.svg.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt

from blip_bootstrap.errors import InputError
from blip_bootstrap.experiment.file import Experiment, read_experiment
from blip_bootstrap.experiment.results import told, told_interval
from blip_bootstrap.experiment.statistics import spread_of

DOCS = Path(__file__).parent

PAGE = DOCS / "benchmarks" / "experiments_two-cores_202611.md"

RESULTS, IMAGES = DOCS.parent / "notebooks" / "results", DOCS / "images" / "experiments"

BLOCK = re.compile(r"(<!-- results: (?P<name>\S+) (?P<metrics>[^>]*?)-->\n).*?(<!-- end -->)", re.DOTALL)

Values = dict[str, dict[str, dict[int, float]]]
"""A figure by arm, metric and seed."""


def main() -> int:
    """Write the page and its pictures; the exit code."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    mpl.rcParams["svg.fonttype"] = "none"  # letters as letters: a third of the bytes
    mpl.rcParams["svg.hashsalt"] = "blip-bootstrap"  # the same picture for the same figures
    text = BLOCK.sub(_block, PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(text, encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
    return 0


def _block(found: re.Match[str]) -> str:
    """The tables and the picture of one experiment."""
    name, metrics = found["name"], found["metrics"].split()
    values = read_values(RESULTS / f"{name}.json")
    experiment = _shipped(name)
    draw(name, experiment, values, metrics[:3])
    tables = [arms_table(values, metrics), differences_table(experiment, values, metrics[:3])]
    means = "a line through the means" if experiment and experiment.curve else "a bar at the mean"
    picture = f"![{name}: a dot for each seed, {means}](../images/experiments/{name}.svg)"
    parts = "\n\n".join(part for part in (*tables, picture) if part)
    return f"{found[1]}\n{parts}\n\n{found[4]}"


def read_values(path: Path) -> Values:
    """The figures of a results file by arm, metric and seed."""
    values: Values = {}
    for row in json.loads(path.read_text(encoding="utf-8")):
        values.setdefault(row["arm"], {}).setdefault(row["metric"], {})[row["seed"]] = row["value"]
    return values


def arms_table(values: Values, metrics: Sequence[str]) -> str:
    """An arm a row: mean and standard deviation of each metric."""
    rows = []
    for arm, figures in values.items():
        seeds = {seed for of_metric in figures.values() for seed in of_metric}
        cells = [told(spread_of(list(figures[metric].values()))) if metric in figures else "" for metric in metrics]
        rows.append([f"`{arm}`", str(len(seeds)), *cells])
    return _table(["arm", "seeds", *(f"`{metric}`" for metric in metrics)], rows)


def differences_table(experiment: Experiment | None, values: Values, metrics: Sequence[str]) -> str:
    """The pairs of arms that the experiment compares: mean of the difference, its interval; bold where beyond zero."""
    rows = []
    for arm, rival in experiment.compare if experiment else ():
        cells = [_difference(values, arm, rival, metric) for metric in metrics]
        if any(cells):
            rows.append([f"`{arm}` - `{rival}`", *cells])
    return _table(["difference", *(f"`{metric}`" for metric in metrics)], rows) if rows else ""


def _difference(values: Values, arm: str, rival: str, metric: str) -> str:
    mine, theirs = (values.get(one, {}).get(metric, {}) for one in (arm, rival))
    if not (both := [mine[seed] - theirs[seed] for seed in sorted(mine.keys() & theirs.keys())]):
        return ""
    spread = spread_of(both)
    if spread.low is None:
        return f"{spread.mean:+.3f}"
    said = f"{spread.mean:+.3f} ({told_interval(spread)})"
    return f"**{said}**" if spread.is_beyond_zero else said


def draw(name: str, experiment: Experiment | None, values: Values, metrics: Sequence[str]) -> None:
    """A curve over the arms' numbers where the experiment has one; else a row of dots for each arm."""
    shown = [metric for metric in metrics if any(metric in figures for figures in values.values())]
    curve = experiment.curve if experiment else None
    height = 3.0 if curve else 0.32 * len(values) + 1.1
    figure, places = plt.subplots(1, len(shown), figsize=(3.6 * len(shown), height), sharey=not curve, squeeze=False)
    for place, metric in zip(places[0], shown, strict=True):
        if curve:
            _draw_curves(place, curve.lines, values, metric)
            place.set_xlabel(curve.x)
        else:
            _draw_dots(place, values, metric)
        place.set_title(metric)
        place.grid(alpha=0.3)
    if curve:
        places[0][-1].legend(fontsize="small")
    else:
        places[0][0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(IMAGES / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)


def _draw_dots(place: Any, values: Values, metric: str) -> None:
    for at, figures in enumerate(values.values()):
        if found := list(figures.get(metric, {}).values()):
            place.plot(found, [at] * len(found), "o", alpha=0.5, color="tab:blue", markersize=4)
            place.plot([spread_of(found).mean] * 2, [at - 0.3, at + 0.3], color="black")
    place.set_yticks(range(len(values)), list(values))


def _draw_curves(place: Any, curves: Any, values: Values, metric: str) -> None:
    for label, line in curves.items():
        found = ((x, [*values.get(arm, {}).get(metric, {}).values()]) for x, arm in sorted(line.items()))
        points = [(x, figures) for x, figures in found if figures]
        (drawn,) = place.plot([x for x, _ in points], [spread_of(one).mean for _, one in points], "-", label=label)
        dots = [(x, figure) for x, figures in points for figure in figures]
        place.plot(*zip(*dots, strict=True), "o", alpha=0.5, color=drawn.get_color(), markersize=4)


def _shipped(name: str) -> Experiment | None:
    try:
        return read_experiment(name)
    except InputError:
        return None


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
