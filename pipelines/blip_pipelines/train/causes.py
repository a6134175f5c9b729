"""Why an attempt of a training by several workers failed, in a line: the first cause, not what it did to the others.

Imported only where Ray is used.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError

from blip_bootstrap.stores.store import fetched, is_there
from blip_pipelines.failures.errors import Raised, first_line

RAISED, STALLED = "raised.pickle", "stalled.pickle"
"""What workers leave in an attempt's folder: an error, or who stood still."""


def machines() -> dict[str, str]:
    """The addresses of the machines that are alive, by the names that Ray gives them."""
    return {str(node["NodeID"]): str(node["NodeManagerAddress"]) for node in ray.nodes() if node["Alive"]}


def cause_of(error: Exception, scratch: Path, before: Mapping[str, str]) -> str:
    """Who stood still, which machine or rank is gone, what a worker raised, or what Ray says.

    `before` are the machines that were alive when the attempt began. A worker whose neighbour has died raises that
    its connection is closed: what is raised counts last.
    """
    if (line := read_left(scratch / STALLED)) is not None:
        return str(line)
    alive = machines()
    if lost := sorted(address for node, address in before.items() if node not in alive):
        return f"lost machine{'s' if len(lost) > 1 else ''} {', '.join(lost)}"
    failures = getattr(error, "worker_failures", {})
    if dead := [f"rank {rank} {told}" for rank, failure in sorted(failures.items()) if (told := _died(failure))]:
        return ", ".join(dead)
    if isinstance(raised := read_left(scratch / RAISED), Raised):
        return f"{raised.name}: {raised.message}"
    return first_line(getattr(error, "controller_failure", error))  # what the error says first is "controller error"


def _died(failure: Exception) -> str:
    """How a worker's process died, and where; empty where it lives, or has raised an error itself."""
    said = str(failure)
    died: Any = getattr(failure, "health_check_failure", failure)
    if not isinstance(died, RayActorError | OutOfMemoryError):
        return ""
    found = re.search(r"^\s*ip: (\S+)", said, re.M)
    where = f" on {found[1]}" if found else ""
    if isinstance(died, OutOfMemoryError) or "memory on the node" in said:
        return f"was ended{where} for want of memory"
    return f"died{where}: its process crashed or was killed"


def read_left(file: Path) -> Any:
    """What a worker has written; None where it has not."""
    return pickle.loads(fetched(file).read_bytes()) if is_there(file) else None
