"""A small built-in world, run once to round 1 through the command line, for every test of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import yaml

from tests.support.small_world import Run, blip, small_config


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("small")
    config, server = small_config(folder / "run", folder / "world")
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    with server:
        done = blip("run", "--round", "1", "--config", path)
        assert done.returncode == 0, done.stderr
        yield Run(folder / "run", path, done.stdout + done.stderr)
