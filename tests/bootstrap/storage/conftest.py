from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bootstrap.storage.store_runs import URI, stub_on
from tests.support.moto_store import Bucket, environment, moto_server
from tests.support.stub_rounds import StubRounds


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with moto_server() as found:
        yield found


@pytest.fixture
def bucket(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """The bucket, empty, and an empty cache."""
    for name, value in environment(endpoint, tmp_path / "cache").items():
        monkeypatch.setenv(name, value)
    found = Bucket(endpoint)
    found.clear()
    return found


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StubRounds:
    return stub_on(URI, tmp_path, monkeypatch)
