"""The Maker, which makes an artifact where it is missing or out of date, and the lock on a run."""

from __future__ import annotations

import fcntl
import inspect
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from blip_bootstrap.audit.shortfalls import all_failed, no_pictures
from blip_bootstrap.config import Config
from blip_bootstrap.errors import ConfigError, RunFailed
from blip_bootstrap.loop.layout import Artifact
from blip_bootstrap.loop.staging import publish, restage, staging_folder
from blip_bootstrap.loop.whole import counts_of, damaged_files, digest_of_input, read_manifest
from blip_bootstrap.progress import Say
from blip_bootstrap.storage.manifest import (
    describe_files,
    digest_of_recipe,
    flat,
    manifest_of,
    recipe_by_today,
    recipe_of,
    short,
)

Step = Callable[..., Mapping[str, Any]]
"""Makes an artifact in a folder, and returns what it counted."""


class Maker:
    """Makes artifacts by their steps: skips what is current, goes on with what is half-made."""

    def __init__(self, config: Config, say: Say) -> None:
        self.config, self.say = config, say

    def __call__(self, output: Artifact | None, step: Step, *inputs: Artifact | None) -> Artifact | None:
        """Make `output` by `step(staging folder, *inputs, config=..., ray=...)` unless it is current; returns it.

        Nothing is done where `output` is None, so that the configuration does without it, or given by the user. The
        step gets `config` where `output` has a section, and `ray` where it has such a parameter; it returns counts.
        """
        if output is None or output.given:
            return output
        digests = {f"{i} {a.name}" if a.given else a.name: digest_of_input(a) for i, a in enumerate(inputs) if a}
        recipe = recipe_of(_name(step), output.section, digests)
        staged = self._stage(output, recipe)
        if staged:
            self._make(output, step, inputs, staged, recipe)
        return output

    def _stage(self, output: Artifact, recipe: dict[str, Any]) -> Path | None:
        """The folder in which `output` is to be made, with what is there of it already; None where it is current."""
        digest, manifest = digest_of_recipe(recipe), read_manifest(output)
        if manifest is None:
            return staging_folder(self.config.root, output, digest)
        before = recipe_by_today(manifest["recipe"], output.section)
        if digest not in (manifest["digest"], digest_of_recipe(before)):
            self.say(f"{output.name}: making it anew, because of {_difference(before, recipe)}")
            return staging_folder(self.config.root, output, digest)
        if all_failed(manifest["counts"]):
            self.say(f"{output.name}: nothing could be fetched the last time; trying again")
            return staging_folder(self.config.root, output, digest)
        damaged = damaged_files(output, manifest)
        if not damaged:
            self.say(f"{output.name}: current")
            return None
        self.say(f"{output.name}: {', '.join(damaged)} missing or damaged; making them anew")
        staged = staging_folder(self.config.root, output, digest)
        if not output.is_file:
            restage(output, staged, damaged)
        return staged

    def _make(
        self, output: Artifact, step: Step, inputs: tuple[Artifact | None, ...], staged: Path, recipe: dict[str, Any]
    ) -> None:
        self.say(f"{output.name}: {_name(step)}" + (" (going on)" if any(staged.iterdir()) else ""))
        settings: dict[str, Any] = {"config": output.section} if output.section else {}
        if "ray" in inspect.signature(step).parameters:
            settings["ray"] = self.config.ray
        started = time.monotonic()
        counts = step(staged, *[artifact.argument if artifact else None for artifact in inputs], **settings)
        if all_failed(counts) and read_manifest(output) and not all_failed(counts_of(output)):
            shutil.rmtree(staged)
            raise RunFailed(f"{output.name}: {no_pictures(counts)}; those of before stay, run again to try all again")
        seconds = time.monotonic() - started
        publish(
            staged, output, manifest_of(output.name, recipe, output.section, counts, seconds, describe_files(staged))
        )
        shown = "  ".join(f"{name} {short(value)}" for name, value in counts.items() if not isinstance(value, dict))
        self.say(f"{output.name}: done in {seconds:.1f} s  {shown}")


def _name(step: Step) -> str:
    return str(getattr(step, "func", step).__name__)


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Which settings and inputs differ between two recipes, in words."""
    was, now = flat(old["config"]), flat(new["config"])
    found = [f"{k} {was.get(k)} -> {now.get(k)}" for k in sorted(was.keys() | now.keys()) if was.get(k) != now.get(k)]
    was, now = old["inputs"], new["inputs"]
    found += [f"another {k}" for k in sorted(was.keys() | now.keys()) if was.get(k) != now.get(k)]
    return "; ".join(found) or "another version of the step"


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Hold the run's lock, so that two processes never write one root; RunFailed where another holds it."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        file = (root / ".lock").open("w")
    except OSError as error:
        raise ConfigError([f"root: {root} cannot be written ({error.strerror})"]) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunFailed(f"{root}: another run is working on it; wait for it or stop it") from error
        yield
