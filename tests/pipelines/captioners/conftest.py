from __future__ import annotations

import pytest


@pytest.fixture
def registered(registered_captioners: None) -> None:
    """The captioners of the tests."""
