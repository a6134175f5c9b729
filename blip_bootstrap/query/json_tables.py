"""The small tables that are made from the JSON files of a run: `rounds`, `metrics` and `runs`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from blip_bootstrap.query.verdicts import renewed
from blip_bootstrap.storage.manifest import flat
from blip_bootstrap.storage.parquet import rows_to_table
from blip_bootstrap.storage.run_folder import manifests, out_of_date, read_json, round_folder, round_numbers, round_of
from blip_bootstrap.storage.shown_tables import METRICS, ROUNDS, RUNS


def rounds_table(root: Path) -> pa.Table:
    """The table `rounds` of a run, from the metrics.json of each round."""
    old = out_of_date(root)
    rows = [metrics | {"out_of_date": old.get(metrics["round"])} for metrics in _metrics(root)]
    return rows_to_table([{c.name: metrics.get(c.name) for c in ROUNDS.columns} for metrics in rows], ROUNDS)


def metrics_table(root: Path) -> pa.Table:
    """The table `metrics` of a run: every figure of each metrics.json, nested names dotted."""
    rows = [
        {"round": metrics["round"], "name": name, "value": float(value)}
        for metrics in _metrics(root)
        for name, value in flat({k: v for k, v in metrics.items() if k != "round"}).items()
        if isinstance(value, int | float)
    ]
    return rows_to_table(rows, METRICS)


def runs_table(root: Path) -> pa.Table:
    """The table `runs` of a run, from its MANIFESTs."""
    return rows_to_table([_run(manifest) for manifest in manifests(root)], RUNS)


def read_figures(root: Path, number: int) -> dict[str, Any] | None:
    """The figures of a round's metrics.json with its number as `round`; None where it has none.

    Figures that an earlier version wrote have the names and meanings of today (`verdicts.renewed`). Raises InputError
    where the file is damaged.
    """
    folder = round_folder(root, number)
    found = read_json(folder / "metrics.json")
    return None if found is None else {**renewed(root, folder, found), "round": number}


def _metrics(root: Path) -> list[dict[str, Any]]:
    read = (read_figures(root, number) for number in round_numbers(root))
    return [metrics for metrics in read if metrics is not None]


def _run(manifest: Mapping[str, Any]) -> dict[str, Any]:
    files, recipe = manifest.get("files", []), manifest.get("recipe", {})
    same = {name: manifest.get(name) for name in ("name", "digest", "content", "made", "seconds", "version")}
    return same | {
        "round": round_of(str(manifest.get("name", ""))),
        "step": recipe.get("step"),
        "num_rows": sum(file.get("rows", 0) for file in files if "/" not in file["name"]),
        "size_bytes": sum(file.get("bytes", 0) for file in files),
        "counts": json.dumps(manifest.get("counts", {})),
        "settings": json.dumps(manifest.get("settings", {})),
        "inputs": json.dumps(recipe.get("inputs", {})),
    }
