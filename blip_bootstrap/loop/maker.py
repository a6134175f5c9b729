"""The Maker, which makes an artifact where it is missing or out of date, and the lock on a run."""

from __future__ import annotations

import fcntl
import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from blip_bootstrap.audit.shortfalls import all_failed, no_pictures
from blip_bootstrap.config import Config
from blip_bootstrap.errors import ConfigError, RunFailed
from blip_bootstrap.loop.artifacts import (
    begin,
    begin_repair,
    damaged_files,
    find_whole,
    finish,
    forget_failures,
    has_parts,
    is_half_repaired,
    is_made_by,
    tidy,
)
from blip_bootstrap.loop.layout import Artifact
from blip_bootstrap.loop.whole import digest_of_input, manifest_in, read_manifest
from blip_bootstrap.progress import Say
from blip_bootstrap.storage.files import make_folder
from blip_bootstrap.storage.manifest import describe_files, flat, manifest_of, recipe_by_today, recipe_of, short
from blip_bootstrap.storage.pointers import folder_at, point
from blip_bootstrap.storage.verify import check_input

Step = Callable[..., Mapping[str, Any]]
"""Makes an artifact in a folder, and returns what it counted."""


class Maker:
    """Makes artifacts by their steps: points to what is whole, goes on with what is half-made.

    `number` is the round that is being made; its record gets a pointer to each artifact, as soon as that is settled.
    """

    def __init__(self, config: Config, say: Say, number: int | None = None) -> None:
        self.config, self.say, self.number = config, say, number
        self.settled: set[str] = set()

    def __call__(self, output: Artifact | None, step: Step, *inputs: Artifact | None) -> Artifact | None:
        """Make `output` by `step(folder, *inputs, config=..., ray=...)` unless it is current; returns it.

        Nothing is done where `output` is None, so that the configuration does without it, or given by the user. The
        step gets `config` where `output` has a section, and `ray` where it has such a parameter; it returns counts.
        """
        if output is None or output.given:
            return output
        recipe = recipe_for(output, step, inputs)
        before = read_manifest(output)
        folder, is_current = self._folder(output, before, recipe)
        if not is_current:
            self._make(output, step, inputs, folder, recipe, before)
        place, made = folder.relative_to(self.config.root).as_posix(), manifest_in(folder) or {}
        point(self.config.root, output.name, place, made["digest"], self.number)
        self.settled.add(output.name)
        if is_current:
            self.say(f"{output.name}: current")
        return output

    def _folder(
        self, output: Artifact, before: Mapping[str, Any] | None, recipe: Mapping[str, Any]
    ) -> tuple[Path, bool]:
        """Where `output` lies, or is to be made, with what is there of it already; and whether it is current."""
        root = self.config.root
        folder = self._whole(output, before, recipe)
        if folder is None:
            if before:
                by_today = recipe_by_today(before["recipe"], output.section)
                why = f"because of {_difference(by_today, recipe)}; the one before stays"
                self.say(f"{output.name}: making it anew, {why}")
            return begin(root, output, recipe), False
        manifest = manifest_in(folder) or {}
        if all_failed(manifest["counts"]):
            self.say(f"{output.name}: nothing could be fetched the last time; trying again")
            forget_failures(folder)
            return begin(root, output, recipe), False
        damaged = damaged_files(folder, manifest)
        if not damaged and not is_half_repaired(folder):
            tidy(folder)
            return folder, True
        self.say(f"{output.name}: {', '.join(damaged) or 'files'} missing or damaged; making them anew")
        begin_repair(folder, damaged)
        return folder, False

    def _whole(self, output: Artifact, before: Mapping[str, Any] | None, recipe: Mapping[str, Any]) -> Path | None:
        """The whole artifact that counts as made by `recipe`: the one that is pointed to, or another that is there."""
        if before and is_made_by(before, recipe, output.section):
            return self.config.root / folder_at(self.config.root, output.name)
        return find_whole(self.config.root, recipe, output.section)

    def _make(
        self, output: Artifact, step: Step, inputs: tuple[Artifact | None, ...], folder: Path,
        recipe: Mapping[str, Any], before: Mapping[str, Any] | None,
    ) -> None:  # fmt: skip
        self.say(f"{output.name}: {_name(step)}" + (" (going on)" if has_parts(folder) else ""))
        settings: dict[str, Any] = {"config": output.section} if output.section else {}
        if "ray" in inspect.signature(step).parameters:
            settings["ray"] = self.config.ray
        for one in inputs:
            if one and not one.given:
                check_input(one.local, read_manifest(one) or {"files": []})
        started = time.monotonic()
        counts = step(folder, *[artifact.argument if artifact else None for artifact in inputs], **settings)
        if all_failed(counts) and before and not all_failed(before["counts"]):
            forget_failures(folder)
            raise RunFailed(f"{output.name}: {no_pictures(counts)}; those of before stay, run again to try all again")
        seconds = time.monotonic() - started
        finish(folder, manifest_of(output.name, recipe, output.section, counts, seconds, describe_files(folder)))
        shown = "  ".join(f"{name} {short(value)}" for name, value in counts.items() if not isinstance(value, dict))
        self.say(f"{output.name}: done in {seconds:.1f} s  {shown}")


def recipe_for(output: Artifact, step: Step, inputs: Sequence[Artifact | None]) -> dict[str, Any]:
    """The recipe of `output`. Raises InputError where an input is missing."""
    digests = {f"{i} {a.name}" if a.given else a.name: digest_of_input(a) for i, a in enumerate(inputs) if a}
    return recipe_of(_name(step), output.section, digests)


def _name(step: Step) -> str:
    return str(getattr(step, "func", step).__name__)


def changed_settings(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Which settings differ between two recipes: name, value before, value now."""
    was, now = flat(old["config"]), flat(new["config"])
    names = sorted(was.keys() | now.keys())
    return [(name, was.get(name), now.get(name)) for name in names if was.get(name) != now.get(name)]


def changed_inputs(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Which inputs differ between two recipes, by name."""
    was, now = old["inputs"], new["inputs"]
    return [name for name in sorted(was.keys() | now.keys()) if was.get(name) != now.get(name)]


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Which settings and inputs differ between two recipes, in words."""
    found = [f"{name} {was} -> {now}" for name, was, now in changed_settings(old, new)]
    found += [f"another {name}" for name in changed_inputs(old, new)]
    return "; ".join(found) or "another version of the step"


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Hold the run's lock, so that two processes never write one root; RunFailed where another holds it."""
    try:
        make_folder(root)
        file = (root / ".lock").open("w")
    except OSError as error:
        raise ConfigError([f"root: {root} cannot be written ({error.strerror})"]) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunFailed(f"{root}: another run is working on it; wait for it or stop it") from error
        yield
