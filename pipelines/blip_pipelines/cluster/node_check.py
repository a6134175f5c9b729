"""Whether a node of the cluster has what the driver has: the same versions, and the given models with the same bytes.

Found before hours of work, and told in a line with the node's name; needs no Ray.
"""

from __future__ import annotations

import platform
import socket
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from blip_bootstrap import __version__
from blip_bootstrap.errors import CheckpointError, RunFailed
from blip_bootstrap.storage.manifest import digest_of_path
from blip_bootstrap.stores.store import store_of
from blip_training.runtime.commits import pin, pinned
from blip_training.runtime.sources import PACKAGE_PREFIX, resolve_source

PACKAGES = ("torch", "transformers", "ray", "pyarrow", "duckdb")
"""Whose pickles, weights or files pass between nodes."""

NONE = "none"


def versions_here() -> dict[str, str]:
    """What runs here; `+cu128` and the like do not count, since nodes with GPUs and without work together."""
    return {
        "Python": platform.python_version(),
        "blip-bootstrap": __version__,
        **{name: _version(name) for name in PACKAGES},
    }


def check_versions(expected: Mapping[str, str]) -> None:
    """Raise RunFailed, naming this machine, where other versions run here than at the driver."""
    here = versions_here() if expected else {}
    others = [name for name, one in expected.items() if here[name] != one]
    if others:
        found = ", ".join(f"{name} {here[name]} (the driver: {expected[name]})" for name in others)
        what = " ".join(f"{name}=={expected[name]}" for name in others if name != "Python")
        install = f"`pip install {what}`" if what else "the driver's Python"
        raise RunFailed(f"{this_node()} has {found}; use the same image or environment there, or {install}")


def models_here(root: Path, sources: Iterable[str]) -> dict[str, str]:
    """In the driver: the given models that its workers must see, with the digests of their bytes, or their commits.

    Left out are folders and files of this machine where the run is on a store, which brings them to the workers, and
    what this machine does not have either.
    """
    found, commits, is_sent = dict[str, str](), pinned(), store_of(root) is not None
    for source in sources:
        path = Path(source)
        if source in commits:
            found[source] = commits[source]
        elif source.startswith(PACKAGE_PREFIX):
            found[source] = ""
        elif path.exists() and not is_sent:
            found[str(path.absolute())] = digest_of_path(path)
    return found


def check_models(models: Mapping[str, str], commits: Mapping[str, str]) -> None:
    """Raise RunFailed, naming this machine, where a given model is not here or is another; hub models are fetched."""
    pin(commits)
    for source, digest in models.items():
        path = Path(source)
        if not path.is_absolute():
            try:
                resolve_source(source)
            except CheckpointError as error:
                raise RunFailed(f"{this_node()}: {error}") from error
        elif not path.exists():
            raise RunFailed(
                f"{source}: {this_node()} does not see this model; put it there under the same path, on a disk that "
                "all nodes see, or use a hub name or a run on an object store"
            )
        elif digest_of_path(path) != digest:
            raise RunFailed(f"{source}: {this_node()} has another model there than the driver; copy the driver's")


def this_node() -> str:
    """This machine, for people: its name, and the address by which Ray knows it (`ray status` shows both)."""
    ray = sys.modules.get("ray")  # in a worker it is there
    address = f" ({ray.util.get_node_ip_address()})" if ray and ray.is_initialized() else ""
    return f"node {socket.gethostname()}{address}"


def _version(package: str) -> str:
    try:
        return version(package).split("+")[0]
    except PackageNotFoundError:
        return NONE
