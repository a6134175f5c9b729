"""Starts a local Ray or joins a cluster, and leaves it, with time limits and without Ray's log lines.

Imported only where Ray is used.
"""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import ray
from ray.exceptions import AuthenticationError

from blip_bootstrap.config import RayConfig
from blip_bootstrap.ending import sigterm_held, skip_farewells
from blip_bootstrap.errors import RunFailed
from blip_bootstrap.machine import num_cores
from blip_pipelines.cluster.resources import MIN_LOCAL_CPUS
from blip_pipelines.failures.errors import first_line

PROBE_TIMEOUT_S = 5.0

SHUTDOWN_S = 30.0
"""Seconds to wait for Ray to shut down."""


class _Leaving:
    """A thread that shuts Ray down when told to, so that waiting for it can time out.

    It is started with the session: from Python 3.12 on a process that is ending cannot start threads.
    """

    def __init__(self) -> None:
        self._told = threading.Event()
        self._thread = threading.Thread(target=self._wait, name="leave ray", daemon=True)
        self._thread.start()

    def _wait(self) -> None:
        self._told.wait()
        ray.shutdown()

    def leave(self, timeout_s: float) -> bool:
        """Shut Ray down; returns whether that was done within `timeout_s`."""
        self._told.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()


_leaving: _Leaving | None = None


def join(config: RayConfig, worker_environment: Mapping[str, str]) -> None:
    """Start a local Ray or join the cluster of `config`. Raises RunFailed where that fails.

    A SIGTERM that comes meanwhile is handled afterwards. The processes of a local Ray are started with it blocked: a
    batch system sends it to all processes of a job, and a Ray that ends would end this process before its last line.
    """
    global _leaving
    with sigterm_held():
        if config.address == "local":
            _start_local(config)
        else:
            _join_cluster(config.address, worker_environment)
    _leaving = _Leaving()
    atexit.register(disconnect)  # registered after Ray's own handler, and so called before it


def disconnect() -> None:
    """Leave Ray, and end a local one; does nothing where this process is not connected.

    Ray waits for a reply of the head without a timeout, and at the end of some sessions (Ray 2.60) none came. After
    SHUTDOWN_S this process goes on; what is left of a local Ray is killed by Linux when this process ends.
    """
    global _leaving
    leaving, _leaving = _leaving, None
    if leaving and not leaving.leave(SHUTDOWN_S):
        atexit.unregister(ray.shutdown)  # Ray's own handler, which would wait again
        skip_farewells()


def _join_cluster(address: str, worker_environment: Mapping[str, str]) -> None:
    runtime_env = {"env_vars": dict(worker_environment)}
    try:
        _probe(address)
        with _no_stderr():
            ray.init(address, runtime_env=runtime_env, logging_level=logging.ERROR, log_to_driver=False)
    except (OSError, RuntimeError, ValueError, AuthenticationError) as error:
        raise RunFailed(_not_joined(address, error)) from error


def _not_joined(address: str, error: Exception) -> str:
    """The message for a cluster that was not joined; `__cause__` of the error holds Ray's last attempt."""
    if isinstance(error, AuthenticationError) or "AuthToken" in str(error.__cause__):
        needed = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or ~/.ray/auth_token to its token"
        return f"ray: the cluster at {address} wants a token, and this process has none or another; {needed}"
    why = f"no cluster answers at {address} ({first_line(error)})"
    return f"ray: {why}; start one with `ray start --head`, or use --ray local"


def _probe(address: str) -> None:
    """Raise OSError where nothing listens at HOST:PORT; Ray itself would retry for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=PROBE_TIMEOUT_S).close()


def _start_local(config: RayConfig) -> None:
    # Ray listens on every interface, and whoever has its token may run code here. Ray's default is one token for all
    # runs of a user, in a home folder that may not exist; this one is valid for this run alone.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    # Always "local": a plain init() would join a cluster that runs on the machine already. Workers inherit the
    # environment set above; with a runtime_env they could not use the processes that Ray starts in advance.
    try:
        with _no_stderr():
            ray.init(
                address="local",
                num_cpus=config.num_cpus or max(MIN_LOCAL_CPUS, num_cores()),
                include_dashboard=False,
                object_store_memory=config.object_store_bytes,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
    except Exception as error:  # Ray raises plain Exception where its processes start too slowly
        raise RunFailed(
            f"ray: a local Ray did not start ({first_line(error)}); run again, on a less busy machine if it timed out"
        ) from error


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Drop what the body writes to standard error: Ray's C++ core prints there how its log level was set."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
