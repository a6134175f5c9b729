"""One Ray for the whole process: started quietly when first needed, checked for enough CPUs, its errors in one line."""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from blip_bootstrap.config import RayConfig
from blip_bootstrap.ending import sigterm_held
from blip_bootstrap.errors import RunFailed
from blip_pipelines.cluster.errors import first_line
from blip_pipelines.cluster.resources import MIN_LOCAL_CPUS, NO_RAY

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
