"""A Ray cluster of several nodes on this machine, of which all but the head live without its disks.

A node is a raylet of its own (`ray start`). It is started in a mount namespace in which folders are empty: what a
worker there reads of them, it has written itself. `Node.view` shows such a folder as the node sees it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]

NOT_THE_PACKAGE = [path for name in ("tests", "docs", "runs") if (path := CHECKOUT / name).is_dir()]
"""What a checkout holds beside the packages, which no worker may need."""

STARTED_S = 120.0

STARTS = 3
"""So often a node is started that does not join."""

NO_WORKERS = tuple(
    f"ray::{name}" for name in ("IDLE", "Tallies", "DashboardAgent", "RuntimeEnvAgent", "_Stats", "_Autoscaling")
)
"""Processes of Ray's that do no work of a step. With an agent its whole node would die."""


def no_namespaces() -> str:
    """Why a node cannot be started apart here; empty where it can."""
    if not shutil.which("unshare"):
        return "there is no `unshare`"
    tried = subprocess.run(["unshare", "-m", "sh", "-c", "mount -t tmpfs none /mnt"], capture_output=True, text=True)
    return f"this machine refuses mount namespaces ({tried.stderr.strip()})" if tried.returncode else ""


needs_namespaces = pytest.mark.skipif(bool(why := no_namespaces()), reason=why or "-")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Node:
    """One raylet and its processes."""

    def __init__(self, process: subprocess.Popen[bytes], ip: str) -> None:
        self.process, self.ip = process, ip

    def view(self, folder: Path) -> Path:
        """A folder as the node sees it."""
        return Path(f"/proc/{self.process.pid}/root") / folder.relative_to("/")

    def workers(self) -> list[int]:
        """The processes of Ray's that work on this node, by their titles (`ray::caption`), idle ones left out."""
        found = []
        for pid in _descendants(self.process.pid):
            title = _read(Path(f"/proc/{pid}/cmdline"))
            if title.startswith("ray::") and not title.startswith(NO_WORKERS):
                found.append(pid)
        return found

    def kill(self) -> None:
        """End the node as a power cut would: every process of it at once, by its number."""
        for pid in [self.process.pid, *_descendants(self.process.pid)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()


class Cluster:
    """A head without CPUs of its own, unless told otherwise, and nodes that join it."""

    def __init__(self, environment: dict[str, str], head_cpus: int = 0, dashboard: bool = False) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rt", dir="/tmp"))  # short: the paths of Ray's sockets have a limit
        port, jobs = free_port(), free_port()
        self.address = f"127.0.0.1:{port}"
        self.jobs = f"http://127.0.0.1:{jobs}"
        self.environment = {
            **environment,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_failure_threshold": "3",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
            "RAY_DISABLE_IMPORT_WARNING": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
            "GOMP_SPINCOUNT": "0",
            "OMP_NUM_THREADS": "1",
        }
        self.nodes: list[Node] = []
        asked = [
            "--head", f"--port={port}", f"--temp-dir={self.folder}", f"--num-cpus={head_cpus}",
            f"--include-dashboard={str(dashboard).lower()}", f"--dashboard-port={jobs}",
        ]  # fmt: skip
        if find_spec("grpc"):  # of the extra ray[client]; without it no such server is started
            asked.append(f"--ray-client-server-port={free_port()}")
        self.head = self._start(asked, "127.0.0.1", [])
        self._wait(self.head)

    def add(self, cpus: int, hidden: Sequence[Path] = ()) -> Node:
        """Start a node that sees the folders `hidden` empty."""
        return self.add_all([cpus], hidden)[0]

    def add_all(self, cpus: Sequence[int], hidden: Sequence[Path] = ()) -> list[Node]:
        """Start several such nodes, with so many CPUs; one after another: two at once take each other's ports."""
        return [self._joined([f"--address={self.address}", f"--num-cpus={one}"], hidden) for one in cpus]

    def _joined(self, asked: list[str], hidden: Sequence[Path]) -> Node:
        """Start a node; Ray gives it 30 s, in which a busy machine does not always do it."""
        for more in reversed(range(STARTS)):
            node = self._start(asked, f"127.0.0.{2 + len(self.nodes)}", hidden)
            with nullcontext() if not more else suppress(AssertionError):
                self._wait(node)
                break
        return node

    def _start(self, asked: list[str], ip: str, hidden: Sequence[Path]) -> Node:
        ray = [str(Path(sys.executable).with_name("ray")), "start", "--block", f"--node-ip-address={ip}", *asked]
        ray += ["--object-store-memory=100000000", "--disable-usage-stats"]
        mounts = "".join(f"mount -t tmpfs none '{one}' && " for one in hidden)
        command = ["unshare", "-m", "sh", "-c", f'{mounts}exec "$@"', "sh", *ray] if hidden else ray
        log = (self.folder / f"{ip}.log").open("wb")
        with log:
            process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **self.environment},
                start_new_session=True, cwd=self.folder,
            )  # fmt: skip
        node = Node(process, ip)
        self.nodes.append(node)
        return node

    def _wait(self, node: Node) -> None:
        until = time.monotonic() + STARTED_S
        while b"Ray runtime started" not in (said := (self.folder / f"{node.ip}.log").read_bytes()):
            assert node.process.poll() is None, said.decode()
            assert time.monotonic() < until, said.decode()
            time.sleep(0.1)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        for node in reversed(self.nodes):
            if node.process.poll() is None:
                node.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def _descendants(pid: int) -> list[int]:
    """The processes below one, children before theirs."""
    found, todo = [], [pid]
    while todo:
        at = todo.pop()
        for children in Path(f"/proc/{at}/task").glob("*/children"):
            below = [int(one) for one in _read(children).split()]
            found += below
            todo += below
    return found


def _read(file: Path) -> str:
    try:
        return file.read_text(errors="replace").replace("\0", " ")
    except OSError:
        return ""
