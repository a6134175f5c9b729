from __future__ import annotations

import pytest


@pytest.fixture
def registered(registered_judges: None) -> None:
    """The judges of the tests."""
