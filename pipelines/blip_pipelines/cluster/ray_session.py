"""Starts, joins and leaves Ray, quietly and within bounds of time; imported only where Ray is used."""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import socket
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import ray
from ray.exceptions import AuthenticationError

from blip_bootstrap.config import RayConfig
from blip_bootstrap.ending import sigterm_held
from blip_bootstrap.errors import RunFailed
from blip_pipelines.cluster.errors import first_line
from blip_pipelines.cluster.resources import MIN_LOCAL_CPUS

PROBE_TIMEOUT_S = 5.0

SHUTDOWN_S = 30.0
"""How long Ray may take to shut down before the process goes on without it."""


class _Leaving:
    """A thread that shuts Ray down when told to, so that others can wait for it as long as they like.

    It is started with the session: from Python 3.12 on a process that ends starts no threads.
    """

    def __init__(self) -> None:
        self._told = threading.Event()
        self._thread = threading.Thread(target=self._wait, name="leave ray", daemon=True)
        self._thread.start()

    def _wait(self) -> None:
        self._told.wait()
        ray.shutdown()

    def leave(self, timeout_s: float) -> bool:
        """Shut Ray down; whether that was done in time."""
        self._told.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()


_leaving: _Leaving | None = None


def join(config: RayConfig, worker_environment: Mapping[str, str]) -> None:
    """Start a local Ray or join the cluster of `config`. Raises RunFailed where that fails.

    A SIGTERM waits meanwhile. The processes of a local Ray never see one: a batch system sends it to all processes of
    a job, and a Ray that ends at once would take this process down before it has said anything.
    """
    global _leaving
    with sigterm_held():
        if config.address == "local":
            _start_local(config)
        else:
            _join_cluster(config.address, worker_environment)
    _leaving = _Leaving()
    atexit.register(disconnect)  # after Ray's own, and so called before it


def disconnect() -> None:
    """Leave Ray, and end a local one; does nothing where this process is not connected.

    Ray asks the head for replies without a deadline, and at the end of some sessions (Ray 2.60) it waited for one for
    ever. After SHUTDOWN_S the process goes on; what is left of a local Ray is killed by Linux when the process ends.
    """
    global _leaving
    leaving, _leaving = _leaving, None
    if leaving and not leaving.leave(SHUTDOWN_S):
        atexit.unregister(ray.shutdown)  # Ray's own, which would wait in its turn


def _join_cluster(address: str, worker_environment: Mapping[str, str]) -> None:
    runtime_env = {"env_vars": dict(worker_environment)}
    try:
        _probe(address)
        with _no_stderr():
            ray.init(address, runtime_env=runtime_env, logging_level=logging.ERROR, log_to_driver=False)
    except (OSError, RuntimeError, ValueError, AuthenticationError) as error:
        raise RunFailed(_not_joined(address, error)) from error


def _not_joined(address: str, error: Exception) -> str:
    """Why a cluster was not joined. Ray's last attempt is told in the cause, as a whole traceback."""
    if isinstance(error, AuthenticationError) or "AuthToken" in str(error.__cause__):
        needed = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or ~/.ray/auth_token to its token"
        return f"ray: the cluster at {address} wants a token, and this process has none or another; {needed}"
    why = f"no cluster answers at {address} ({first_line(error)})"
    return f"ray: {why}; start one with `ray start --head`, or use --ray local"


def _probe(address: str) -> None:
    """Raise OSError where nothing listens at HOST:PORT: Ray itself tries for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=PROBE_TIMEOUT_S).close()


def _start_local(config: RayConfig) -> None:
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
    import ray.data  # evaluation on Ray does without it

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Ray Data sets options of its own that it deprecates
        context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # Ray Data gives its loggers their levels when the first dataset is made; what is set earlier is overwritten.
    ray.data.from_items([{"shard": 0}])
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
