"""Rounds that were made to their end, which stay as they are while later ones are made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from blip_bootstrap.loop.artifacts import damaged_files, is_made_by
from blip_bootstrap.loop.layout import Artifact
from blip_bootstrap.loop.maker import Step, changed_inputs, changed_settings, recipe_for
from blip_bootstrap.loop.trained import check_trained
from blip_bootstrap.loop.whole import manifest_in, read_manifest
from blip_bootstrap.progress import Say
from blip_bootstrap.storage.manifest import recipe_by_today
from blip_bootstrap.storage.pointers import is_finished
from blip_bootstrap.storage.run_folder import (
    LATER,
    STALE,
    made_by_steps,
    made_from_another,
    read_pointers,
    round_name,
    round_of,
)

SECTIONS = {
    "images": "download", "model": "pretrain", "captions": "caption", "pairs": "select", "evaluation": "evaluate",
    "groups": "duplicates",
}  # fmt: skip
"""What is not called as its section of the configuration."""

MOST = 4
"""Differences that the line about a kept round names."""


def is_kept(root: Path, number: int) -> bool:
    """Whether a round was made to its end, of parts that fit each other, and all of it is there, undamaged.

    What it shares with other rounds has to be there alone: where it is damaged, the round would not be another for it.
    Raises RunFailed where its models are damaged: the round is not made anew for that.
    """
    if not is_finished(root, number):
        return False
    for name, damaged in _damage(root, number):
        if round_of(name) is not None:
            check_trained(root / read_pointers(root, number)[name]["folder"], damaged)
    if any(damaged is None or (damaged and round_of(name) is not None) for name, damaged in _damage(root, number)):
        return False
    made = made_by_steps(root)
    if any(STALE in (manifest_in(root / one["folder"]) or {}) for one in read_pointers(root, number).values()):
        return False
    mine = (made_from_another(made, name) for name in made if round_of(name) == number)
    return not any(round_of(one) == number for names in mine for one in names)


def damage_of(root: Path, number: int) -> dict[str, list[str]]:
    """The damaged files of what a round shares with others, by name, and what the run does not show any more."""
    mine, shown = read_pointers(root, number), read_pointers(root, None)
    return {name: damaged for name, damaged in _damage(root, number)
            if damaged and round_of(name) is None and mine[name] != shown.get(name)}  # fmt: skip


def _damage(root: Path, number: int) -> Iterator[tuple[str, list[str] | None]]:
    """Of each artifact of a round the damaged files; None where it is not there or half-made."""
    for name, one in read_pointers(root, number).items():
        manifest = manifest_in(root / one["folder"])
        yield name, damaged_files(root / one["folder"], manifest) if manifest else None


class Keeper:
    """Stands for a Maker where a round is to stay as it is: makes nothing, and notes what would be made anew."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.current: list[str] = []
        self.differs: list[str] = []

    def __call__(self, output: Artifact | None, step: Step, *inputs: Artifact | None) -> Artifact | None:
        """Compare `output` with what `step` would make now; returns it."""
        if output is None or output.given:
            return output
        made = read_manifest(output)
        if made is None and output.name in LATER:
            return output
        if made is None or any(one and not one.given and read_manifest(one) is None for one in inputs):
            self.differs.append(f"{_short(output.name)} not made")
            return output
        recipe = recipe_for(output, step, inputs)
        if is_made_by(made, recipe, output.section):
            self.current.append(f"{output.name}: current")
        else:
            self.differs += _told(output, recipe_by_today(made["recipe"], output.section), recipe)
        return output

    def tell(self, say: Say) -> None:
        """Say that each artifact is current, or, in one line, by what the round differs from the settings."""
        if not self.differs:
            for line in self.current:
                say(line)
            return
        told = [*dict.fromkeys(self.differs)]
        more = f" and {len(told) - MOST} more" if len(told) > MOST else ""
        why = f"kept as it was made ({'; '.join(told[:MOST])}{more})"
        say(f"{round_name(self.number)}: {why}; --remake {self.number} makes it anew")


def _told(output: Artifact, was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    name = _short(output.name)
    section = SECTIONS.get(name, name)
    told = [(f"{section}.{setting}", *values) for setting, *values in changed_settings(was, now)]
    if name == "controls":  # they hold the settings of training and evaluation, too
        told = [
            (setting.removeprefix("controls.") if "." in setting[9:] else setting, *rest) for setting, *rest in told
        ]
    inputs = [f"another {one.lstrip('0123456789 ')}" for one in changed_inputs(was, now)]
    return [f"{setting} {before}, now {after}" for setting, before, after in told] + inputs


def _short(name: str) -> str:
    return name.rpartition("/")[2]
