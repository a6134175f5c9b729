"""What every test needs before torch and ray are imported, and where optional real data lies."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ |= {
    "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads make tiny models many times slower on a shared machine
    "GOMP_SPINCOUNT": "0",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
}

for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):  # the tests' servers are on this machine
    os.environ.pop(name, None)
    os.environ.pop(name.upper(), None)

# Fixtures that the tests of several rooms share.
pytest_plugins = [
    "tests.support.finished_run",
    "tests.support.registered",
    "tests.support.tiny_pipeline",
    "tests.support.tiny_training",
]

# Started in the background of a shell, pytest has SIGINT ignored, and every process that it starts would too.
signal.signal(signal.SIGINT, signal.default_int_handler)

REAL_DATA = Path(os.environ.get("BLIP_BOOTSTRAP_DATA", Path(__file__).parents[2] / "shared" / "data"))


def pytest_configure(config: pytest.Config) -> None:
    """With pytest-xdist, files go to its workers in their own order.

    By itself it takes those of many tests first, and so last those of one that takes a minute (a compiled training),
    while the other workers have nothing left to do.
    """
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_sessionstart() -> None:
    """After the environment above is set: this imports torch."""
    from tests.support.shapes import check_shapes

    check_shapes()


@pytest.fixture(autouse=True)
def _no_commits_of_other_tests() -> Iterator[None]:
    """Hub models that a test opens are pinned in the environment, for its workers."""
    yield
    os.environ.pop("BLIP_BOOTSTRAP_HUB_COMMITS", None)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real photographs and alt texts, which the repository does not contain; skips where they are absent."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"no real data at {REAL_DATA} (set BLIP_BOOTSTRAP_DATA)")
    return REAL_DATA
