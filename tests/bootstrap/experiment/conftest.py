"""Experiments over the small loop: real steps, models of one layer, in the process of the test."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from blip_bootstrap.config import dump_yaml
from blip_bootstrap.experiment.file import read_experiment
from blip_bootstrap.experiment.plan import Job
from blip_bootstrap.experiment.run import Finished, run_experiment
from blip_bootstrap.loop import rounds
from blip_bootstrap.storage.files import write_whole
from tests.support import small_loop
from tests.support.small_world_runs import SmallRuns

ARMS: dict[str, Any] = {
    "none": {"round": 0},
    "human_only": {"control": "human_only"},
    "cf": {},
    "stricter": {"settings": {"select": {"itm_threshold": 0.7}}},
    "second": {"round": 2},
}


class SmallExperiments:
    """`runs.paid` is what was done; `root` is that of the experiments."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.root = folder, folder / "root"
        self.runs = SmallRuns(folder, patch)

        def train_controls(out: Path, *_: Path | None, config: Any) -> dict[str, float]:
            return self._controls(out, config)

        patch.setattr(rounds, "train_controls", train_controls)
        patch.setattr("blip_bootstrap.experiment.figures.evaluate", vars(rounds)["evaluate"])
        world = yaml.safe_load(dump_yaml(small_loop.config_of(folder / "root", self.runs.given)))
        world["controls"]["arms"] = []
        (folder / "world.yaml").write_text(yaml.safe_dump(world))

    def job(self, **more: Any) -> Job:
        """The job of an experiment, whose fields `more` gives."""
        told: dict[str, Any] = {
            "name": "small",
            "question": "Which?",
            "world": str(self.folder / "world.yaml"),
            "seeds": [0, 1],
        }
        told |= {"metrics": ["cider"], "arms": ARMS, **more}
        path = self.folder / "small.yaml"
        path.write_text(yaml.safe_dump(told, sort_keys=False))
        return Job(read_experiment(str(path)), self.root)

    def run(self, job: Job, seeds: Sequence[int] = (0,), names: Sequence[str] = (), say: Any = None) -> Finished:
        """Run it; `runs.paid` has what was done for it."""
        self.runs.paid.clear()
        every = tuple(names or job.experiment.arms)
        return run_experiment(job, seeds, every, job.experiment.split, 1, say or (lambda line: None))

    def trained(self) -> list[str]:
        """What was trained, in order: the steps' names, once for each training."""
        found = [what.rpartition(" ")[0] for kind, what in self.runs.paid if kind == "step"]
        return [one.partition("/")[0] for one in dict.fromkeys(found)]

    def _controls(self, out: Path, config: Any) -> dict[str, float]:
        for arm in config.arms:
            (out / arm / "model").mkdir(parents=True, exist_ok=True)
            write_whole(out / arm / "model/config.json", "{}")
            write_whole(out / arm / "metrics.json", json.dumps({"cider": 0.5}))
            self.runs.paid.append(("step", f"train_controls/{arm} 0"))
        return {"cider": 0.5}


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallExperiments:
    return SmallExperiments(tmp_path, monkeypatch)
