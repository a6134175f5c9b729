"""Shortfalls: how much of the input failed, and whether anything is left to go on with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from blip_bootstrap.schemas.closed_lists import ERROR_CLASSES, REASONS, STATUSES
from blip_bootstrap.storage import run_folder

Counts = Mapping[str, Any]

LISTS = (("images", "download", "URLs"), ("human", "human", "human-annotated pictures"),
         ("held_out", "held_out", "held-out pictures"))  # fmt: skip
"""What is made from a list, its section of the configuration, and what one of its rows is called."""

OF_ALL_ROUNDS = tuple(f"failed_{name}" for name, _, _ in LISTS)
"""Alarms about what all rounds have in common."""


def shortfalls(root: Path, number: int) -> Iterator[tuple[str, str]]:
    """Names and messages of the alarms of round `number` under `root` about rows that failed or were dropped,
    and whether the round was made from something that is another now.

    They come from the counts in the MANIFESTs and the limits (`max_failed_share`) in the run's config.yaml; no table
    is read.
    """
    made = {str(manifest.get("name")): manifest.get("counts", {}) for manifest in run_folder.manifests(root)}
    most = limits(root)
    if why := run_folder.out_of_date(root).get(number):
        yield "out_of_date", f"round {number} is out of date: {why}"
    for name, section, what in LISTS:
        counts = made.get(name, {})
        counted = any(counts.get(status) for status in STATUSES)
        if counted and (share := failed_share(counts)) >= most[section]:
            limit = f"the limit is {section}.max_failed_share {most[section]:g}"
            yield f"failed_{name}", f"{share:.1%} of the {what} cannot be used ({_told(counts)}); {limit}"
    captions = made.get(f"{run_folder.round_folder(root, number).name}/captions", {})
    texts = captions.get("web", 0) + captions.get("synthetic", 0)
    if texts and captions.get("not_scored", 0) / texts >= most["download"]:
        unscored = f"{captions['not_scored']:,} of {texts:,} texts have no score"
        yield "not_scored", f"{unscored}: their pictures cannot be read, or the captioner wrote nothing"
    if told := no_pairs(made.get(f"{run_folder.round_folder(root, number).name}/pairs", {})):
        yield "no_pairs", told


def failed_share(counts: Counts) -> float:
    """The share 0..1 of a list's rows that failed; blank, repeated and withdrawn rows do not count."""
    tried = _listed_rows(counts) - counts.get("rejected", 0) - counts.get("withdrawn", 0)
    return 1 - counts.get("success", 0) / tried if tried else 1.0


def all_failed(counts: Counts) -> bool:
    """Whether a step that fetches or reads pictures tried some and got none."""
    tried = counts.get("failed_to_download", 0) + counts.get("failed_to_resize", 0)
    return bool(tried) and not counts.get("success")


def no_pictures(counts: Counts) -> str | None:
    """A sentence that a download gave no picture; None where it gave one."""
    if counts.get("success"):
        return None
    return f"none of {_listed_rows(counts):,} URLs gave a picture ({_told(counts)})"


def no_pairs(counts: Counts) -> str | None:
    """A sentence that a selection kept no text; None where it kept one, or there was none to decide on."""
    if counts.get("kept") or not counts.get("rows"):
        return None
    reasons = {reason: counts.get(f"dropped_{reason}", 0) for reason in REASONS}
    return f"none of {counts['rows']:,} texts was kept ({_listed(reasons)})"


def _listed_rows(counts: Counts) -> int:
    """Rows of a list, without those of an earlier one that stay though they are in none any more."""
    return int(counts.get("rows", 0)) - int(counts.get("removed", 0))


def _told(counts: Counts) -> str:
    return _listed({name: counts.get(name, 0) for name in ERROR_CLASSES})


def _listed(numbers: Mapping[str, int]) -> str:
    """The numbers that are not 0 with their names, the largest first."""
    found = sorted(((number, name) for name, number in numbers.items() if number), key=lambda one: (-one[0], one[1]))
    return ", ".join(f"{name} {number:,}" for number, name in found) or "no reason is given"


def limits(root: Path) -> dict[str, float]:
    """`max_failed_share` of `download`, `human` and `held_out` in the run's config.yaml; 1 where it is not known."""
    try:
        settings = yaml.safe_load((root / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        settings = None
    sections = settings if isinstance(settings, dict) else {}
    found = {name: (sections.get(name) or {}).get("max_failed_share", 1.0) for _, name, _ in LISTS}
    return {name: float(limit) for name, limit in found.items()}
