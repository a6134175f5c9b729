"""SIGTERM to every process of a run at once, as batch systems send it, while a local Ray works."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.ray

RUN = """
import ctypes, sys, time
from functools import partial
from pathlib import Path
from blip_bootstrap.__main__ import _end, _prepare
from blip_bootstrap.config import RayConfig
from blip_bootstrap.ending import ended_early
from blip_bootstrap.progress import Progress
from blip_pipelines.cluster.items import Pool, run_items
from blip_pipelines.cluster.session import connect
from blip_pipelines.train.runner import Training, train

out, ray = Path(sys.argv[1]), RayConfig(object_store_bytes=100_000_000)

def main():
    def work():
        (out / "working").touch()
        time.sleep(120)
        return {}

    def hang():
        (out / "working").touch()
        ctypes.PyDLL(None).sleep(120)  # with the interpreter's lock

    def worker(*, tally):
        return lambda item: [work() if sys.argv[2] == "items" else hang()]

    if sys.argv[2] in ("items", "hanging items"):
        connect(ray)
        with Progress("caption", 1, "images") as progress:
            run_items("caption", [0], worker, Pool(1), print, progress, {})
    else:
        train(Training("pretrain", out, 1, work, int(sys.argv[2]), threads=1, device="cpu"), ray)

_prepare()
try:
    with ended_early("the same command goes on from here"):
        main()
except SystemExit as end:
    _end(end.code)
"""


LONG = [pytest.param(work, marks=pytest.mark.long) for work in ("items", "1", "2")]
"""An actor that answers, and trainings, which test_steps.py interrupts in the short tests."""


@pytest.mark.parametrize("work", ["hanging items", *LONG])
def test_it_ends_with_143_and_a_line(tmp_path: Path, work: str) -> None:
    """Items on actors, also on one that answers nobody; a training as a task, and as a TorchTrainer of two workers."""
    command = [sys.executable, "-W", "ignore", "-c", RUN, str(tmp_path), work]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as run:
        while not (tmp_path / "working").exists():
            assert run.poll() is None
            time.sleep(0.05)
        rays = psutil.Process(run.pid).children(recursive=True)
        os.killpg(run.pid, signal.SIGTERM)
        told = run.communicate(timeout=120)[1]
    assert (run.returncode, told.splitlines()[-1]) == (143, "terminated; the same command goes on from here")
    _, alive = psutil.wait_procs(rays, timeout=30)
    assert not alive
