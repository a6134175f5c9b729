"""What an experiment makes: its arms in groups, each one run of the loop, checked before anything is made."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from blip_bootstrap.config import Config, config_of, read_yaml
from blip_bootstrap.demo.run import vision_start_folder
from blip_bootstrap.demo.settings import demo_config
from blip_bootstrap.errors import ConfigError
from blip_bootstrap.experiment.file import CONTROLS, Arm, Experiment
from blip_bootstrap.experiment.mistakes import unknown
from blip_bootstrap.loop.check import check_config
from blip_bootstrap.loop.input_paths import missing_paths
from blip_bootstrap.storage.run_folder import flat
from blip_bootstrap.world.world import World, WorldConfig

OF_AN_ARM = re.compile(r'"arm:([A-Za-z0-9_-]+)/([a-z_]+)"')
"""A model of another arm as a setting's value, in JSON: `"arm:cf/captioner"`."""

OURS = ("root", "seed", "controls.arms", "held_out.path")
"""Settings that an experiment gives itself."""


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

    def groups(self, names: Collection[str] | None = None) -> list[Group]:
        """The groups that make the arms `names` (None: all), and those that they need, each after what it needs.

        The controls of a round are one artifact, so that a group has all of them where one is asked for.
        """
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

    def _world_data(self, group: Group, seed: int) -> dict[str, Any]:
        """What the world's configuration holds before the arm's settings."""
        if not self.experiment.is_builtin:
            return read_yaml(Path(self.experiment.world))
        root = self.folder(group, seed)
        world = World(folder=root / "world", port=1, config=self.world_config(group, seed))
        return demo_config(root, world, vision_start_folder(world))


def check_job(job: Job) -> None:
    """Raise ConfigError with one line for each mistake that shows before anything is made."""
    mistakes = [*_references(job)]
    known: set[str] = set()
    layers = [("settings", Job(_without_arms(job.experiment), job.root)),
              ("--set", Job(_without_arms(job.experiment), job.root, job.given))]  # fmt: skip
    for where, layer in layers:
        mistakes += _of_layer(layer, "one", where, known)
    for name in job.experiment.arms:
        mistakes += _of_layer(job, name, f"arms.{name}", known)
    if not mistakes:
        mistakes += [*_budget(job)]
    if mistakes:
        raise ConfigError(list(dict.fromkeys(mistakes)))


def _without_arms(experiment: Experiment) -> Experiment:
    """The experiment with one arm that sets nothing, to find the mistakes that all arms share."""
    last = max(arm.round for arm in experiment.arms.values())
    return experiment.model_copy(update={"arms": {"one": Arm(round=last)}})


def _of_layer(job: Job, name: str, where: str, known: set[str]) -> Iterator[str]:
    """The mistakes of one arm that are not known yet; they are known afterwards."""
    arm = job.experiment.arms[name]
    found = [f"{one} is the experiment's own; {_instead(one)}" for one in _ours(job.settings_of(arm))]
    try:
        group = Group((name,), job.settings_of(arm), world_settings_of(job.experiment, arm), arm.round, frozenset())
        if of_world := _world_mistakes(group):
            found, group = found + of_world, replace(group, world_settings="{}")
        config = job.config(group, job.experiment.seeds[0])
        found += _of_rounds(job, config, arm.round)
    except ConfigError as error:
        found += [one.removeprefix("--set ") for one in error.mistakes]
    for one in found:
        if one not in known:
            known.add(one)
            yield f"{where}: {one}"


def _of_rounds(job: Job, config: Config, last: int) -> Iterator[str]:
    """What the configuration lacks for the rounds up to `last`; the built-in world's files are not there yet."""
    for number in {last, *(one for one in config.rounds if one < last)}:
        own = config.of_round(number)
        not_yet = missing_paths(own, number) if job.experiment.is_builtin else []
        yield from (one for one in check_config(own, number) if one not in not_yet)


def _ours(settings: Sequence[str]) -> list[str]:
    names = [setting.partition("=")[0] for setting in settings]
    return [name for name in names if name in OURS or re.fullmatch(r"rounds\.\d+\.controls\.arms", name)]


def _instead(name: str) -> str:
    """What to write in place of a setting that an experiment gives itself."""
    if name.endswith("controls.arms"):
        return "give an arm `control: human_only`"
    return {"seed": "use seeds", "root": "use --root", "held_out.path": "use split"}[name]


def _world_mistakes(group: Group) -> list[str]:
    given = json.loads(group.world_settings)
    known = [name for name in WorldConfig.model_fields if name != "seed"]
    found = [f"world_settings.{name}: unknown key; {unknown(name, known)}" for name in given if name not in known]
    if found:
        return found
    try:
        WorldConfig.model_validate(given)
    except ValueError as error:
        return [f"world_settings: {' '.join(str(error).split())}"]
    return []


def _references(job: Job) -> Iterator[str]:
    """Models of arms that there are not, and arms that need each other."""
    arms = job.experiment.arms
    needs = {name: named_in(job.settings_of(arm)) for name, arm in arms.items()}
    for name, named in needs.items():
        yield from (f"arms.{name}: there is no arm {one}; {unknown(one, arms)}" for one in named if one not in arms)
    if any(one not in arms for named in needs.values() for one in named):
        return
    for name in arms:
        seen, todo = set[str](), set(needs[name])
        while todo - seen:
            seen |= (todo := todo - seen)
            todo = {one for at in todo for one in needs[at]}
        if name in seen:
            yield f"arms.{name}: needs a model of its own run (arm:{name}/...), which is not made before it"


def _budget(job: Job) -> Iterator[str]:
    """Arms whose models see more or fewer pictures than the others', and do not say so."""
    if job.experiment.budget == "free":
        return
    first: tuple[str, str] | None = None
    for name, arm in job.experiment.arms.items():
        if arm.more_steps:
            continue
        group = Group((name,), job.settings_of(arm), world_settings_of(job.experiment, arm), arm.round, frozenset())
        told = told_budget(job.config(group, job.experiment.seeds[0]), arm.round)
        if first and told != first[1]:
            yield (f"arms.{name}: trains on {told}, arm {first[0]} on {first[1]}; make them equal, or say "
                   "`more_steps: true` in the arm")  # fmt: skip
        first = first or (name, told)


def told_budget(config: Config, number: int) -> str:
    """Optimizer steps, pictures of each and the share of human pairs of a round's model, in words."""
    own = config.of_round(number).pretrain
    share = f", {own.human_share:.0%} of human pairs" if own.human_share else ""
    return f"{own.optimizer.steps} steps of {own.optimizer.batch_size} pictures{share}"


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
    """The arms of a group that are wanted, and all controls of a round of which one is."""
    rounds = {arms[name].round for name in group.arms if name in wanted and arms[name].control}
    kept = tuple(n for n in group.arms if n in wanted or (arms[n].control and arms[n].round in rounds))
    return Group(kept, group.settings, group.world_settings, max(arms[name].round for name in kept), group.after)
