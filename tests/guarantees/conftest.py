"""One undisturbed run, which every suite of this folder compares with."""

from __future__ import annotations

import pytest

from tests.guarantees.points import Undisturbed, undisturbed_run


@pytest.fixture(scope="session")
def right(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return undisturbed_run(tmp_path_factory.mktemp("undisturbed"))
