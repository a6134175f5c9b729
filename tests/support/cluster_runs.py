"""Runs on a cluster of `two_nodes`, with their root on an S3 server, and what they are compared with."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from blip_bootstrap.query.questions import query
from blip_bootstrap.query.views import connect
from tests.support.small_world import command, small_config
from tests.support.two_nodes import Cluster, Node

URI = "s3://bucket/runs/mine"

TABLES = {
    "images": "SELECT * EXCLUDE (jpg, attempts, robots_txt, said_at), md5(jpg) AS jpg FROM images ORDER BY key",
    "human": "SELECT * EXCLUDE jpg, md5(jpg) AS jpg FROM human ORDER BY key",
    "captions": "SELECT * FROM captions ORDER BY ALL",
    "filter_check": "SELECT * FROM filter_check ORDER BY ALL",
    "pairs": "SELECT * FROM pairs ORDER BY ALL",
    # Without the clock's; a sum by several threads differs in the sixteenth digit.
    "metrics": "SELECT * REPLACE (round(value, 12) AS value) FROM metrics WHERE name NOT LIKE '%seconds%' ORDER BY ALL",
}

DOWNLOAD = """
import sys
from pathlib import Path
from blip_bootstrap import load_config
from blip_bootstrap.loop.rounds import run_download
run_download(load_config(Path(sys.argv[1])), print)
"""


def differences(one: Path | str, other: Path | str, tables: Mapping[str, str] = TABLES) -> list[str]:
    """The tables by which two runs differ; the first rows that do are printed."""
    found = []
    with connect(one) as left, connect(other) as right:
        for name, asked in tables.items():
            mine, theirs = query(left, asked), query(right, asked)
            if not mine.equals(theirs):
                found.append(name)
                rows = [pair for pair in zip(mine.to_pylist(), theirs.to_pylist(), strict=False) if pair[0] != pair[1]]
                print(f"{name}: {len(mine)} and {len(theirs)} rows, {len(rows)} differ", *rows[:2], sep="\n")
    return found


def download(config: Path) -> list[str]:
    """The command that makes the images alone."""
    return [sys.executable, "-c", DOWNLOAD, str(config)]


def rounds(config: Path, last: int) -> list[str]:
    return command("run", "--round", str(last), "--config", config)


def begun(asked: list[str], environment: Mapping[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        asked, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, **environment}
    )


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[None]:
    """End a command with the body, however that ends."""
    try:
        yield
    except BaseException:
        process.kill()
        raise
    finally:
        process.wait()
        if process.stdout:
            process.stdout.close()


def said(process: subprocess.Popen[str], timeout_s: float = 900) -> str:
    """What a command says until it ends; it ends well."""
    told, _ = process.communicate(timeout=timeout_s)
    assert process.returncode == 0, told
    return told


def written(config: dict[str, Any], folder: Path, name: str, root: Path | str, address: str) -> Path:
    """A configuration with another root and cluster, as a file."""
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump({**config, "root": str(root), "ray": {"address": address}}))
    return file


class Killer:
    """Kills workers that are at work, on a timer, and nodes when it is told to."""

    def __init__(self, cluster: Cluster, seed: int = 0) -> None:
        self.cluster, self.chance = cluster, random.Random(seed)
        self.workers: list[str] = []
        self.nodes: list[str] = []
        self._ends, self._step = threading.Event(), ("", 0)

    def at(self, step: str) -> None:
        """The run has got to a step: in each one worker is killed at most, since a training starts again thrice."""
        self._step = step, 0

    def worker(self) -> bool:
        """Kill one worker of any node; whether there was one."""
        busy = [pid for node in self.alive() for pid in node.workers()]
        if not busy:
            return False
        pid = self.chance.choice(busy)
        title = Path(f"/proc/{pid}/cmdline")
        try:
            told = title.read_text().partition("\0")[0]
            os.kill(pid, 9)
        except OSError:
            return False
        self.workers.append(told)
        return True

    def node(self, one: Node) -> None:
        """Kill a node."""
        self.nodes.append(one.ip)
        one.kill()

    def alive(self) -> list[Node]:
        """The nodes beside the head that run."""
        return [one for one in self.cluster.nodes[1:] if one.process.poll() is None]

    @contextmanager
    def every(self, seconds: float) -> Iterator[None]:
        """Kill a worker every so many seconds while the body runs."""

        def work() -> None:
            while not self._ends.wait(seconds):
                step, kills = self._step
                if not kills and self.worker() and self._step[0] == step:
                    self._step = step, 1

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ends.set()
            thread.join()


def until(what: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Wait until something is so."""
    end = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[tuple[dict[str, Any], Path]]:
    """A configuration for few pictures in small shards, and where it lies; its pictures are served."""
    config, server = small_config(tmp_path / "local", tmp_path / "world", num_web=96)
    config["download"]["rows_per_shard"] = 12
    with server:
        yield config, tmp_path
