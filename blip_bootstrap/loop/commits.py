"""A run's record of the commits of its hub models: all rounds load the same, whatever their names come to mean."""

from __future__ import annotations

import json
from pathlib import Path

from blip_bootstrap.storage.files import write_whole
from blip_training.runtime.commits import pin, pinned

COMMITS = "hub_commits.json"
"""Its file under the root: names to commits. Without it the next run takes what the hub has by then."""


def recall_commits(root: Path) -> None:
    """Load hub models as this run did before, if it did."""
    try:
        found = json.loads((root / COMMITS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    pin({str(name): str(commit) for name, commit in found.items()} if isinstance(found, dict) else {})


def note_commits(root: Path) -> None:
    """Remember which commits this process loads; those that are noted already stay."""
    opened = pinned()
    recall_commits(root)
    if known := pinned():
        text = json.dumps(known, indent=2, sort_keys=True) + "\n"
        if opened != known or not (root / COMMITS).is_file() or (root / COMMITS).read_text(encoding="utf-8") != text:
            write_whole(root / COMMITS, text)
