"""The record of an arm: its figures, what they cost, and the artifacts that they rest on.

It lies under the root of the run of its seed, arms/EXPERIMENT/ARM.json (with the split, where it is not held_out), and
counts as the arm's result: an arm that has one is not run again, and `gc` deletes nothing that one names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from blip_bootstrap import __version__
from blip_bootstrap.config import Config, RayConfig
from blip_bootstrap.experiment.figures import figures_of, measured_name
from blip_bootstrap.experiment.file import Arm
from blip_bootstrap.experiment.plan import Job, named_in, world_settings_of
from blip_bootstrap.loop.arms import seconds_of_arm
from blip_bootstrap.loop.layout import Artifact, Layout
from blip_bootstrap.loop.whole import digest_of_input
from blip_bootstrap.storage.files import write_whole
from blip_bootstrap.storage.manifest import digest_of_path, digest_of_recipe, recipe_of
from blip_bootstrap.storage.run_folder import MANIFEST, manifest_path, read_json, read_pointers, round_name

FIGURES = 2
"""Increased when there are other figures than before: records are then made anew, of artifacts that are there."""

ARMS = "arms"
"""Under the root of a run: the records of arms."""

Record = dict[str, Any]


def record_file(root: Path, experiment: str, arm: str, split: str) -> Path:
    """Where the record of an arm lies."""
    name = arm if split == "held_out" else f"{arm}.{split}"
    return root / ARMS / experiment / f"{name}.json"


def key_of(job: Job, name: str, split: str) -> str:
    """What decides an arm's figures, as a digest: settings, world, round, split, and the arms whose models it has.

    Of a world in files also what they hold (`_inputs`); the built-in world is what its settings say.
    """
    experiment, told, todo, seen = job.experiment, [], [name], set[str]()
    while todo:
        arm = experiment.arms[one := todo.pop()]
        seen.add(one)
        settings = job.settings_of(arm)
        told.append([settings, world_settings_of(experiment, arm), arm.round, arm.control])
        todo += sorted(named_in(settings) - seen)
    whole = [told, experiment.world, experiment.draw.model_dump(), str(experiment.validation or ""), split, FIGURES]
    if not experiment.is_builtin:
        whole += [_inputs(job, one) for one in sorted(seen)]
        whole += [digest_of_path(experiment.validation)] if experiment.validation and split == "validation" else []
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()


def _inputs(job: Job, name: str) -> str:
    """What the configuration of an arm and the files that it names hold, as a digest; of all seeds the same."""
    if name not in job.inputs:
        number = job.experiment.arms[name].round
        config = job.config_of_arm(name, 0).model_copy(update={"root": Path(), "ray": RayConfig()})
        at = Layout(config.of_round(number), number)
        lists = [one for one in (*at.urls, at.human_list, at.held_out_list, at.truth) if one]
        digests = {one.name: digest_of_input(one, job.root) for one in lists}
        job.inputs[name] = digest_of_recipe(recipe_of("arm", config, digests))
    return job.inputs[name]


def read_record(path: Path, key: str, root: Path) -> Record | None:
    """The record of an arm that was made by the same settings, and whose artifacts are still there; else None."""
    found: Record | None = read_json(path)
    if not found or found.get("key") != key:
        return None
    there = (manifest_path(root / one["folder"]).is_file() for one in found["artifacts"].values())
    return found if all(there) else None


def make_record(
    root: Path, job: Job, name: str, seed: int, split: str, config: Config, measured: Path | None
) -> Record:
    """Write the record of an arm whose run is at its end; `measured` has the figures of its model, if it has one."""
    experiment, arm = job.experiment, job.experiment.arms[name]
    pointers = _pointers(root, arm, split, config)
    optimizer = config.of_round(arm.round).pretrain.optimizer
    record: Record = {
        "experiment": experiment.name, "arm": name, "seed": seed, "split": split, "round": arm.round,
        "control": arm.control, "key": key_of(job, name, split), "version": __version__,
        "steps": optimizer.steps, "pictures": optimizer.steps * optimizer.batch_size,
        "seconds": round(seconds_of(root, pointers, arm), 2),
        "model": _digest(root, arm), "artifacts": pointers,
        "figures": figures_of(root, arm, measured, experiment, split),
    }  # fmt: skip
    path = record_file(root, experiment.name, name, split)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(record, indent=1) + "\n")
    return record


def _pointers(root: Path, arm: Arm, split: str, config: Config) -> dict[str, dict[str, str]]:
    """The artifacts of the rounds up to an arm's that its settings ask for, and those of its own measuring."""
    found: dict[str, dict[str, str]] = {}
    for number in range(arm.round + 1):
        at = vars(Layout(config.of_round(number), number)).values()
        names = {one.name for one in at if isinstance(one, Artifact) and not one.given}
        names |= {split, measured_name(arm, split)} if number == arm.round else set()
        found |= {name: one for name, one in read_pointers(root, number).items() if name in names}
    return dict(sorted(found.items()))


def seconds_of(root: Path, pointers: Mapping[str, Mapping[str, str]], arm: Arm) -> float:
    """What making all that an arm rests on took, shared artifacts included; of a round's controls its own part.

    A round's own model does not rest on its controls, and neither on the checks and other rounds' evaluations.
    """
    controls = f"{round_name(arm.round)}/controls"
    total = 0.0
    for name, one in pointers.items():
        of_round = name.startswith(f"{round_name(arm.round)}/")
        if name.endswith("/controls"):
            total += seconds_of_arm(root, one["folder"], arm.control) if arm.control and name == controls else 0.0
        elif not (arm.control and of_round and name.rpartition("/")[2] in ("model", "evaluation")):
            total += float((read_json(root / one["folder"] / MANIFEST) or {}).get("seconds") or 0.0)
    return total


def _digest(root: Path, arm: Arm) -> str:
    """The digest of what made the model of an arm."""
    name = "controls" if arm.control else "model"
    manifest = read_json(root / round_name(arm.round) / name / MANIFEST) or {}
    return f"{str(manifest.get('content', ''))[:16]}{'/' + arm.control if arm.control else ''}"


def all_records(root: Path) -> Iterator[Record]:
    """The records of arms under the root of experiments, of each experiment, arm, seed and split the newest.

    An arm whose world's settings were others before has an older one in the folder of that world.
    """
    newest: dict[tuple[str, ...], tuple[int, Record]] = {}
    for pattern in ("seed-*", "world-*/seed-*"):
        for path in sorted(root.glob(f"{pattern}/{ARMS}/*/*.json")):
            if found := read_json(path):
                key = tuple(str(found[name]) for name in ("experiment", "arm", "seed", "split"))
                written = path.stat().st_mtime_ns
                if written >= newest.get(key, (0,))[0]:
                    newest[key] = written, found
    yield from (record for _, record in newest.values())
