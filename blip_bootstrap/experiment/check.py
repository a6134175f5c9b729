"""What is wrong with an experiment, told before anything is made."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from blip_bootstrap.config import Config, PretrainConfig, config_of, read_yaml
from blip_bootstrap.errors import CheckpointError, ConfigError
from blip_bootstrap.experiment.draw import check_draw
from blip_bootstrap.experiment.figures import has_model
from blip_bootstrap.experiment.file import Arm, Experiment
from blip_bootstrap.experiment.mistakes import unknown
from blip_bootstrap.experiment.plan import OF_AN_ARM, Group, Job, named_in
from blip_bootstrap.loop.check import check_config
from blip_bootstrap.loop.given import given_models
from blip_bootstrap.loop.input_paths import missing_paths
from blip_bootstrap.loop.layout import Artifact, Layout
from blip_bootstrap.world.world import WorldConfig
from blip_training.runtime.sources import is_here, resolve_source

OURS = ("root", "seed", "controls.arms", "held_out.path")
"""Settings that an experiment gives itself."""

KINDS = ("captioner", "filter", "model")
"""Models of an arm's run that settings of other arms may name."""

LIKE_AN_ARM = re.compile(r'"(arm:[^"]*)"')
"""What looks like a model of another arm, in JSON, whether or not it is one."""


def check_job(job: Job) -> None:
    """Raise ConfigError with one line for each mistake that shows before anything is made."""
    mistakes = [*_references(job)]
    known: set[str] = set()
    mistakes += _of_world(job, known)
    layers = [("settings", Job(_without_arms(job.experiment), job.root)),
              ("--set", Job(_without_arms(job.experiment), job.root, job.given))]  # fmt: skip
    for where, layer in layers:
        mistakes += _of_layer(layer, "one", where, known)
    for name in job.experiment.arms:
        mistakes += _of_layer(job, name, f"arms.{name}", known)
    if not mistakes:
        mistakes += [*_models(job), *_given(job), *_files(job), *_budget(job)]
    if mistakes:
        raise ConfigError(list(dict.fromkeys(mistakes)))


def _of_world(job: Job, known: set[str]) -> Iterator[str]:
    """The mistakes of the world's own file; what it lacks the settings of the experiment may give."""
    world = job.experiment.world
    if job.experiment.is_builtin:
        return
    try:
        config_of(read_yaml(Path(world)))
    except ConfigError as error:
        known.update(error.mistakes)
        yield from (f"world: {world}: {one}" for one in error.mistakes)


def _without_arms(experiment: Experiment) -> Experiment:
    """The experiment with one arm that sets nothing, to find the mistakes that all arms share."""
    last = max(arm.round for arm in experiment.arms.values())
    return experiment.model_copy(update={"arms": {"one": Arm(round=last)}})


def _of_layer(job: Job, name: str, where: str, known: set[str]) -> Iterator[str]:
    """The mistakes of one arm that are not known yet; they are known afterwards."""
    arm = job.experiment.arms[name]
    found = [f"{one} is the experiment's own; {_instead(one)}" for one in _ours(job.settings_of(arm))]
    try:
        group = job.alone(name)
        if of_world := _world_mistakes(group):
            found, group = found + of_world, replace(group, world_settings="{}")
        config = job.config(group, job.experiment.seeds[0])
        found += [*_of_rounds(job, config, arm.round), *_of_control(config, arm)]
    except ConfigError as error:
        found += [one.removeprefix("--set ") for one in error.mistakes]
    for one in found:
        if one not in known:
            known.add(one)
            yield f"{where}: {one}"


def _of_rounds(job: Job, config: Config, last: int) -> Iterator[str]:
    """What the configuration lacks for the rounds up to `last`; the built-in world's files are not there yet."""
    for number in _rounds_of(config, last):
        own = config.of_round(number)
        not_yet = missing_paths(own, number) if job.experiment.is_builtin else []
        yield from (one for one in check_config(own, number) if one not in not_yet)


def _rounds_of(config: Config, last: int) -> list[int]:
    """The last round, and those before it that have settings of their own."""
    return [last, *(one for one in config.rounds if one < last)]


def _of_control(config: Config, arm: Arm) -> Iterator[str]:
    """Why the round of a control trains none; it would only come out at its end."""
    if arm.control and not has_model(config, arm):
        yield f"control: {arm.control} is a model, and this world trains none or has no pictures to measure it on"


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
    for name, arm in arms.items():
        named = [one for setting in job.settings_of(arm) for one in LIKE_AN_ARM.findall(setting)]
        yield from (f"arms.{name}: {one}: write arm:NAME/{'|'.join(KINDS)}" for one in named if not _names_a_model(one))
        yield from (f"arms.{name}: there is no arm {one}; {unknown(one, arms)}" for one in needs[name] - {*arms})
    if any(one not in arms for named in needs.values() for one in named):
        return
    told = set[str]()
    for name in arms:
        if name in told or not (around := _way_back(needs, name)):
            continue
        told |= {*around}
        if around == [name]:
            yield f"arms.{name}: needs a model of its own run (arm:{name}/...), which is not made before it"
        else:
            way = ", which needs one of ".join([*around[1:], name])
            yield f"arms.{name}: needs a model of {way}: none of them can be made first"


def _way_back(needs: Mapping[str, Collection[str]], name: str) -> list[str]:
    """The arms on the shortest way from an arm over those it needs back to itself; none where there is none."""
    ways, seen = [[name]], set[str]()
    for way in ways:  # grows meanwhile
        for one in sorted(needs[way[-1]]):
            if one == name:
                return way
            if one not in seen:
                seen.add(one)
                ways.append([*way, one])
    return []


def _names_a_model(text: str) -> bool:
    return text.rpartition("/")[2] in KINDS and OF_AN_ARM.fullmatch(json.dumps(text)) is not None


def _models(job: Job) -> Iterator[str]:
    """Models that are named of arms whose run makes none: round 0 has no captioner, and a given one is nobody's."""
    for name, arm in job.experiment.arms.items():
        for one, kind in dict.fromkeys(found for s in job.settings_of(arm) for found in OF_AN_ARM.findall(s)):
            at = Layout(
                job.config_of_arm(one, job.experiment.seeds[0]).of_round(number := job.experiment.arms[one].round),
                number,
            )
            made: Artifact | None = getattr(at, kind)
            if made is None or made.given:
                why = f"arm {one}, of round {number}, makes no {kind} of its own"
                yield f"arms.{name}: arm:{one}/{kind}: {why}; name another arm, or the model's path"


def _given(job: Job) -> Iterator[str]:
    """Models that settings give and that are not there; those of other arms, and of a world to be drawn, are to come.

    None is opened, and none fetched: a run does both before it trains.
    """
    seed = job.experiment.seeds[0]
    every = [(job.config_of_arm(name, seed), arm.round) for name, arm in job.experiment.arms.items()]
    named = [one for config, last in every for number in _rounds_of(config, last)
             for one in given_models(config.of_round(number), number)]  # fmt: skip
    for one in dict.fromkeys(named):
        is_to_come = one.source.startswith("arm:") or Path(one.source).is_relative_to(job.root)
        if is_to_come or not is_here(one.source):
            continue
        try:
            resolve_source(one.source, one.revision)
        except CheckpointError as error:
            yield f"{one.where}: {error}; give another, as by --set {one.where}=PATH"


def _files(job: Job) -> Iterator[str]:
    """What the files of the world lack for the draws of seeds, and for the split that is measured."""
    experiment = job.experiment
    if experiment.is_builtin:
        return
    splits = {experiment.split, *([experiment.stop.split] if experiment.stop else [])}
    if "validation" in splits and experiment.validation and not experiment.validation.is_file():
        yield f"validation: no such file: {experiment.validation}"
    elif "validation" in splits and not experiment.validation and not experiment.draw.human:
        yield "split validation: the world has no pictures for it; give validation: PATH, or draw.human"
    configs = {config.model_dump_json(include={"human", "download"}): config for config in _every_config(job)}
    with_rest = "validation" in splits and not experiment.validation
    yield from (line for config in configs.values() for line in check_draw(config, experiment.draw, with_rest))


def _every_config(job: Job) -> Iterator[Config]:
    yield from (
        job.config_of_arm(name, job.experiment.seeds[0]).of_round(arm.round)
        for name, arm in job.experiment.arms.items()
    )


def _budget(job: Job) -> Iterator[str]:
    """Arms whose models see more or fewer pictures than the others', and do not say so."""
    if job.experiment.budget == "free":
        return
    first: tuple[str, str, tuple[float, ...]] | None = None
    for name, arm in job.experiment.arms.items():
        if arm.more_steps:
            continue
        own = job.config_of_arm(name, job.experiment.seeds[0]).of_round(arm.round).pretrain
        told, budget = told_budget(own), (own.optimizer.steps, own.optimizer.batch_size, own.human_share or 0.0)
        if first and budget != first[2]:
            yield (f"arms.{name}: trains on {told}, arm {first[0]} on {first[1]}; make them equal, or say "
                   "`more_steps: true` in the arm")  # fmt: skip
        first = first or (name, told, budget)


def told_budget(own: PretrainConfig) -> str:
    """Optimizer steps, pictures of each and the share of human pairs of a model, in words."""
    share = f", {own.human_share * 100:.6g} % of human pairs" if own.human_share else ""
    return f"{own.optimizer.steps} steps of {own.optimizer.batch_size} pictures{share}"
