"""The CPUs and GPUs of the cluster, how many workers a step gets of them, and whether a step needs Ray at all."""

from __future__ import annotations

import math
import resource
import sys

from blip_bootstrap.config import Device, RayConfig
from blip_bootstrap.errors import RunFailed
from blip_bootstrap.machine import num_cores

MIN_LOCAL_CPUS = 4
"""The fewest logical CPUs of a local Ray: actors that hold every CPU would wait for ever for their input to be read."""

NO_RAY = "none"
"""The value of `ray.address` with which everything is done in this process."""


def works_here(config: RayConfig, num_tasks: int) -> bool:
    """Whether a step of `num_tasks` tasks is done in this process, without Ray.

    That is with `ray.address: none`, and where a local Ray would be started for a single task: starting it takes longer
    than some dozens of pictures. A Ray that is connected already is used.
    """
    return config.address == NO_RAY or (config.address == "local" and num_tasks <= 1 and not is_connected())


def is_connected() -> bool:
    """Whether this process has started or joined a Ray."""
    ray = sys.modules.get("ray")  # a process that has not imported ray is not connected; importing takes two seconds
    return bool(ray and ray.is_initialized())


def num_nodes() -> int:
    """The machines of the connected cluster that are alive; 1 without Ray."""
    return sum(bool(node["Alive"]) for node in sys.modules["ray"].nodes()) if is_connected() else 1


def check_cpus(needed: float, what: str = "this step") -> None:
    """Raise RunFailed where the cluster has fewer CPUs than actors need (`needed`), and one to read their input.

    Workers would wait for them for ever.
    """
    total = cluster_cpus()
    if needed + 1 > total:
        raise RunFailed(
            f"ray: {what} needs {needed:g} CPUs for its actors and 1 for their input, the cluster has {total:g}; "
            f"use fewer or smaller actors, or a cluster of {math.ceil(needed + 1)} CPUs (ray.num_cpus)"
        )


def cluster_cpus() -> float:
    """The logical CPUs of the connected cluster."""
    return _resource("CPU")


def num_gpus() -> float:
    """The GPUs of the connected cluster."""
    return _resource("GPU")


def takes_gpu(device: Device) -> bool:
    """Whether work on `device` asks the connected cluster for a GPU: auto where it has one now, cuda in any case."""
    return device == "cuda" or (device == "auto" and num_gpus() > 0)


def _resource(name: str) -> float:
    import ray  # start-up: two seconds, only for who is connected

    return float(ray.cluster_resources().get(name, 0))


def num_workers(config: RayConfig, wanted: int, cpus_each: float, gpus_each: float = 0.0, at_most: int = 1_000) -> int:
    """How many workers to start: `wanted`, or with 0 as many as there are CPUs and GPUs for, but at most `at_most`.

    One CPU is left for reading input. A local Ray has `MIN_LOCAL_CPUS` also on a smaller machine; workers are then no
    more than the machine has CPUs.
    """
    if wanted:
        return min(wanted, at_most)
    cpus = cluster_cpus()
    if config.address == "local":
        cpus = min(cpus, num_cores() + 1)
    carried = int((cpus - 1) / cpus_each)
    if gpus_each:
        carried = min(carried, int(num_gpus() / gpus_each))
    return max(1, min(carried, at_most))


def peak_bytes() -> int:
    """Peak memory of this process, plus that of the largest process that it started and that has ended."""
    peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(peaks) * (1 if sys.platform == "darwin" else 1024)
