"""Connects this process to Ray, once, when a step first needs it."""

from __future__ import annotations

import os

from blip_bootstrap.config import RayConfig
from blip_pipelines.cluster.resources import NO_RAY, is_connected

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    # Ray's default is 15, with which a training takes many times as long beside any other work on the machine.
    "RAY_worker_niceness": "0",
}

WORKER = {
    # OpenMP threads that spin while they wait make tiny models 10-60 times slower on a shared machine.
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "0",
}


def connect(config: RayConfig) -> None:
    """Start a local Ray or join a cluster; does nothing where this process is connected, or `ray.address` is none.

    The process leaves Ray when it ends, or calls `ray_session.disconnect`. Raises RunFailed where the cluster does not
    answer or a local Ray does not start.
    """
    os.environ.update({name: os.environ.get(name, value) for name, value in {**QUIET, **WORKER}.items()})
    if config.address == NO_RAY or is_connected():
        return
    from blip_pipelines.cluster import ray_session  # ray takes two seconds to import

    ray_session.join(config, WORKER)
