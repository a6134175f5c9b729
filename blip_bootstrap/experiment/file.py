"""An experiment as its YAML file says it: the question, the arms, the seeds, and what is compared."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, FiniteFloat, ValidationError

from blip_bootstrap.config import Count, NonNegative, Section, SeedNumber, read_yaml
from blip_bootstrap.errors import ConfigError, InputError
from blip_bootstrap.experiment.mistakes import in_one_line, unknown

Control = Literal["human_only", "captioner_only", "filter_only", "oracle", "paper_rule"]

CONTROLS: tuple[Control, ...] = ("human_only", "captioner_only", "filter_only", "oracle", "paper_rule")
"""In the order in which a round trains them, whatever order a file has: it is part of their recipe."""

Split = Literal["held_out", "validation"]

SPLITS: tuple[Split, ...] = ("held_out", "validation")

BUILTIN = "builtin"

A_NAME = "a name is of letters, digits, _ and -, the first not a -"


class Draw(Section):
    """What a seed draws anew of a world that lies in files; the built-in world is drawn anew as a whole."""

    human: Count | None = Field(None, description="so many lines of the human set; the others are its validation set")
    web: Count | None = Field(None, description="so many rows of each URL list")


class Arm(Section):
    """One arm: the model of a round, or one of the round's controls, under settings of its own."""

    says: str = Field("", description="what the arm is, in a few words, for tables and pages")
    round: NonNegative = Field(1, description="the round whose model is measured; those before it are run, too")
    control: Control | None = Field(None, description="a control of that round in place of its own model")
    settings: Mapping[str, Any] = Field({}, description="settings of this arm, laid over those of all arms")
    world_settings: Mapping[str, Any] = Field({}, description="settings of the built-in world for this arm")
    more_steps: bool = Field(False, description="the arm may have another budget than the others; the result says so")


class Stop(Section):
    """When a series of rounds ends: where a round gains no more than the seeds differ."""

    arms: tuple[str, ...] = Field(description="the arms in the order of their rounds")
    metric: str = "cider"
    split: Split = Field("validation", description="what the rule looks at; figures are of the experiment's own split")
    go_on: bool = Field(False, description="run all rounds all the same, and only say where the rule stops")


class Curve(Section):
    """What the page draws as curves: figures over a number, such as a share of noise."""

    x: str = Field(description="what the number is, with its unit")
    lines: Mapping[str, Mapping[FiniteFloat, str]] = Field(description="for each curve the arm at each number")


class Experiment(Section):
    """Arms by seeds over one world, with one budget."""

    name: str = Field(description="its name, also of its files")
    question: str = Field(description="what it asks, in one sentence")
    world: str = Field(BUILTIN, description="builtin, or the path of a configuration, as configs/flickr8k.yaml")
    draw: Draw = Draw()
    seeds: tuple[SeedNumber, ...] = (0, 1, 2)
    split: Split = Field("held_out", description="which pictures the figures are of")
    validation: Path | None = Field(None, description="the annotated set of the split validation, for a world in files")
    settings: Mapping[str, Any] = Field({}, description="settings of every arm, laid over the world's")
    world_settings: Mapping[str, Any] = Field({}, description="settings of the built-in world for every arm")
    arms: Mapping[str, Arm]
    metrics: tuple[str, ...] = Field(("cider", "tr1", "ir1"), description="figures that are printed and drawn")
    compare: tuple[tuple[str, str], ...] = Field(
        (), description="pairs of arms whose differences are told, seed by seed"
    )
    budget: Literal["equal", "free"] = Field(
        "equal", description="equal: optimizer steps, batch and share of human pairs are the same in all arms"
    )
    stop: Stop | None = None
    curve: Curve | None = None
    remarks: tuple[str, ...] = Field(
        (), description="what a reader of the figures has to know, such as what was not run"
    )

    @property
    def is_builtin(self) -> bool:
        """Whether it runs on the built-in world."""
        return self.world == BUILTIN


def shipped() -> dict[str, Path]:
    """The experiments that come with the package, by name."""
    found = (Path(str(one)) for one in files("blip_bootstrap.experiment").joinpath("shipped").iterdir())
    return {path.stem: path for path in sorted(found) if path.suffix == ".yaml"}


def read_experiment(name: str) -> Experiment:
    """The experiment in a YAML file, or of a shipped name.

    Raises ConfigError with one line for each mistake, InputError where there is no such file.
    """
    path = Path(name)
    if not path.is_file() and not path.suffix:
        known = shipped()
        if name not in known:
            raise InputError(f"{name}: no such file, and no experiment that is shipped; {unknown(name, known)}")
        path = known[name]
    try:
        found = Experiment.model_validate(read_yaml(path))
    except ValidationError as error:
        raise ConfigError([f"{path.name}: {in_one_line(dict(one), Experiment)}" for one in error.errors()]) from error
    if mistakes := _mistakes(found):
        raise ConfigError([f"{path.name}: {one}" for one in mistakes])
    return found


def _mistakes(experiment: Experiment) -> list[str]:
    """What does not fit together in a file whose fields are right by themselves."""
    arms = experiment.arms
    found = [] if _is_name(experiment.name) else [f"name: {A_NAME} (got {experiment.name!r})"]
    named = [(f"compare.{at}", one) for at, pair in enumerate(experiment.compare) for one in pair]
    named += [("stop.arms", one) for one in (experiment.stop.arms if experiment.stop else ())]
    lines = experiment.curve.lines if experiment.curve else {}
    named += [(f"curve.lines.{name}", arm) for name, line in lines.items() for arm in line.values()]
    found += [f"{where}: there is no arm {one}; {unknown(one, arms)}" for where, one in named if one not in arms]
    found += [
        f"{name}: at least one is needed" for name in ("arms", "seeds", "metrics") if not getattr(experiment, name)
    ]
    found += [f"arms.{name}: {A_NAME}" for name in arms if not _is_name(name)]
    return found + _twice(experiment) + _of_the_world(experiment)


def _twice(experiment: Experiment) -> list[str]:
    """What is there twice, or is compared with itself, where each has to be another."""
    lists = {name: getattr(experiment, name) for name in ("seeds", "metrics", "compare")}
    if experiment.stop:
        lists["stop.arms"] = experiment.stop.arms
    found = [
        f"{name}: {_shown(one)} is there twice"
        for name, every in lists.items()
        for one in every
        if every.count(one) > 1
    ]
    found += [f"compare.{at}: {a} is compared with itself" for at, (a, b) in enumerate(experiment.compare) if a == b]
    if experiment.stop and len(experiment.stop.arms) < 2:
        found.append("stop.arms: two at least are needed, the rounds in their order")
    return list(dict.fromkeys(found))


def _shown(one: object) -> str:
    return f"[{', '.join(one)}]" if isinstance(one, tuple) else str(one)


def _of_the_world(experiment: Experiment) -> list[str]:
    """What is asked of another kind of world, and controls of the round that has none."""
    found = []
    for name, arm in experiment.arms.items():
        if arm.control and arm.round == 0:
            found.append(f"arms.{name}.control: round 0 has no controls; give the round whose control it is")
        if arm.world_settings and not experiment.is_builtin:
            found.append(f"arms.{name}.world_settings: are of the built-in world, and world is {experiment.world}")
    if experiment.world_settings and not experiment.is_builtin:
        found.append(f"world_settings: are of the built-in world, and world is {experiment.world}")
    if experiment.is_builtin and (experiment.draw != Draw() or experiment.validation):
        name = "draw" if experiment.draw != Draw() else "validation"
        found.append(f"{name}: is of a world in files; each seed draws the built-in world anew as a whole")
    return found


def _is_name(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]*", name) is not None
