"""Ray's token: a local Ray has one of its own, and a cluster that has one is joined with it alone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.ray
TOKEN = "a" * 64

LOCAL = """
import os, sys
from blip_bootstrap.config import RayConfig
from blip_pipelines.cluster.session import connect
connect(RayConfig(object_store_bytes=80_000_000, num_cpus=1))
import ray
assert ray.get(ray.remote(num_cpus=0)(lambda: os.getpid()).remote()) != os.getpid()
print(ray.get_runtime_context().gcs_address, os.environ["RAY_AUTH_MODE"], len(os.environ["RAY_AUTH_TOKEN"]), flush=True)
sys.stdin.read()
"""
JOIN = """
import sys
from blip_bootstrap.config import RayConfig
from blip_bootstrap.errors import RunFailed
from blip_pipelines.cluster.session import connect
try:
    connect(RayConfig(address=sys.argv[1]))
except RunFailed as error:
    sys.exit(str(error))
import ray
print(ray.get(ray.remote(num_cpus=0)(lambda: "joined").remote()))
"""


def environment(home: Path, **more: str) -> dict[str, str]:
    """As a user's: nothing of Ray set but what is given."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    return own | {"HOME": str(home), **more}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Ray with a token, which our own local one is, under a home where nothing can be written."""
    home = tmp_path_factory.mktemp("home") / "file"
    home.touch()
    command, given = [sys.executable, "-c", LOCAL], environment(home)
    with subprocess.Popen(
        command, env=given | {"RAY_AUTH_TOKEN": TOKEN}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as local:
        assert local.stdout
        found, mode, length = local.stdout.readline().split()
        assert (mode, length) == ("token", "64")
        yield found
        local.communicate()


def join(address: str, home: Path, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", JOIN, address]
    return subprocess.run(command, env=environment(home, **more), capture_output=True, text=True, timeout=120)


def test_a_local_ray_has_a_token_of_its_own(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOCAL], env=environment(tmp_path), input="", capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[1:] == ["token", "64"]
    assert done.stderr == ""
    assert not list(tmp_path.iterdir()), "the user's own token is not ours to make"


def test_a_cluster_is_joined_with_its_token(address: str, tmp_path: Path) -> None:
    by_environment = join(address, tmp_path, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN)
    assert (by_environment.stdout, by_environment.stderr) == ("joined\n", "")
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text(TOKEN)
    by_file = join(address, tmp_path, RAY_AUTH_MODE="token")
    assert (by_file.stdout, by_file.stderr) == ("joined\n", "")


@pytest.mark.parametrize("given", [pytest.param({}, marks=pytest.mark.long), {"RAY_AUTH_MODE": "token"}])
def test_another_token_is_told_in_one_line(address: str, tmp_path: Path, given: dict[str, str]) -> None:
    done = join(address, tmp_path, **given)
    why = f"ray: the cluster at {address} wants a token, and this process has none or another; set RAY_AUTH_MODE=token"
    assert done.returncode == 1
    assert done.stderr == f"{why}, and RAY_AUTH_TOKEN or ~/.ray/auth_token to its token\n"
