"""One Ray for the whole process: started quietly when first needed, checked for enough CPUs, its errors in one line."""

from __future__ import annotations

import atexit
import logging
import math
import os
import re
import secrets
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from blip_bootstrap import errors
from blip_bootstrap.config import Device, RayConfig
from blip_bootstrap.ending import sigterm_held
from blip_bootstrap.errors import BlipBootstrapError, RunFailed

MIN_LOCAL_CPUS = 4
"""Logical CPUs of a local Ray: a pool of actors that holds every CPU waits for its own input for ever."""

NO_RAY = "none"
"""The address for doing everything in this process: Ray's start takes longer than some dozens of pictures."""

PROBE_TIMEOUT_S = 5.0

SHUTDOWN_S = 30.0
"""What a local Ray may take to shut down before its head is killed."""

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    # Ray's own is 15: beside any other work on the machine a training would take many times as long.
    "RAY_worker_niceness": "0",
}
WORKER = {
    # OpenMP threads that spin while they wait make tiny models 10-60 times slower on a shared machine.
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "0",
    # Without it every worker that imports img2dataset asks the network for a newer albumentations.
    "NO_ALBUMENTATIONS_UPDATE": "1",
}


def connect(config: RayConfig) -> None:
    """Start a local Ray or attach to a cluster; does nothing where this process is connected, or is to do without.

    `disconnect` is called when the process ends. Raises RunFailed where the cluster does not answer or does not start.
    """
    os.environ.update({name: os.environ.get(name, value) for name, value in {**QUIET, **WORKER}.items()})
    if config.address == NO_RAY:
        return
    import ray

    if ray.is_initialized():
        return
    atexit.register(disconnect)  # after Ray's own, and so called before it
    with sigterm_held(), _own_sigterm():
        _join(config)


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep this process's handler of SIGTERM: Ray puts one there that ends the process with the signal's number.

    Without one that is this command's, Ray's may stay.
    """
    import ray

    before, ray_utils = signal.getsignal(signal.SIGTERM), ray._private.utils
    if before in (signal.SIG_DFL, None) or threading.current_thread() is not threading.main_thread():
        yield
        return
    rays = ray_utils.set_sigterm_handler
    ray_utils.set_sigterm_handler = lambda _handler: None
    try:
        yield
    finally:
        ray_utils.set_sigterm_handler = rays
        signal.signal(signal.SIGTERM, before)


def _join(config: RayConfig) -> None:
    import ray

    if config.address == "local":
        _start_local(config)
        return
    try:
        _probe(config.address)
        with _no_stderr():
            ray.init(config.address, runtime_env={"env_vars": WORKER}, logging_level=logging.ERROR, log_to_driver=False)
    except (OSError, RuntimeError, ValueError, ray.exceptions.AuthenticationError) as error:
        raise RunFailed(_not_joined(config.address, error)) from error


def _not_joined(address: str, error: Exception) -> str:
    """Why a cluster was not joined. Ray's last attempt is told in the cause, as a whole traceback."""
    from ray.exceptions import AuthenticationError

    if isinstance(error, AuthenticationError) or "AuthToken" in str(error.__cause__):
        needed = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or ~/.ray/auth_token to its token"
        return f"ray: the cluster at {address} wants a token, and this process has none or another; {needed}"
    why = f"no cluster answers at {address} ({first_line(error)})"
    return f"ray: {why}; start one with `ray start --head`, or use --ray local"


def disconnect() -> None:
    """Shut Ray down where this process has started or joined one.

    ray.shutdown asks the head for replies without a deadline, and at the end of some sessions of tests (Ray 2.60) it
    waited for one for ever. The head of a local Ray is then killed, which ends the wait.
    """
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return
    node = ray._private.worker._global_node
    killer = threading.Timer(SHUTDOWN_S, node.kill_gcs_server, kwargs={"check_alive": False}) if node else None
    if killer:
        killer.daemon = True
        killer.start()
    try:
        ray.shutdown()
    finally:
        if killer:
            killer.cancel()


def works_here(config: RayConfig, num_tasks: int) -> bool:
    """Whether a step of `num_tasks` tasks, that need no process of their own, is done in this one and without Ray.

    So it is where Ray is not wanted, and where a local one would start for a single task, which it cannot share out:
    that takes longer than some dozens of pictures. One that has started is used.
    """
    if config.address == NO_RAY:
        return True
    ray = sys.modules.get("ray")
    return config.address == "local" and num_tasks <= 1 and not (ray and ray.is_initialized())


def _probe(address: str) -> None:
    """Raise OSError where nothing listens at HOST:PORT: Ray itself tries for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=PROBE_TIMEOUT_S).close()


def _start_local(config: RayConfig) -> None:
    import ray

    # Ray listens on every interface, and whoever has its token may run anything here. By default it makes one for all
    # runs of the user, under a home that need not be there; this one ends with the run.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    # Always "local": a plain init() attaches to whatever cluster is current on the machine. Workers inherit the
    # environment set above; a runtime_env would keep them from using the processes that Ray starts beforehand.
    try:
        with _no_stderr():
            ray.init(
                address="local",
                num_cpus=config.num_cpus or max(MIN_LOCAL_CPUS, os.cpu_count() or 1),
                include_dashboard=False,
                object_store_memory=config.object_store_bytes,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
    except Exception as error:  # of no narrower class where its processes take longer than Ray waits for them
        raise RunFailed(
            f"ray: a local Ray did not start ({first_line(error)}); run again, on a less busy machine if it timed out"
        ) from error


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Ray's C++ core says on file descriptor 2 how its log level was set; errors come as exceptions."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def quiet_data() -> None:
    """Switch off the progress bars and log lines of Ray Data; a step shows its own progress."""
    import ray

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Ray Data sets options of its own that it deprecates
        context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # Ray Data gives its loggers their levels when the first dataset is made; what is set earlier is overwritten.
    ray.data.from_items([{"shard": 0}])
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)


def check_cpus(needed: float, what: str = "this step") -> None:
    """Refuse where `needed` CPUs for actors, and one for reading their input, are more than the cluster has.

    Ray Data would wait in silence. Raises RunFailed.
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
    import ray

    return float(ray.cluster_resources().get(name, 0))  # type: ignore[no-untyped-call]


def num_workers(config: RayConfig, wanted: int, cpus_each: float, gpus_each: float = 0.0, at_most: int = 1_000) -> int:
    """How many actors to start: `wanted`, or where that is 0 what the cluster's CPUs and GPUs carry.

    A local Ray has more logical CPUs than the machine where that has few; actors are then no more than the machine's.
    """
    if wanted:
        return min(wanted, at_most)
    cpus = cluster_cpus()
    if config.address == "local":
        cpus = min(cpus, (os.cpu_count() or 1) + 1)
    carried = int((cpus - 1) / cpus_each)
    if gpus_each:
        carried = min(carried, int(num_gpus() / gpus_each))
    return max(1, min(carried, at_most))


@contextmanager
def errors_in_one_line(step: str) -> Iterator[None]:
    """Errors of Ray and of the code it ran leave as one line: our own as they are, others as RunFailed."""
    try:
        yield
    except Exception as error:
        ray = sys.modules.get("ray")
        if ray and isinstance(error, ray.exceptions.RayError):
            raise _in_one_line(step, error) from error
        raise


def _in_one_line(step: str, error: BaseException) -> BlipBootstrapError:
    """What was raised first. Ray Data hands on the worker's traceback as text alone, without the exception."""
    raised = _RAISED.search(str(error))
    if raised is None:
        return RunFailed(f"{step}: {type(error).__name__}: {first_line(error)}; run again to go on")
    kind = getattr(errors, raised["name"], None)
    if isinstance(kind, type) and issubclass(kind, BlipBootstrapError):
        return kind(raised["message"])
    return RunFailed(f"{step}: {raised['name']}: {raised['message']}; run again to go on")


_RAISED = re.compile(r"^(?:[A-Za-z_]\w*\.)*(?P<name>[A-Za-z_]\w*): (?P<message>.+)$", re.MULTILINE)
"""The line of a traceback that names the exception; the lines of its frames are indented."""


def first_line(error: BaseException) -> str:
    """An error's words, their first line."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
