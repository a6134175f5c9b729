"""The small tables about a run that are made from its JSON: `rounds`, `metrics` and `runs`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from blip_bootstrap.errors import InputError
from blip_bootstrap.tables import MANIFEST, Column, Table, rows_to_table
from blip_bootstrap.verdicts import renewed

ROUND = Column("round", pa.int16(), "number of the round, from its folder's name")

_SHARES = tuple(
    Column(f"{name}_{source}{end}", pa.float64(), f"{which}{meaning.format(source)}, 0..1")
    for name, meaning in (
        ("noise_ratio", "the share of the scored {} texts that the filter rejects"),
        ("dropped_share", "the share of all {} texts that were not kept, for whatever reason"),
    )
    for source in ("web", "synthetic")
    for end, which in (("", ""), ("_low", "lower end of the 95 % interval of "), ("_high", "upper end of that of "))
)

ROUNDS = Table(
    "rounds",
    "one row per round that has a metrics.json: its main figures, null where a round has none",
    (
        ROUND,
        Column("urls", pa.int64(), "rows of the URL lists"),
        Column("downloaded", pa.int64(), "rows with a picture"),
        Column("web_captions", pa.int64(), "web texts of downloaded pictures"),
        Column("synthetic_captions", pa.int64(), "texts that the captioner wrote"),
        Column("web_kept", pa.int64(), "web texts that became pairs"),
        Column("synthetic_kept", pa.int64(), "synthetic texts that became pairs"),
        *_SHARES,
        Column("caption_truth", pa.float64(), "true texts of the kept ones whose truth is known, 0..1"),
        Column("cider", pa.float64(), "CIDEr of the round's model on the held-out set"),
        Column("bleu4", pa.float64(), "BLEU-4 of the round's model on the held-out set, 0..1"),
        Column("tr1", pa.float64(), "image-to-text R@1 on the held-out set, 0..1"),
        Column("ir1", pa.float64(), "text-to-image R@1 on the held-out set, 0..1"),
        Column("itm_auc", pa.float64(), "area under the ROC curve of the ITM score on the held-out set, 0..1"),
        Column("human_only_cider", pa.float64(), "CIDEr of the control trained on the human set alone"),
        Column("human_only_tr1", pa.float64(), "image-to-text R@1 of that control, 0..1"),
        Column("filter_auc_web", pa.float64(), "area under the ROC curve of the ITM score against the truth, 0..1"),
    ),
)

METRICS = Table(
    "metrics",
    "one row per figure of a round's metrics.json",
    (
        ROUND,
        Column("name", pa.string(), "the figure, nested ones dotted: `cider`, `seconds.captions`"),
        Column("value", pa.float64(), "shares are 0..1, times are seconds"),
    ),
)

RUNS = Table(
    "runs",
    "one row per thing that a step has made: its MANIFEST",
    (
        Column("round", pa.int16(), "number of the round; null for images, human and held_out"),
        Column("name", pa.string(), "what was made: `images`, `round-01/captions`"),
        Column("step", pa.string(), "the function that made it"),
        Column("digest", pa.string(), "sha256 of the step's name, settings and inputs"),
        Column("content", pa.string(), "sha256 of what was made"),
        Column("made", pa.string(), "when: UTC, ISO 8601"),
        Column("seconds", pa.float64(), "how long it took, in its last run"),
        Column("version", pa.string(), "of blip-bootstrap"),
        Column("num_rows", pa.int64(), "rows of its Parquet files"),
        Column("size_bytes", pa.int64(), "of all its files"),
        Column("counts", pa.string(), "JSON: what the step counted"),
        Column("settings", pa.string(), "JSON: its section of the configuration, resolved"),
        Column("inputs", pa.string(), "JSON: the digest of each input"),
    ),
)


def check_run(root: Path) -> None:
    """Raise InputError where `root` is no folder."""
    if not root.is_dir():
        raise InputError(f"{root}: no such run; give --root, or make it with `blip-bootstrap run` or `demo`")


def round_numbers(root: Path) -> list[int]:
    """The numbers of the rounds that have a folder under `root`, ascending.

    A folder that is called otherwise than a run would call it (`round-1`, `round-001`, `round-01 copy`) is none: the
    rows of a round would count once for each.
    """
    found = (re.fullmatch(r"round-(\d+)", path.name, re.ASCII) for path in root.glob("round-*") if path.is_dir())
    return sorted(int(match[1]) for match in found if match and match[0] == round_folder(root, int(match[1])).name)


def rounds_with_pairs(root: Path) -> list[int]:
    """The numbers of the rounds that have pairs, which is what the audits ask about, ascending."""
    return [number for number in round_numbers(root) if (round_folder(root, number) / "pairs").is_dir()]


def round_folder(root: Path, number: int) -> Path:
    """Where round `number` lies."""
    return root / f"round-{number:02d}"


def read_json(path: Path) -> Any:
    """A JSON object; None where the file is missing. Raises InputError, naming the file, where it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it holds no object")
        return found
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable JSON ({error}); delete it and run again") from error


def manifests(root: Path) -> list[dict[str, Any]]:
    """Every MANIFEST under `root` that lies where the thing is that it names, in the order in which they were made.

    Staged ones, and those in copies of a folder, do not.
    """
    places = [path for pattern in ("*", "round-*/*") for path in root.glob(f"{pattern}/{MANIFEST}")]
    of_files = [*root.glob(f"round-*/.*.{MANIFEST}")]
    names = {path: path.parent.relative_to(root).as_posix() for path in places}
    names |= {path: f"{path.parent.name}/{path.name[1:].removesuffix(f'.{MANIFEST}')}" for path in of_files}
    found = ((name, read_json(path) or {}) for path, name in names.items())
    own = [manifest for name, manifest in found if manifest.get("name") == name]
    return sorted(own, key=lambda manifest: str(manifest.get("made", "")))


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a nested mapping with dotted names."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        elif isinstance(value, int | float):
            yield f"{prefix}{name}", float(value)


def rounds_table(root: Path) -> pa.Table:
    """`ROUNDS` of a run."""
    return rows_to_table([{c.name: metrics.get(c.name) for c in ROUNDS.columns} for metrics in _metrics(root)], ROUNDS)


def metrics_table(root: Path) -> pa.Table:
    """`METRICS` of a run."""
    rows = [
        {"round": metrics["round"], "name": name, "value": value}
        for metrics in _metrics(root)
        for name, value in flat({k: v for k, v in metrics.items() if k != "round"})
    ]
    return rows_to_table(rows, METRICS)


def runs_table(root: Path) -> pa.Table:
    """`RUNS` of a run."""
    return rows_to_table([_run(manifest) for manifest in manifests(root)], RUNS)


def read_figures(root: Path, number: int) -> dict[str, Any] | None:
    """The figures of a round's metrics.json with its number as `round`; None where it has none.

    Those of an earlier version are told as today's. Raises InputError where the file is damaged.
    """
    folder = round_folder(root, number)
    found = read_json(folder / "metrics.json")
    return None if found is None else {**renewed(root, folder, found), "round": number}


def _metrics(root: Path) -> list[dict[str, Any]]:
    read = (read_figures(root, number) for number in round_numbers(root))
    return [metrics for metrics in read if metrics is not None]


def _run(manifest: Mapping[str, Any]) -> dict[str, Any]:
    files, recipe = manifest.get("files", []), manifest.get("recipe", {})
    match = re.match(r"round-(\d+)/", str(manifest.get("name", "")))
    same = {name: manifest.get(name) for name in ("name", "digest", "content", "made", "seconds", "version")}
    return same | {
        "round": int(match[1]) if match else None,
        "step": recipe.get("step"),
        "num_rows": sum(file.get("rows", 0) for file in files),
        "size_bytes": sum(file.get("bytes", 0) for file in files),
        "counts": json.dumps(manifest.get("counts", {})),
        "settings": json.dumps(manifest.get("settings", {})),
        "inputs": json.dumps(recipe.get("inputs", {})),
    }
