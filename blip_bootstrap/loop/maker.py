"""The loop: one round from URLs to the next model, and the Maker that skips what is current."""

from __future__ import annotations

import fcntl
import inspect
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from blip_bootstrap import __version__
from blip_bootstrap.audit.shortfalls import all_failed, no_pictures
from blip_bootstrap.config import Config
from blip_bootstrap.errors import ConfigError, RunFailed
from blip_bootstrap.loop.layout import Artifact
from blip_bootstrap.loop.staging import damaged_files, digest_of_input, publish, read_manifest, restage, staging_folder
from blip_bootstrap.storage.manifest import describe_files, digest_of_recipe, flat, recipe_by_today, recipe_of

Step = Callable[..., Mapping[str, Any]]

Say = Callable[[str], None]


class Maker:
    """Makes artifacts: skips what is current, goes on with what is half-made, publishes what is whole."""

    def __init__(self, config: Config, say: Say) -> None:
        self.config, self.say = config, say

    def __call__(self, output: Artifact | None, step: Step, *inputs: Artifact | None) -> Artifact | None:
        """Make `output` by `step(staged folder, *input paths, config=..., ray=...)` unless it is current.

        Nothing is done where `output` is None (left out by the configuration) or given by the user.
        """
        if output is None or output.given:
            return output
        digests = {f"{i} {a.name}" if a.given else a.name: digest_of_input(a) for i, a in enumerate(inputs) if a}
        recipe = recipe_of(_name(step), output.section, digests)
        digest = digest_of_recipe(recipe)
        manifest = read_manifest(output)
        damaged = damaged_files(output, manifest) if manifest else []
        before = recipe_by_today(manifest["recipe"], output.section) if manifest else {}
        same = manifest and digest in (manifest["digest"], digest_of_recipe(before))
        if manifest and same and all_failed(manifest["counts"]):
            self.say(f"{output.name}: nothing could be fetched the last time; trying again")
            manifest = None
        if manifest and same and not damaged:
            self.say(f"{output.name}: current")
            return output
        staged = staging_folder(self.config.root, output, digest)
        if manifest and same:
            self.say(f"{output.name}: {', '.join(damaged)} missing or damaged; making them anew")
            if not Path(output.path).suffix:
                restage(output, staged, damaged)
        elif manifest:
            self.say(f"{output.name}: making it anew, because of {_difference(before, recipe)}")
        self._make(output, step, inputs, staged, {"digest": digest, "recipe": recipe})
        return output

    def _make(
        self, output: Artifact, step: Step, inputs: tuple[Artifact | None, ...], staged: Path, manifest: dict[str, Any]
    ) -> None:
        self.say(f"{output.name}: {_name(step)}" + (" (going on)" if any(staged.iterdir()) else ""))
        settings: dict[str, Any] = {"config": output.section} if output.section else {}
        if "ray" in inspect.signature(step).parameters:
            settings["ray"] = self.config.ray
        started = time.monotonic()
        counts = step(staged, *[_path(artifact) for artifact in inputs], **settings)
        if all_failed(counts) and not all_failed((read_manifest(output) or {"counts": counts})["counts"]):
            shutil.rmtree(staged)
            raise RunFailed(f"{output.name}: {no_pictures(counts)}; those of before stay, run again to try all again")
        seconds = time.monotonic() - started
        files = describe_files(staged)
        manifest |= {
            "name": output.name,
            "content": digest_of_recipe({"files": [[f["name"], f["sha256"]] for f in files]}),
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(seconds, 2),
            "version": __version__,
            "settings": output.section.model_dump(mode="json") if output.section else {},
            "counts": dict(counts),
            "files": files,
        }
        publish(staged, output, manifest)
        shown = "  ".join(f"{name} {_short(value)}" for name, value in counts.items() if not isinstance(value, dict))
        self.say(f"{output.name}: done in {seconds:.1f} s  {shown}")


def _path(artifact: Artifact | None) -> Path | str | None:
    """What the step receives: a path, or the name of a model on the hub."""
    if artifact is None or isinstance(artifact.path, Path):
        return artifact.path if artifact else None
    return Path(artifact.path) if Path(artifact.path).exists() else artifact.path


def _name(step: Step) -> str:
    return str(getattr(step, "func", step).__name__)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


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
