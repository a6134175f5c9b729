from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from blip_pipelines.ingest import download
from tests.pipelines.lists.growing_lists import Run, Web
from tests.support import decoded_here
from tests.support.tiny_pipeline import serving


@pytest.fixture
def web() -> Iterator[Web]:
    with serving(Web()) as server:
        yield server


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Pictures are decoded here: a part would start a process for the few of its own."""
    monkeypatch.setattr(download, "WebStore", decoded_here.Here(decoded_here.web))
    return Run(tmp_path)
