"""What Ray shows of our work: actors, tasks and processes have the names of steps, and not of classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from blip_bootstrap.config import RayConfig
from blip_bootstrap.progress import Progress
from blip_pipelines.cluster.items import Pool, run_items
from blip_pipelines.train.runner import Place, Training, run_tasks

pytestmark = pytest.mark.ray


def own_title() -> str:
    """The title of this process, as `ps` shows it."""
    return Path("/proc/self/cmdline").read_text().partition("\0")[0].strip()


def telling(tally: Any) -> Callable[[int], Iterator[tuple[str, str]]]:
    import ray

    def do(item: int) -> Iterator[tuple[str, str]]:
        yield str(ray.get_runtime_context().get_actor_name()), own_title()

    return do


def test_workers_are_called_as_their_step(ray_config: RayConfig) -> None:
    import ray

    found: list[tuple[str, str]] = []
    with Progress("caption", 4, "images") as progress:
        run_items("caption", range(4), telling, Pool(2, memory_bytes=1), found.append, progress, {})
    names = {name for name, _ in found}
    assert all(name.startswith("caption ") for name in names)
    assert {title for _, title in found} == {"ray::caption.do"}
    assert not names & set(ray.util.list_named_actors()), "they are gone with the step"


def test_trainings_are_called_as_they_are(ray_config: RayConfig, tmp_path: Path) -> None:
    def call() -> dict[str, str]:
        import ray

        return {"name": str(ray.get_runtime_context().get_task_name()), "title": own_title()}

    jobs = [Training("pretrain", tmp_path, 12, call), Training("evaluate", tmp_path, 0, call)]
    found = run_tasks(jobs, 1, Place("task"))
    assert found == [
        {"name": "train pretrain", "title": "ray::train pretrain"}, {"name": "evaluate", "title": "ray::evaluate"},
    ]  # fmt: skip
