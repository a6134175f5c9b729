"""What an experiment found, as tables: results.parquet, a list as JSON, means and differences for people."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import pyarrow as pa

from blip_bootstrap.errors import InputError, writing
from blip_bootstrap.experiment.file import Experiment
from blip_bootstrap.experiment.plan import Job
from blip_bootstrap.experiment.record import Record, all_records, key_of
from blip_bootstrap.experiment.statistics import Spread, spread_of
from blip_bootstrap.schemas.shown_tables import RESULTS, RESULTS_FILE
from blip_bootstrap.storage.files import check_writable, write_whole
from blip_bootstrap.storage.parquet import rows_to_table, write_parquet


def write_results(root: Path, job: Job | None = None) -> Path:
    """Write `root`/results.parquet anew, of all records of all experiments under it; its path.

    Of the experiment of `job` those that its settings made alone: what an arm had before they were changed, and arms
    that it has no more, are no part of its answer.
    """
    records = [one for one in all_records(root) if job is None or _is_of_today(job, one)]
    rows = [
        {"experiment": one["experiment"], "arm": one["arm"], "seed": one["seed"], "round": one["round"],
         "split": one["split"], "metric": metric, "value": value, "steps": one["steps"], "pictures": one["pictures"],
         "seconds": one["seconds"], "model": one["model"]}
        for one in records for metric, value in one["figures"].items()
    ]  # fmt: skip
    path = root / RESULTS_FILE
    write_parquet(path, rows_to_table(rows, RESULTS), RESULTS)
    return path


def _is_of_today(job: Job, record: Record) -> bool:
    """Whether a record is another experiment's, or was made by the settings of this one."""
    name = record["arm"]
    if record["experiment"] != job.experiment.name:
        return True
    return name in job.experiment.arms and record["key"] == key_of(job, name, record["split"])


def write_list(path: Path, experiment: Experiment, records: Sequence[Record]) -> None:
    """Write the experiment's own figures as JSON: a list of `arm`, `seed`, `metric`, `value`."""
    rows = [
        json.dumps({"arm": one["arm"], "seed": one["seed"], "metric": metric, "value": one["figures"][metric]})
        for one in records for metric in experiment.metrics if metric in one["figures"]
    ]  # fmt: skip
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, "[\n " + ",\n ".join(rows) + "\n]\n" if rows else "[]\n")


def check_place(path: Path) -> None:
    """Make the folder of a list that is to be written. Raises InputError where it cannot be, hours before it is."""
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name the file")
    check_writable(path)


def unknown_figures(experiment: Experiment, records: Sequence[Record]) -> list[str]:
    """A line for each metric of the experiment that no record has, with what may have been meant."""
    known = {name for one in records for name in one["figures"]}
    asked = [*experiment.metrics, *([experiment.stop.metric] if experiment.stop else [])]
    close = {one: get_close_matches(one, known, 1, 0.75) for one in dict.fromkeys(asked) if one not in known}
    where = f"results.parquet has all {len(known)}"
    return [f"no arm has a figure {one}; {f'did you mean {a[0]}?' if a else where}" for one, a in close.items()]


@dataclass(frozen=True)
class Difference:
    """How much more of a figure one arm has than another, seed by seed."""

    arm: str
    rival: str
    metric: str
    spread: Spread


def values_of(records: Sequence[Record], arm: str, metric: str) -> dict[int, float]:
    """A figure of an arm by seed."""
    return {r["seed"]: r["figures"][metric] for r in records if r["arm"] == arm and metric in r["figures"]}


def differences(experiment: Experiment, records: Sequence[Record]) -> Iterator[Difference]:
    """The paired differences that the experiment asks for, over the seeds that both arms have."""
    for arm, rival in experiment.compare:
        for metric in experiment.metrics:
            mine, theirs = values_of(records, arm, metric), values_of(records, rival, metric)
            if both := [mine[seed] - theirs[seed] for seed in sorted(mine.keys() & theirs.keys())]:
                yield Difference(arm, rival, metric, spread_of(both))


def arms_table(experiment: Experiment, records: Sequence[Record]) -> pa.Table:
    """An arm a row: its figures as mean ± standard deviation, how many seeds, steps and minutes."""
    rows = []
    for name in experiment.arms:
        mine = [one for one in records if one["arm"] == name]
        if not mine:
            continue
        row = {"arm": name, "seeds": str(len(mine)), "steps": told_set({one["steps"] for one in mine}),
               "minutes": told(spread_of([one["seconds"] / 60 for one in mine]), 1)}  # fmt: skip
        for metric in experiment.metrics:
            values = list(values_of(records, name, metric).values())
            some = f" ({len(values)} of them)" if 0 < len(values) < len(mine) else ""
            row[metric] = told(spread_of(values)) + some if values else ""
        rows.append(row)
    return pa.Table.from_pylist(rows)


def differences_table(found: Sequence[Difference]) -> pa.Table:
    """A difference a row: mean, 95 % interval, and whether that leaves zero out."""
    rows = [
        {"arm": one.arm, "minus": one.rival, "metric": one.metric, "difference": f"{one.spread.mean:+.3f}",
         "95 % interval": told_interval(one.spread), "beyond zero": told_beyond(one.spread),
         "seeds": str(one.spread.num)}
        for one in found
    ]  # fmt: skip
    return pa.Table.from_pylist(rows)


def told(spread: Spread, digits: int = 3) -> str:
    """A mean with its deviation, where there is one."""
    more = "" if spread.deviation is None else f" ± {spread.deviation:.{digits}f}"
    return f"{spread.mean:.{digits}f}{more}"


def told_interval(spread: Spread) -> str:
    """An interval; why there is none where there is one seed."""
    return "one seed, none" if spread.low is None else f"{spread.low:+.3f} to {spread.high:+.3f}"


def told_beyond(spread: Spread) -> str:
    """Whether an interval leaves zero out; of two seeds it says next to nothing."""
    if spread.num < 2:
        return ""
    return ("yes" if spread.is_beyond_zero else "no") + (" (two seeds)" if spread.num < 3 else "")


def told_set(values: set[int]) -> str:
    """One number, or the span of several."""
    return str(min(values)) if len(values) == 1 else f"{min(values)} to {max(values)}"
