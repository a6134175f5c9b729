"""A training by several workers on Ray: attempts of a TorchTrainer, one after another; imported only where Ray is used.

Ray Train would count the failures of a whole run, of weeks, and start as many workers again as it began with. So each
TorchTrainer is one attempt, and the count and the number of workers are of this module.
"""

from __future__ import annotations

import logging
import pickle
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.train import RunConfig, ScalingConfig, get_context
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.config import FailureConfig  # type checkers see an older one in ray.train

from blip_bootstrap.ending import sigterm_came
from blip_bootstrap.errors import BlipBootstrapError
from blip_bootstrap.machine import num_cores
from blip_bootstrap.storage.files import write_whole
from blip_bootstrap.stores.store import fetched, gone, store_of
from blip_pipelines.cluster.sees_root import roots_now
from blip_pipelines.failures.errors import Raised, packed, unpacked
from blip_pipelines.train.causes import RAISED, STALLED, cause_of, machines, read_left
from blip_pipelines.train.failures import Failures
from blip_pipelines.train.on_ray import train_in_worker
from blip_pipelines.train.room import wait_for_room
from blip_pipelines.train.runner import Counts, Training
from blip_training.runtime import stall
from blip_training.runtime.host import known_by

SCRATCH, OUTCOME = ".trainer", "outcome.pickle"

PAUSE_S = 20.0
"""Before an attempt after the second failure in a row: Ray still counts a node that died seconds ago."""

GROUP_TIMEOUT_S = 1800
"""Ray Train's own time-out of an exchange; before the first step workers may wait so long for the slowest of them."""

log = logging.getLogger(__name__)


def run_trainer(job: Training, gpu: bool, nodes_timeout_s: float) -> Counts:
    """Run a training as a TorchTrainer with `job.num_workers` workers and return the counts of rank 0.

    All workers are started again, from the last checkpoint, where one dies or stands still: until that has happened
    MAX_FAILURES times in a row without a new checkpoint. Where the cluster has lost machines, `job.sizes` are the
    numbers of workers to go on with. Raises what a worker raised, RunFailed for errors that are not ours, or where
    there is no room for so many within `nodes_timeout_s`.
    """
    scratch = job.out.resolve() / SCRATCH
    failures = Failures(job.name, job.out)
    while True:
        num_workers, before = wait_for_room(job, gpu, nodes_timeout_s), machines()
        try:
            _attempt(job, num_workers, gpu, scratch)
            break
        except Exception as error:  # noqa: BLE001 - whatever a worker died of
            _raise_ours(job, scratch)
            cause = cause_of(error, scratch, before)
            failures.count(cause)
            log.warning("%s: %s; it goes on from step %s", job.name, cause, f"{failures.step:,}")
            time.sleep(PAUSE_S if failures.in_a_row > 1 else 0.0)
    _raise_ours(job, scratch)
    counts: Counts = read_left(scratch / OUTCOME)
    gone(scratch)
    fetched(job.out)  # of a run on a store, what another machine has made
    return counts


def _attempt(job: Training, num_workers: int, gpu: bool, scratch: Path) -> None:
    """One TorchTrainer, till its end or its first failure; its workers leave in `scratch` what came of it."""
    gone(scratch)
    scratch.mkdir(parents=True)
    store = store_of(scratch)
    trainer = TorchTrainer(
        _run_worker,
        train_loop_config={
            "call": job.call,
            "threads": job.threads or max(1, num_cores() // num_workers),
            "scratch": str(scratch),
            "out": job.out,
            "roots": roots_now(),
        },
        scaling_config=ScalingConfig(num_workers=num_workers, use_gpu=gpu, resources_per_worker={"CPU": 1}),
        torch_config=TorchConfig(timeout_s=max(GROUP_TIMEOUT_S, int(2 * job.stall_timeout_s))),
        run_config=RunConfig(
            name=job.name.replace(" ", "-"),
            storage_path=store.place(scratch) if store else str(scratch),
            storage_filesystem=store.reader if store else None,
            failure_config=FailureConfig(controller_failure_limit=0),  # Ray Train would try for ever, and say nothing
        ),
    )
    with _quiet("ray.train"), _interrupts_kept(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Ray Train copies Ray Data's old settings
        trainer.fit()


def _raise_ours(job: Training, scratch: Path) -> None:
    """Raise what a worker raised on purpose: no restart would mend it."""
    if isinstance(outcome := read_left(scratch / OUTCOME), Raised):
        raise unpacked(job.name, outcome)


def _run_worker(config: dict[str, Any]) -> None:
    """In each worker of a TorchTrainer: train, and write down what came of it.

    An error of ours is an outcome, too: no restart would mend it. Any other may be mended, and is raised.
    """
    scratch = Path(config["scratch"])
    known_by(ray.util.get_node_ip_address())
    stall.last_words[:] = [partial(_leave, scratch / STALLED)]
    first = get_context().get_world_rank() == 0
    try:
        counts = train_in_worker(config["call"], config["out"], config["threads"], config["roots"], first)
    except Exception as error:
        _leave(scratch / (OUTCOME if isinstance(error, BlipBootstrapError) else RAISED), packed(error))
        raise
    if first:
        _leave(scratch / OUTCOME, counts)


def _leave(file: Path, what: object) -> None:
    write_whole(file, pickle.dumps(what))


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Ray Train says in a dozen lines that it starts and ends; the step has its own progress."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _interrupts_kept() -> Iterator[None]:
    """Ray Train answers Ctrl-C by ending the process with 0, and goes on to answer it once the training is over."""
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as end:
        if sigterm_came():
            raise
        raise KeyboardInterrupt from end
    finally:
        if in_main:
            signal.signal(signal.SIGINT, before)
