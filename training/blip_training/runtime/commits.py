"""The commit of each hub model that this process and all its workers load: a model may change under its name.

Held in the environment, which child processes inherit; Ray's workers are told by `cluster/sees_root.py`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

VARIABLE = "BLIP_BOOTSTRAP_HUB_COMMITS"


def pinned() -> dict[str, str]:
    """The commits by the models' names."""
    found: dict[str, str] = json.loads(os.environ.get(VARIABLE) or "{}")
    return found


def pin(commits: Mapping[str, str]) -> None:
    """From here on these models are loaded as they were at these commits."""
    if commits:
        os.environ[VARIABLE] = json.dumps(pinned() | dict(commits), sort_keys=True)
