"""Drawn data that all tests of training read and none changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support.drawn import write_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
