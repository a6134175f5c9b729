"""Counts from Ray workers: each step's own, in one actor."""

from __future__ import annotations

import pytest

from blip_bootstrap.config import RayConfig
from blip_pipelines.cluster.ray_tally import start_tally
from blip_pipelines.cluster.session import connect


@pytest.mark.ray
def test_tallies_of_one_driver_are_apart_and_share_an_actor(ray_config: RayConfig) -> None:
    connect(ray_config)
    one, other = start_tally(), start_tally()
    one.put("a", {"images": 1})
    one.put("b", {"images": 2, "success": 1})
    one.put("a", {"images": 3})  # done again: replaces what was there
    other.put("a", {"images": 10})
    assert one.total() == {"images": 5, "success": 1}
    assert other.total() == {"images": 10}
    assert one._actor is other._actor
    one.forget()
    assert one.total() == {}
    assert other.total() == {"images": 10}
