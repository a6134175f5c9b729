"""Whether a node of the cluster can work on a run: it sees the run's folder, or can reach the run's store.

A worker of a run on a store has a working copy of its own, in the same place as the driver's. It is made equal to the
store when the worker is first needed in a step, and not again before the next step.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from blip_bootstrap.config import RayConfig
from blip_bootstrap.errors import RunFailed
from blip_bootstrap.storage.remote import LOCK, compare, working_copies, working_in
from blip_bootstrap.stores.client import Store
from blip_bootstrap.stores.store import LISTING, store_of
from blip_pipelines.cluster.node_check import check_models, check_versions, models_here, this_node, versions_here
from blip_pipelines.cluster.resources import NO_RAY
from blip_pipelines.cluster.session import connect
from blip_training.runtime.commits import pin, pinned

PATIENCE_S = 120.0
"""How long a worker waits for another of its machine that makes the working copy."""

FETCH_S = 3_600.0
"""How long a node may take to fetch models from the hub, or to read them where they lie."""

STATE = f"{LISTING}.state"
"""In a working copy: which state of the run it was made equal to."""

_roots: dict[Path, str] = {}
"""The runs on a disk that this driver works on, and what their locks hold."""

_checked: set[Path] = set()


@dataclass(frozen=True)
class Roots:
    """What the workers of a step must see: locks of runs on a disk; working copies by folder, in `state`.

    And have: the same `versions` of packages, and of hub models the same `commits`.
    """

    locks: Mapping[Path, str] = field(default_factory=dict)
    copies: Mapping[str, str] = field(default_factory=dict)
    state: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    commits: Mapping[str, str] = field(default_factory=dict)


def roots_now() -> Roots:
    """In the driver: what its workers must see. Its own working copies, whose lock it holds, are right as they are."""
    copies, state = working_copies(), uuid.uuid4().hex
    for folder in copies:
        (Path(folder) / STATE).write_text(state, encoding="utf-8")
    return Roots(dict(_roots), copies, state, versions_here(), pinned())


def see(roots: Roots) -> None:
    """In a worker: have what it needs of the runs. Raises RunFailed, naming the machine, where that cannot be."""
    check_versions(roots.versions)
    pin(roots.commits)
    for root, lock in roots.locks.items():
        if why := _not_seen(root, lock):
            raise RunFailed(
                f"{root}: {this_node()} {why}; mount the run's folder there under the same path, or put "
                "the run on an object store (root: s3://BUCKET/FOLDER), which needs no shared disk"
            )
    for folder, uri in roots.copies.items():
        _make_copy(Path(folder), uri, roots.state)


def check_nodes(root: Path, config: RayConfig, models: Iterable[str] = ()) -> None:
    """Before work for a cluster: raise RunFailed, naming the node, where one cannot read and write the run.

    Or has other versions than the driver, or not the given `models` as the driver has them; those of the hub are then
    fetched once for each node. Joins the cluster. Nodes that come later are looked at when they get their first work.
    """
    if config.address in (NO_RAY, "local") or root in _checked:
        return
    _checked.add(root)
    connect(config)
    if store_of(root) is None and root.absolute() not in _roots:
        _roots[root.absolute()] = (root / LOCK).read_text(encoding="utf-8")
    from blip_pipelines.cluster.ray_nodes import on_each_node  # ray takes two seconds to import

    roots = roots_now()
    on_each_node("root", see, roots)
    if found := models_here(root, models):
        on_each_node("models", check_models, found, roots.commits, answer_s=FETCH_S)


def _not_seen(root: Path, lock: str) -> str:
    """Why a run's folder cannot be worked on here: it is not the driver's, or cannot be written; empty if it can."""
    try:
        if (root / LOCK).read_text(encoding="utf-8") != lock:
            return "sees another folder there"
    except OSError:
        return "does not see this folder"
    return "" if os.access(root, os.W_OK) else "cannot write there"


def _make_copy(folder: Path, uri: str, state: str) -> None:
    """Make a working copy here equal to the store, unless another worker of this machine has done so."""
    where = this_node()
    try:
        if _state_of(folder) == state:
            return
        with working_in(folder, alone=True, patience_s=PATIENCE_S) as is_free:
            if is_free and _state_of(folder) != state:
                compare(Store(uri, folder))
                (folder / STATE).write_text(state, encoding="utf-8")
    except PermissionError as error:
        raise RunFailed(
            f"{where}: cannot keep a working copy in {folder}; set XDG_CACHE_HOME to a folder that every node can write"
        ) from error
    except RunFailed as error:
        raise RunFailed(f"{where}: {error}") from error
    except OSError as error:
        raise RunFailed(f"{where}: {Store(uri, folder).told} cannot be read ({error})") from error


def _state_of(folder: Path) -> str:
    try:
        return (folder / STATE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
