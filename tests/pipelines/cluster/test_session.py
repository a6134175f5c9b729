from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from blip_bootstrap.config import RayConfig
from blip_bootstrap.errors import InputError, RunFailed
from blip_pipelines.cluster.resources import check_cpus, cluster_cpus, num_workers
from blip_pipelines.cluster.session import connect
from blip_pipelines.failures.errors import errors_in_one_line


@pytest.mark.ray
def test_connecting_twice_keeps_the_first(ray_config: RayConfig) -> None:
    import ray

    before = ray.get_runtime_context().get_job_id()
    connect(ray_config)
    assert ray.get_runtime_context().get_job_id() == before


@pytest.mark.ray
def test_cpus_are_checked(ray_config: RayConfig) -> None:
    total = cluster_cpus()
    assert total >= 4
    check_cpus(total - 1)
    with pytest.raises(RunFailed, match=r"needs .* CPUs for its actors and 1 for their input"):
        check_cpus(total - 0.5)


@pytest.mark.ray
def test_the_number_of_workers(ray_config: RayConfig) -> None:
    cluster = RayConfig(address="auto")
    total = int(cluster_cpus())
    assert num_workers(cluster, 0, cpus_each=1) == total - 1
    assert num_workers(cluster, 0, cpus_each=0.5) == 2 * (total - 1)
    assert num_workers(cluster, 0, cpus_each=1, at_most=2) == 2
    assert num_workers(cluster, 0, cpus_each=100) == 1
    assert num_workers(cluster, 3, cpus_each=1) == 3


def _fail(batch: object) -> object:
    raise InputError("list.tsv: no column 'url'")


def _break(batch: object) -> object:
    nothing: dict[str, object] = {}
    return nothing["nothing here"]


@pytest.mark.ray
def test_errors_of_workers_arrive_in_one_line(ray_config: RayConfig) -> None:
    import ray

    with pytest.raises(InputError) as ours, errors_in_one_line("test"):
        ray.get(ray.remote(_fail).remote(0))
    assert str(ours.value) == "list.tsv: no column 'url'"
    with pytest.raises(RunFailed) as other, errors_in_one_line("test"):
        ray.get(ray.remote(_break).remote(0))
    assert str(other.value) == "test: KeyError: 'nothing here'; run again to go on"


def test_a_cluster_that_is_not_there() -> None:
    code = (
        "from blip_bootstrap.config import RayConfig\nfrom blip_pipelines.cluster.session import connect\n"
        "from blip_bootstrap.errors import RunFailed\n"
        "try: connect(RayConfig(address='127.0.0.1:1'))\nexcept RunFailed as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=180)
    assert "no cluster answers at 127.0.0.1:1 ([Errno 111] Connection refused)" in done.stdout
    assert "use --ray local" in done.stdout


@pytest.mark.ray
def test_a_local_ray_that_does_not_start(tmp_path: Path) -> None:
    """Its sockets' paths are too long here."""
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    code = (
        "from blip_bootstrap.config import RayConfig\nfrom blip_pipelines.cluster.session import connect\n"
        "from blip_bootstrap.errors import RunFailed\n"
        "try: connect(RayConfig())\nexcept RunFailed as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env=os.environ | {"RAY_TMPDIR": str(folder)},
        capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    assert done.stdout.startswith("ray: a local Ray did not start (")
    assert "cannot exceed" in done.stdout
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


INTERRUPTED = """
import sys, time
from pathlib import Path
from blip_bootstrap.config import RayConfig
from blip_bootstrap.progress import Progress
from blip_pipelines.cluster.items import Pool, run_items
from blip_pipelines.cluster.session import connect

def main(marker):
    def work(*, tally):
        def wait(item):
            Path(marker).touch()
            time.sleep(60)
            return [item]
        return wait

    connect(RayConfig(object_store_bytes=100_000_000))
    with Progress("test", 1, "rows") as progress:
        run_items("test", [0], work, Pool(1), print, progress, {})

try:
    main(sys.argv[1])
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.ray
def test_an_interrupt_comes_through(tmp_path: Path) -> None:
    marker = tmp_path / "working"
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", INTERRUPTED, str(marker)], stderr=subprocess.DEVNULL
    )
    while not marker.exists():
        assert child.poll() is None
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    assert child.wait(timeout=180) == 130


STOPPED = """
import os, signal, time
from blip_bootstrap.config import RayConfig
from blip_pipelines.cluster import ray_session
from blip_pipelines.cluster.session import connect

ray_session.SHUTDOWN_S = 1.0
connect(RayConfig(object_store_bytes=100_000_000))
import psutil, ray

ray.get(ray.remote(lambda: 0).remote())
time.sleep(2)  # Ray's threads ask the head for this and that first, and wait 60 s for it
below = psutil.Process().children(recursive=True)
(head,) = [child for child in below if child.name() == "gcs_server"]
print(*[f"{child.pid}@{child.create_time()}" for child in below], flush=True)
head.suspend()
"""


@pytest.mark.ray
@pytest.mark.parametrize("agents_too", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_process_ends_where_ray_does_not_answer(agents_too: bool) -> None:
    """Its head stands still, and ray.shutdown, which Ray calls at the end of a process too, has no deadline.

    Ray's agents try for a minute to tell their head that the raylet is gone, then they end, too.
    """
    command = [sys.executable, "-W", "ignore", "-c", STOPPED]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=120, check=False)
    assert done.returncode == 0
    rays = done.stdout.split()
    assert len(rays) > 2
    end = time.monotonic() + 120
    while any(agents_too or not ended_agent(one) for one in filter(None, map(still_there, rays))):
        assert time.monotonic() < end, "processes of a local Ray are left over"
        time.sleep(0.1)


def still_there(told: str) -> psutil.Process | None:
    """The process of a number and a start, as PID@SECONDS; its number may be another's by now."""
    pid, started = told.split("@")
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(int(pid))
        return process if process.create_time() == float(started) else None
    return None


def ended_agent(process: psutil.Process) -> bool:
    """Whether it is an agent of Ray, which is then killed."""
    with suppress(psutil.NoSuchProcess):
        if any(name in "".join(process.cmdline()) for name in ("DashboardAgent", "RuntimeEnvAgent")):
            process.kill()
            return True
    return False
