"""The Maker, which makes an artifact where it is missing or out of date."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from blip_bootstrap.audit.shortfalls import all_failed, no_pictures
from blip_bootstrap.config import Config
from blip_bootstrap.errors import RunFailed
from blip_bootstrap.loop.arms import arms_elsewhere, with_model_and_figures
from blip_bootstrap.loop.artifacts import (
    begin,
    begin_repair,
    damaged_files,
    drop_empty,
    find_whole,
    finish,
    forget_failures,
    has_parts,
    is_half_repaired,
    is_made_by,
    last_version,
    link_parts,
    lost_pictures,
    take_up,
    tidy,
)
from blip_bootstrap.loop.at_work import noted
from blip_bootstrap.loop.given import given_models
from blip_bootstrap.loop.growth import borrow_parts, find_kin, origins, reads_of
from blip_bootstrap.loop.layout import Artifact
from blip_bootstrap.loop.rejudged import parts_to_judge
from blip_bootstrap.loop.sent import with_sent
from blip_bootstrap.loop.trained import check_trained
from blip_bootstrap.loop.whole import digest_of_input, manifest_in, read_manifest
from blip_bootstrap.progress import Say
from blip_bootstrap.schemas.closed_lists import NO_ANSWERS
from blip_bootstrap.storage.manifest import describe_files, manifest_of, recipe_by_today, recipe_of, short
from blip_bootstrap.storage.pointers import UNKNOWN, folder_at, point, shown_at
from blip_bootstrap.storage.run_folder import MANIFEST, STALE, flat
from blip_bootstrap.storage.verify import check_input
from blip_bootstrap.stores.store import fetched
from blip_pipelines.caption.again import CAPTIONS_AGAIN
from blip_pipelines.cluster.sees_root import check_nodes

RETRIED = {"failed": "download_images", CAPTIONS_AGAIN: "caption_and_score"}
"""The step whose rows `retry` names, by what that begins with."""

Step = Callable[..., Mapping[str, Any]]
"""Makes an artifact in a folder, and returns what it counted."""


@dataclass(frozen=True)
class Making:
    """An artifact that is about to be made: by which step, of what, where, by which recipe.

    `whole` is the MANIFEST of what is whole by this recipe, and `retry` which of its rows are tried again. `last` is
    the number of the last version that is whole, where this one has lost its MANIFEST; else 0.
    """

    output: Artifact
    step: Step
    inputs: tuple[Artifact | None, ...]
    folder: Path
    recipe: Mapping[str, Any]
    whole: Mapping[str, Any] | None
    retry: str | None = None
    last: int = 0

    @property
    def version(self) -> dict[str, Any]:
        """What the MANIFEST of another version of something whole has more, and keeps where it is repaired."""
        was = self.whole or {}
        if self.retry and was:
            return {"version_of_recipe": int(was.get("version_of_recipe", 1)) + 1, "retry": self.retry}
        if self.last and not was:
            return {"version_of_recipe": self.last + 1}
        return {name: was[name] for name in ("version_of_recipe", "retry") if name in was}


class Maker:
    """Makes artifacts by their steps: points to what is whole, goes on with what is half-made.

    `number` is the round that is being made; its record gets a pointer to each artifact, as soon as that is settled.
    `retry` names rows that are to be tried again: of a download `failed`, or `failed:CLASS`; texts that captioners of
    `caption.writers` did not write `captions`, or `captions:REASON`.
    """

    def __init__(self, config: Config, say: Say, number: int | None = None, retry: str | None = None) -> None:
        self.config, self.say, self.number, self.retry = config, say, number, retry
        self.settled: set[str] = set()

    def __call__(self, output: Artifact | None, step: Step, *inputs: Artifact | None) -> Artifact | None:
        """Make `output` by `step(folder, *inputs, config=..., ray=...)` unless it is current; returns it.

        Nothing is done where `output` is None, so that the configuration does without it, or given by the user. The
        step gets `config` where `output` has a section, and `ray`, `kin`, `retry`, `scored` and `elsewhere` where it
        has such a parameter; it returns counts.
        """
        if output is None or output.given:
            return output
        recipe = recipe_for(output, step, inputs, self.config.root)
        before = read_manifest(output)
        folder, is_current = self._folder(output, before, recipe)
        making = Making(output, step, inputs, folder, recipe, manifest_in(folder))
        if not is_current and not making.whole:
            making = replace(making, last=last_version(self.config.root, recipe, output.section))
        if not is_current:
            self._make(making, before)
            if before and self._can_retry(step):
                return self(output, step, *inputs)
        elif again := self._again(making):
            self._make(again, before)
            folder, is_current = again.folder, False
        self._point(output, folder)
        if is_current:
            self.say(f"{output.name}: current")
        return output

    def _can_retry(self, step: Step) -> bool:
        what = (self.retry or "").partition(":")[0]
        return RETRIED.get(what) == _name(step) and "retry" in inspect.signature(step).parameters

    def _again(self, at: Making) -> Making | None:
        """What is to be made where rows of something whole are to be tried again: another version of it."""
        if not self._can_retry(at.step):
            return None
        retry, self.retry = str(self.retry), None  # asked for once
        if not _failed(at.whole or {}, retry):
            self.say(f"{at.output.name}: {_none_of(retry)}, so that there is none to try again")
            return None
        folder = begin(self.config.root, at.output, at.recipe, retry)
        return replace(at, folder=folder, retry=retry)

    def _point(self, output: Artifact, folder: Path) -> None:
        place, made = folder.relative_to(self.config.root).as_posix(), manifest_in(folder) or {}
        aside = point(self.config.root, output.name, place, made["digest"], self.number)
        if aside and aside.startswith(UNKNOWN):
            self.say(f"{output.name}: what stood at its place is of no step; it lies in {aside} now")
        self.settled.add(output.name)

    def _folder(
        self, output: Artifact, before: Mapping[str, Any] | None, recipe: Mapping[str, Any]
    ) -> tuple[Path, bool]:
        """Where `output` lies, or is to be made, with what is there of it already; and whether it is current."""
        root = self.config.root
        folder = self._whole(output, before, recipe)
        if folder is None:
            if before:
                by_today = recipe_by_today(before["recipe"], output.section)
                is_stale = STALE in before
                because = f"it was {before[STALE]}" if is_stale else f"because of {_difference(by_today, recipe)}"
                why = f"{because}; the one before stays"
                self.say(f"{output.name}: making it anew, {why}")
            return begin(root, output, recipe), False
        manifest = manifest_in(folder) or {}
        link_parts(folder, manifest)
        if all_failed(manifest["counts"]):
            self.say(f"{output.name}: nothing could be fetched the last time; trying again")
            forget_failures(folder)
            return begin(root, output, recipe), False
        damaged = damaged_files(folder, manifest)
        if not damaged and not is_half_repaired(folder):
            tidy(folder)
            return folder, True
        check_trained(folder, damaged)
        self.say(f"{output.name}: {', '.join(damaged) or 'files'} missing or damaged; making them anew")
        begin_repair(folder, with_model_and_figures(damaged) if recipe["step"] == "train_controls" else damaged)
        return folder, False

    def _whole(self, output: Artifact, before: Mapping[str, Any] | None, recipe: Mapping[str, Any]) -> Path | None:
        """The whole artifact that counts as made by `recipe`: the one that is pointed to, or another that is there."""
        if before and is_made_by(before, recipe, output.section):
            return self.config.root / folder_at(self.config.root, output.name)
        if not before and take_up(self.config.root, output, recipe):
            return None
        return find_whole(self.config.root, recipe, output.section)

    def _make(self, at: Making, before: Mapping[str, Any] | None) -> None:
        output, step, folder = at.output, at.step, at.folder
        root, is_begun = self.config.root, has_parts(folder)
        check_nodes(root, self.config.ray, [one.source for one in given_models(self.config, 1)])
        shown = root / (shown_at(root, output.name) or ".")
        kin = find_kin(root, at.recipe, output.section, folder, shown)
        kin = [fetched(one) for one in kin]  # of a run on a store: what another machine has made
        made_of = origins(at.recipe, at.inputs)
        grown = folder, kin, made_of, at.recipe, output.section, at.inputs
        borrowed = 0 if at.retry else borrow_parts(root, *grown)  # then the step itself says which parts stay
        scored = {} if at.retry else parts_to_judge(root, at.recipe, output.section, folder, shown, made_of, at.inputs)
        told = ["going on"] * is_begun + [f"{borrowed} of {len(made_of)} parts as they are"] * bool(borrowed)
        told += [f"{len(scored)} of {len(made_of) or 1} parts for their judges alone"] * bool(scored)
        self.say(f"{output.name}: {_name(step)}" + (f" ({', '.join(told)})" if told else ""))
        for one in at.inputs:
            if one and not one.given:
                reads = reads_of(at.recipe, output.section, one, folder)
                check_input(one.local, read_manifest(one) or {"files": []}, reads)
        started = time.monotonic()
        try:
            with noted(root, self.number, output.name, _name(step)):
                counts = step(folder, *self._arguments(at.inputs), **self._settings(at, kin, scored))
        except BaseException:
            drop_empty(folder)
            raise
        if all_failed(counts) and before and not all_failed(before["counts"]):
            forget_failures(folder)
            raise RunFailed(f"{output.name}: {no_pictures(counts)}; those of before stay, run again to try all again")
        if not at.retry and (lost := lost_pictures(folder, at.whole or {}, counts)):
            raise RunFailed(
                f"{output.name}: no row of {', '.join(lost)} can be fetched again, which had pictures; run again to "
                f"try it, or put it back; to go on without its pictures, delete {folder / MANIFEST} and run again"
            )
        seconds, files = time.monotonic() - started, describe_files(folder, made_of)
        manifest = manifest_of(output.name, at.recipe, output.section, counts, seconds, files)
        finish(folder, manifest | at.version)
        counted = "  ".join(f"{name} {short(value)}" for name, value in counts.items() if not isinstance(value, dict))
        self.say(f"{output.name}: done in {seconds:.1f} s  {counted}")

    def _arguments(self, inputs: Sequence[Artifact | None]) -> list[Path | str | None]:
        return [self._argument(one) for one in inputs if not (one and one.keyword)]

    def _argument(self, one: Artifact | None) -> Path | str | None:
        """An input as the step gets it: a given model where its workers find it; lists are read by this process."""
        if one is None:
            return None
        is_model = one.given and one.section is not None
        return with_sent(self.config, one.argument) if is_model else one.argument

    def _settings(self, at: Making, kin: Sequence[Path], scored: Mapping[str, Path]) -> dict[str, Any]:
        """What a step gets by name: those of these that it has parameters for."""
        known = {"ray": self.config.ray, "kin": kin, "retry": at.retry, "scored": scored}
        wanted = inspect.signature(at.step).parameters
        if "elsewhere" in wanted:
            known["elsewhere"] = arms_elsewhere(self.config.root, at.recipe, at.output.section, at.folder)
        found: dict[str, Any] = {name: value for name, value in known.items() if name in wanted}
        found |= {one.keyword: self._argument(one) for one in at.inputs if one and one.keyword}
        return found | ({"config": with_sent(self.config, at.output.section)} if at.output.section else {})


def _failed(manifest: Mapping[str, Any], retry: str) -> int:
    """How many rows of a download have failed, or texts were not written, that `retry` names."""
    counts, (what, _, error_class) = manifest.get("counts", {}), retry.partition(":")
    every = NO_ANSWERS if what == CAPTIONS_AGAIN else ("failed_to_download", "failed_to_resize")
    names = [error_class] if error_class else every
    return sum(int(counts.get(name, 0)) for name in names)


def _none_of(retry: str) -> str:
    what, _, reason = retry.partition(":")
    if what == CAPTIONS_AGAIN:
        return f"no text lacks{f' for {reason}' if reason else ''}"
    return f"no row {retry.replace(':', ' with ')}"


def recipe_for(
    output: Artifact, step: Step, inputs: Sequence[Artifact | None], root: Path | None = None
) -> dict[str, Any]:
    """The recipe of `output`; digests of large files are remembered under `root`. InputError where one is missing."""
    digests = {f"{i} {a.name}" if a.given else a.name: digest_of_input(a, root) for i, a in enumerate(inputs) if a}
    return recipe_of(_name(step), output.section, digests)


def _name(step: Step) -> str:
    return str(getattr(step, "func", step).__name__)


def changed_settings(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Which settings differ between two recipes: name, value before, value now."""
    was, now = _settings_by_name(old["config"], new["config"]), _settings_by_name(new["config"], old["config"])
    names = sorted(was.keys() | now.keys())
    return [(name, was.get(name), now.get(name)) for name in names if was.get(name) != now.get(name)]


def _settings_by_name(config: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted names; lists of sections, as `download.urls`, one by one, or by their number where that is
    another one in `other`."""
    found = flat(config)
    for name, value in [*found.items()]:
        if isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value):
            same = isinstance(there := other.get(name), list) and len(there) == len(value)
            del found[name]
            found |= flat(dict(enumerate(value)), f"{name}.") if same else {name: f"{len(value)} of them"}
    return found


def changed_inputs(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Which inputs differ between two recipes, by name."""
    was, now = old["inputs"], new["inputs"]
    return [name for name in sorted(was.keys() | now.keys()) if was.get(name) != now.get(name)]


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Which settings and inputs differ between two recipes, in words."""
    found = [f"{name} {was} -> {now}" for name, was, now in changed_settings(old, new)]
    found += [f"another {name.lstrip('0123456789 ')}" for name in changed_inputs(old, new)]
    return "; ".join(found) or "another version of the step"
