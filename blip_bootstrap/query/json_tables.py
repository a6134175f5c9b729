"""The small tables that are made from the JSON files of a run: `rounds`, `metrics` and `runs`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from blip_bootstrap.query.verdicts import renewed
from blip_bootstrap.storage.many_files import columns_of
from blip_bootstrap.storage.run_folder import flat, manifests, out_of_date, read_json, round_folder, round_of


def read_all_figures(root: Path, numbers: Sequence[int]) -> list[dict[str, Any]]:
    """The figures of these rounds, as far as they have any."""
    return [figures for number in numbers if (figures := read_figures(root, number)) is not None]


def rounds_rows(root: Path, figures: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the table `rounds`: the figures of each round, and whether it is out of date."""
    old = out_of_date(root) if figures else {}
    return [{**of_round, "out_of_date": old.get(of_round["round"])} for of_round in figures]


def metrics_rows(figures: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the table `metrics`: every figure of each round, nested names dotted."""
    return [
        {"round": of_round["round"], "name": name, "value": float(value)}
        for of_round in figures
        for name, value in flat({k: v for k, v in of_round.items() if k != "round"}).items()
        if isinstance(value, int | float)
    ]


def runs_rows(root: Path) -> list[dict[str, Any]]:
    """The rows of the table `runs`, from the MANIFESTs of a run."""
    return [_run(manifest) for manifest in manifests(root)]


def read_figures(root: Path, number: int) -> dict[str, Any] | None:
    """The figures of a round's metrics.json with its number as `round`; None where it has none.

    Figures that an earlier version wrote have the names and meanings of today (`verdicts.renewed`). Raises InputError
    where the file is damaged.
    """
    folder = round_folder(root, number)
    found = read_json(folder / "metrics.json")
    return None if found is None else {**renewed(root, folder, found), "round": number}


def _run(manifest: Mapping[str, Any]) -> dict[str, Any]:
    files, recipe = [*columns_of(manifest.get("files", []), "name", "rows", "bytes")], manifest.get("recipe", {})
    same = {name: manifest.get(name) for name in ("name", "digest", "content", "made", "seconds", "version")}
    return same | {
        "round": round_of(str(manifest.get("name", ""))),
        "step": recipe.get("step"),
        "num_rows": sum(rows or 0 for name, rows, _ in files if "/" not in name),
        "size_bytes": sum(size or 0 for _, _, size in files),
        "counts": json.dumps(manifest.get("counts", {})),
        "settings": json.dumps(manifest.get("settings", {})),
        "inputs": json.dumps(recipe.get("inputs", {})),
    }
