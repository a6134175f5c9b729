"""Room for the workers of a training on the cluster: waits for machines, says for what, and settles for fewer workers.

Imported only where Ray is used.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from blip_bootstrap.errors import RunFailed
from blip_pipelines.train.runner import Training

TOLD_AFTER_S = 20.0
"""A cluster that has room answers in a second; a node that has died counts as alive for up to half a minute."""

LOOK_S = 1.0
"""Ctrl-C is answered between two looks."""

FEWER_AFTER_S = 600.0
"""So long, or half of its time-out, a training waits for machines before it goes on with fewer workers, if it may."""

TO_DO = "start nodes (`ray start --address=HEAD:6379`), or stop this (the same command goes on)"

PLACED_S = 5.0
"""Within this time Ray places what there is room for."""

log = logging.getLogger(__name__)


def wait_for_room(job: Training, gpu: bool, timeout_s: float) -> int:
    """The number of workers to start now: `job.num_workers`, or, after FEWER_AFTER_S, the most of `job.sizes` that fit.

    A line says what it waits for. All workers are asked of Ray at once the whole time, which is what an autoscaler
    answers. Raises RunFailed, with what to do, where there is room for none of these numbers within `timeout_s`.
    """
    began, told, wanted = time.monotonic(), False, job.num_workers
    with _asked(wanted, gpu) as group:
        while not group.wait(LOOK_S):
            waited = time.monotonic() - began
            if waited >= _fewer_after_s(timeout_s) and (number := _most_placed(job, gpu)):
                log.warning("%s: goes on with %d workers of %d: there is room for no more", job.name, number, wanted)
                return number
            if waited >= timeout_s:
                raise RunFailed(
                    f"{job.name}: no room for {_wants(wanted, gpu)} in {waited:,.0f} s, {has_now(gpu)}; add machines, "
                    "or set num_workers or min_workers lower, and run the same command again to go on"
                )
            if not told and waited >= TOLD_AFTER_S:
                log.warning("%s", _waits(job, gpu, timeout_s))
                told = True
    if told:
        log.warning("%s: there is room now; goes on with %d workers", job.name, wanted)
    return wanted


def first_done(tasks: Iterable[Any], name: str, gpu: bool, timeout_s: float) -> Any:
    """The first of Ray's `tasks` that is done; says where the cluster has no machine that could run one.

    Raises RunFailed where it has had none for `timeout_s`.
    """
    since: float | None = None
    while not (done := ray.wait(list(tasks), num_returns=1, timeout=min(TOLD_AFTER_S, timeout_s))[0]):
        if room_for(gpu):
            since = None
            continue
        if since is None:
            since = time.monotonic()
            log.warning(
                "%s: waits for %s: %s; after %s s it ends (ray.nodes_timeout_s); %s", name, _wants(1, gpu),
                has_now(gpu), f"{timeout_s:,.0f}", TO_DO,
            )  # fmt: skip
        elif time.monotonic() - since >= timeout_s:
            raise RunFailed(f"{name}: no machine for it in {timeout_s:,.0f} s, {has_now(gpu)}; run again to go on")
    return done[0]


def _waits(job: Training, gpu: bool, timeout_s: float) -> str:
    """The line of a training that waits."""
    least = min(job.sizes, default=job.num_workers)
    fewer = f"from {_fewer_after_s(timeout_s):,.0f} s on it goes on with {least} or more, and "
    return (
        f"{job.name}: waits for room for {_wants(job.num_workers, gpu)}: {has_now(gpu)}, or others use them; "
        f"{fewer if least < job.num_workers else ''}after {timeout_s:,.0f} s it ends (ray.nodes_timeout_s); {TO_DO}"
    )


def _fewer_after_s(timeout_s: float) -> float:
    return min(FEWER_AFTER_S, timeout_s / 2)


def _wants(number: int, gpu: bool) -> str:
    each = "a CPU and a GPU" if gpu else "a CPU"
    return f"{number} workers, {each} each" if number > 1 else f"a worker with {each}"


def has_now(gpu: bool) -> str:
    """What the cluster has, for people."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    names = ("CPU", "GPU") if gpu else ("CPU",)
    has = " and ".join(f"{sum(node.get(name, 0) for node in nodes):g} {name}s" for name in names)
    return f"the cluster has {has} on {len(nodes)} node{'s' if len(nodes) != 1 else ''}"


def room_for(gpu: bool) -> int:
    """How many workers the cluster's live nodes hold: a CPU each, and a GPU."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(int(min(node.get("CPU", 0), node.get("GPU", 0) if gpu else node.get("CPU", 0))) for node in nodes)


def _most_placed(job: Training, gpu: bool) -> int:
    """The most of `job.sizes` that Ray places now, beside whatever else the cluster does; 0 where none fits."""
    room = room_for(gpu)
    for number in reversed([size for size in job.sizes if size < job.num_workers and size <= room]):
        with _asked(number, gpu) as group:
            if group.wait(PLACED_S):
                return number
    return 0


@contextmanager
def _asked(number: int, gpu: bool) -> Iterator[PlacementGroup]:
    """While the body runs, room for so many workers is asked of Ray, and held where there is some."""
    bundle = {"CPU": 1.0, "GPU": 1.0} if gpu else {"CPU": 1.0}
    group = placement_group([bundle] * number)
    try:
        yield group
    finally:
        remove_placement_group(group)
