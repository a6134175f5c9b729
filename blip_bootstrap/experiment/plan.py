"""What an experiment makes: its arms in groups, each one run of the loop."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from blip_bootstrap.config import Config, config_of, read_yaml
from blip_bootstrap.demo.run import vision_start_folder
from blip_bootstrap.demo.settings import demo_config
from blip_bootstrap.experiment.file import CONTROLS, Arm, Experiment
from blip_bootstrap.storage.run_folder import flat
from blip_bootstrap.world.world import World, WorldConfig

OF_AN_ARM = re.compile(r'"arm:([A-Za-z0-9_-]+)/([a-z_]+)"')
"""A model of another arm as a setting's value, in JSON: `"arm:cf/captioner"`."""


@dataclass(frozen=True)
class Group:
    """Arms that one run of the loop makes: equal settings over one world, up to the last of their rounds.

    `settings` are as after `--set`, values as JSON; `after` are the arms whose models they name.
    """

    arms: tuple[str, ...]
    settings: tuple[str, ...]
    world_settings: str
    last: int
    after: frozenset[str]


@dataclass(frozen=True)
class Job:
    """What of an experiment is to be made: under which root, by which arms, of which split, with what else set."""

    experiment: Experiment
    root: Path
    given: tuple[str, ...] = ()
    ray: str | None = None
    inputs: dict[str, str] = field(default_factory=dict, compare=False, repr=False)
    """Digests that were taken of the inputs of arms, by name."""

    def groups(self, names: Collection[str] | None = None) -> list[Group]:
        """The groups that make the arms `names` (None: all), and those that they need, each after what it needs."""
        arms = self.experiment.arms
        by_run: dict[tuple[tuple[str, ...], str], list[str]] = {}
        for name, arm in arms.items():
            by_run.setdefault((self.settings_of(arm), world_settings_of(self.experiment, arm)), []).append(name)
        every = [
            Group(tuple(found), settings, world, max(arms[one].round for one in found), named_in(settings))
            for (settings, world), found in by_run.items()
        ]
        wanted = set(arms if names is None else names)
        for group in reversed(list(_in_order(every))):
            wanted |= group.after if wanted & {*group.arms} else set()
        return [_only(group, wanted, arms) for group in _in_order(every) if wanted & {*group.arms}]

    def settings_of(self, arm: Arm) -> tuple[str, ...]:
        """The settings of an arm as after `--set`: those of all, its own, those of the command line."""
        own = {**flat(self.experiment.settings)}, {**flat(arm.settings)}
        return (*(f"{name}={json.dumps(value)}" for one in own for name, value in one.items()), *self.given)

    def folder(self, group: Group, seed: int) -> Path:
        """The root of the run of a seed; a world of other settings than all arms have has a folder of its own."""
        if group.world_settings == "{}":
            return self.root / f"seed-{seed}"
        words = re.sub(r"[^a-z0-9.]+", "-", group.world_settings.lower()).strip("-")[:32].rstrip("-")
        digest = hashlib.sha256(group.world_settings.encode()).hexdigest()[:6]
        return self.root / f"world-{words}-{digest}" / f"seed-{seed}"

    def world_config(self, group: Group, seed: int) -> WorldConfig:
        """The built-in world of a seed."""
        return WorldConfig.model_validate({"seed": seed, **json.loads(group.world_settings)})

    def loop_settings(self, group: Group, seed: int) -> list[str]:
        """The settings by which the loop runs, in which its controls are arms of this experiment."""
        arms = [self.experiment.arms[name] for name in group.arms]
        wanted = {number: {arm.control for arm in arms if arm.round == number} for number in {a.round for a in arms}}
        controls = {number: [one for one in CONTROLS if one in found] for number, found in wanted.items()}
        named = [f"rounds.{number}.controls.arms={json.dumps(found)}" for number, found in controls.items() if found]
        return [f"seed={seed}", *group.settings, "controls.arms=[]", *named]

    def config(self, group: Group, seed: int, settings: Sequence[str] = ()) -> Config:
        """The whole configuration of a group's run. Raises ConfigError."""
        root = self.folder(group, seed)
        return config_of(self._world_data(group, seed), [*self.loop_settings(group, seed), *settings],
                         root=root, ray__address=self.ray)  # fmt: skip

    def config_of_arm(self, name: str, seed: int) -> Config:
        """The whole configuration of the run of one arm. Raises ConfigError."""
        return self.config(self.alone(name), seed)

    def alone(self, name: str) -> Group:
        """An arm as a group of its own."""
        arm = self.experiment.arms[name]
        settings = self.settings_of(arm)
        return Group((name,), settings, world_settings_of(self.experiment, arm), arm.round, named_in(settings))

    def _world_data(self, group: Group, seed: int) -> dict[str, Any]:
        """What the world's configuration holds before the arm's settings."""
        if not self.experiment.is_builtin:
            return read_yaml(Path(self.experiment.world))
        root = self.folder(group, seed)
        world = World(folder=root / "world", port=1, config=self.world_config(group, seed))
        return demo_config(root, world, vision_start_folder(world))


def world_settings_of(experiment: Experiment, arm: Arm) -> str:
    """The settings of the world of an arm, as JSON."""
    return json.dumps({**experiment.world_settings, **arm.world_settings}, sort_keys=True)


def named_in(settings: Sequence[str]) -> frozenset[str]:
    """The arms whose models settings name."""
    return frozenset(found[1] for one in settings for found in OF_AN_ARM.finditer(one))


def _in_order(groups: Sequence[Group]) -> Iterator[Group]:
    """The groups, each after those whose arms it names; what cannot be put in order comes last, as it is."""
    left, made = [*groups], set[str]()
    while left:
        one = next((group for group in left if group.after - {*group.arms} <= made), left[0])
        left.remove(one)
        made |= {*one.arms}
        yield one


def _only(group: Group, wanted: Collection[str], arms: Mapping[str, Arm]) -> Group:
    """The arms of a group that are wanted."""
    kept = tuple(name for name in group.arms if name in wanted)
    return replace(group, arms=kept, last=max(arms[name].round for name in kept))
