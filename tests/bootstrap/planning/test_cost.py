"""The arithmetic of a plan."""

from __future__ import annotations

import heapq
import random
from dataclasses import replace

import pytest

from blip_bootstrap.config import Config
from blip_bootstrap.planning.annotated import cost_of_check
from blip_bootstrap.planning.cost import Cost, busiest, duration, for_people, plan_steps, size
from blip_bootstrap.schemas.shown_tables import PLAN

CAPTION = Cost(
    "caption + score", rows_per_image=3, bytes_per_image=200, seconds_per_image=0.1, bound_by="model", fixed_s=10,
    num_workers=2, unit=512, share=0.8, worker_bytes=10**9,
)  # fmt: skip
SELECT = Cost("select", 3, 40, 1e-6, "CPU", share=0.8, scales=False)
FAST_DISK = 1e12


def test_busiest_is_what_dealing_units_one_at_a_time_gives() -> None:
    rng = random.Random(0)
    for _ in range(500):
        images, workers, unit = rng.randint(1, 5_000), rng.randint(1, 9), rng.randint(1, 700)
        loads = [0] * workers
        left = images
        while left:
            taken = min(unit, left)
            heapq.heapreplace(loads, loads[0] + taken)
            left -= taken
        assert busiest(images, workers, unit) == max(loads)
    assert busiest(0, 3, 512) == 0


@pytest.mark.parametrize(
    ("pictures", "sizes", "checked"),
    [
        (300, {"human": 1_000, "held_out": 5_000}, 300),
        (300, {"held_out": 120}, 120),
        (0, {"human": 9}, 0),
        (300, {}, 0),
    ],
)
def test_checking_the_filter_costs_some_pictures_whatever_the_images(
    pictures: int, sizes: dict[str, int], checked: int
) -> None:
    config = Config.model_validate({"root": "run", "filter_check": {"pictures": pictures}})
    cost = cost_of_check(config, sizes, CAPTION)
    if not checked:
        assert cost is None
        return
    assert cost
    for images, workers in ((1_000, None), (10_000_000, 64)):
        check, caption = plan_steps([cost, CAPTION], images, workers, FAST_DISK).to_pylist()[:2]
        assert check["step"] == "filter_check"
        assert check["seconds"] == pytest.approx(10 + checked * 0.1)
        assert check["size_bytes"] == round(checked * 200 * 4 / 3), "one more text than an image has"
        assert check["device_hours"] == pytest.approx(check["seconds"] / 3600), "one worker"
        assert check["bound_by"] == "model"
    assert check["seconds"] < caption["seconds"] / 100


def test_a_plan_of_a_million_images() -> None:
    caption, select, all_steps = plan_steps([CAPTION, SELECT], 1_000_000, None, FAST_DISK).to_pylist()
    assert (caption["rows"], caption["size_bytes"]) == (2_400_000, 160_000_000)
    assert caption["seconds"] == pytest.approx(10 + 400_000 * 0.1, rel=2e-3)
    assert caption["device_hours"] == pytest.approx(2 * caption["seconds"] / 3600)
    assert (caption["memory_bytes"], caption["bound_by"]) == (2 * 10**9, "model")
    assert all_steps["seconds"] == pytest.approx(caption["seconds"] + select["seconds"])
    assert (all_steps["size_bytes"], all_steps["bound_by"]) == (192_000_000, "model (caption + score)")


def test_workers_divide_the_time_of_steps_that_scale() -> None:
    few, _, _ = plan_steps([CAPTION, SELECT], 10_000_000, 2, FAST_DISK).to_pylist()
    many, select, _ = plan_steps([CAPTION, SELECT], 10_000_000, 20, FAST_DISK).to_pylist()
    assert (few["seconds"] - 10) / (many["seconds"] - 10) == pytest.approx(10, rel=1e-2)
    assert many["memory_bytes"] == 10 * few["memory_bytes"]
    assert select["device_hours"] == pytest.approx(select["seconds"] / 3600)


def test_what_bounds_a_step() -> None:
    def bound(cost: Cost, images: int, disk: float = FAST_DISK) -> str:
        return str(plan_steps([cost], images, None, disk).to_pylist()[0]["bound_by"])

    assert bound(CAPTION, 100_000) == "model"
    assert bound(CAPTION, 50) == "start"
    assert bound(CAPTION, 100_000, disk=1_000.0) == "disk"
    assert bound(replace(CAPTION, bound_by="CPU decode"), 100_000) == "CPU decode"
    assert bound(Cost("pretrain", 0, 0, 0.0, "model", fixed_s=100), 100) == "model"


def test_for_people() -> None:
    table = for_people(plan_steps([CAPTION, SELECT], 1_000_000, None, FAST_DISK)).to_pylist()
    assert [row["step"] for row in table] == ["caption + score", "select", "all"]
    assert (table[0]["rows"], table[0]["disk"], table[0]["memory"]) == ("2,400,000", "160 MB", "2 GB")
    assert table[0]["time"] == "11 h 7 min"
    assert PLAN.schema.names == plan_steps([CAPTION], 1, None, FAST_DISK).schema.names


@pytest.mark.parametrize(
    ("size_bytes", "shown"), [(0, "0 B"), (999, "999 B"), (1_000, "1 kB"), (999_600, "1 MB"), (5e15, "5,000 TB")]
)
def test_sizes(size_bytes: float, shown: str) -> None:
    assert size(size_bytes) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.0123, "0.0123 s"),
        (119, "119 s"),
        (125, "2 min"),
        (3_590, "1 h 0 min"),
        (7_200, "2 h 0 min"),
        (2e5, "2 d 7 h"),
    ],
)
def test_durations(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown
