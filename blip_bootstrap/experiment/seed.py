"""One seed of an experiment: its groups of arms run one after another under one root, each arm's record at its end."""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from blip_bootstrap.config import AnnotatedSet, Config
from blip_bootstrap.demo.run import run_demo
from blip_bootstrap.errors import (
    BlipBootstrapError,
    ConfigError,
    InputError,
    NothingLeft,
    RunFailed,
    RunInUse,
    in_one_line,
)
from blip_bootstrap.experiment.draw import drawn_settings, rest_path
from blip_bootstrap.experiment.figures import evaluation_folder, has_model, is_measured, measure_on
from blip_bootstrap.experiment.file import SPLITS, Arm
from blip_bootstrap.experiment.plan import OF_AN_ARM, Group, Job
from blip_bootstrap.experiment.record import Record, key_of, make_record, read_record, record_file
from blip_bootstrap.loop.rounds import run_rounds
from blip_bootstrap.progress import Say
from blip_bootstrap.storage.lock import locked
from blip_bootstrap.storage.run_folder import read_pointers, round_name

WAIT_S = 2.0
"""Between two looks whether another experiment still works on a seed."""


@dataclass(frozen=True)
class Told:
    """What became of an arm of a seed; `text` is the reason where it failed."""

    seed: int
    arm: str
    kind: Literal["kept", "done", "failed"]
    seconds: float = 0.0
    text: str = ""


Tell = Callable[[Told], None]


def run_seed(job: Job, seed: int, names: Collection[str], splits: Iterable[str], tell: Tell, say: Say) -> None:
    """Make the arms `names` of one seed and measure each on all `splits`; what becomes of each is told.

    An arm that fails takes those along that need its models, and no others.
    """
    failed: set[str] = set()
    for group in job.groups(names):
        if lacking := group.after & failed:
            for name in group.arms:
                tell(Told(seed, name, "failed", text=f"it needs arm {min(lacking)}, which failed"))
            failed |= {*group.arms}
            continue
        failed |= _run_group(job, group, seed, list(splits), tell, say)


def _run_group(job: Job, group: Group, seed: int, splits: list[str], tell: Tell, say: Say) -> set[str]:
    """Make the arms of a group that have no record yet; the names of those that failed."""
    missing = [name for name in group.arms if any(not kept_record(job, group, name, seed, one) for one in splits)]
    for name in group.arms:
        if name not in missing:
            tell(Told(seed, name, "kept"))
    failed: set[str] = set()
    for part in _parts(job, group, missing):
        failed |= _run_part(job, part, seed, splits, tell, say)
    return failed


def _parts(job: Job, group: Group, names: Sequence[str]) -> Iterator[Group]:
    """Arms of a group by the run that makes them: own models first, the controls of each round after them.

    What one has made the next finds, and one that fails leaves the others.
    """
    arms = job.experiment.arms
    by_part: dict[tuple[bool, int], list[str]] = {}
    for name in names:
        by_part.setdefault((bool(arms[name].control), arms[name].round), []).append(name)
    for (_, number), found in sorted(by_part.items()):
        yield replace(group, arms=tuple(found), last=number)


def _run_part(job: Job, part: Group, seed: int, splits: list[str], tell: Tell, say: Say) -> set[str]:
    """Run the loop for some arms and measure each; the names of those that failed.

    Under one lock: between the two another experiment over this root could point the round to what its arms are.
    """
    try:
        with _in_turn(job.folder(part, seed), say):
            return _run_locked(job, part, seed, splits, tell, say)
    except (RunFailed, ConfigError) as error:  # the root cannot be written
        for name in part.arms:
            tell(Told(seed, name, "failed", text=_told(error)))
        return {*part.arms}


@contextmanager
def _in_turn(root: Path, say: Say) -> Iterator[None]:
    """Hold the lock of the run of a seed; where another experiment works there, wait for it, and say so once."""
    with ExitStack() as held:
        told = False
        while True:
            try:
                held.enter_context(locked(root, for_several=True))
                break
            except RunInUse as error:
                if not told:
                    say(f"waiting: {str(error).partition(';')[0]}")
                told = True
                time.sleep(WAIT_S)
        yield


def _run_locked(job: Job, part: Group, seed: int, splits: list[str], tell: Tell, say: Say) -> set[str]:
    began = time.monotonic()
    try:
        config = _run_loop(job, part, seed, say)
    except Exception as error:  # noqa: BLE001 - one bad arm does not lose the others
        text = _told(error)
        for name in part.arms:
            tell(Told(seed, name, "failed", text=text))
        return {*part.arms}
    failed = set()
    for name in part.arms:
        try:
            for split in splits:
                _measure(job, part, name, seed, split, config, say)
            tell(Told(seed, name, "done", time.monotonic() - began))
        except Exception as error:  # noqa: BLE001 - as above
            failed.add(name)
            tell(Told(seed, name, "failed", text=_told(error)))
    return failed


def _told(error: Exception) -> str:
    """An error in one line; the traceback of one that is a fault of this program goes to standard error."""
    if isinstance(error, BlipBootstrapError):
        return "; ".join(str(error).splitlines())
    if (line := in_one_line(error)) is None:
        sys.stderr.write("".join(traceback.format_exception(error)))
    return line or f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def kept_record(job: Job, group: Group, name: str, seed: int, split: str) -> Record | None:
    """The record of an arm that need not be made again, else None."""
    root = job.folder(group, seed)
    return read_record(record_file(root, job.experiment.name, name, split), key_of(job, name, split), root)


def _run_loop(job: Job, part: Group, seed: int, say: Say) -> Config:
    """Run the loop for some arms; the configuration of its run."""
    root, with_models = job.folder(part, seed), _with_models(job, part, seed)
    config = job.config(with_models, seed)
    remake = _remade(config, part.last)
    if job.experiment.is_builtin:
        settings = job.loop_settings(with_models, seed)
        run_demo(root, part.last, settings, job.ray, say, job.world_config(part, seed), remake)
        return config
    config = job.config(with_models, seed, drawn_settings(config, job.experiment.draw, root, seed))
    try:
        run_rounds(config, part.last, say, remake)
    except NothingLeft:
        if not _is_answer(job, part, config):
            raise
    return config


def _is_answer(job: Job, part: Group, config: Config) -> bool:
    """Whether a round of which no text was kept says what its arms ask: they have no model, but its texts."""
    has_texts = f"{round_name(part.last)}/captions" in read_pointers(config.root, part.last)
    return has_texts and not any(has_model(config, job.experiment.arms[name]) for name in part.arms)


def _remade(config: Config, last: int) -> range:
    """The rounds before the last, which are to follow the settings of this arm: what is made by these is pointed to."""
    own = config.of_round(last)
    return range(0 if own.captioner.checkpoint and own.filter.checkpoint else last)


def _with_models(job: Job, group: Group, seed: int) -> Group:
    """The group with the paths of other arms' models in its settings."""
    arms = job.experiment.arms

    def path_of(name: str, model: str) -> str:
        home = next(one for one in job.groups([name]) if name in one.arms)
        record = next(filter(None, (kept_record(job, home, name, seed, split) for split in SPLITS)), None)
        of_control = arms[name].control if model == "model" else None
        made = "controls" if of_control else model
        found = (record or {}).get("artifacts", {}).get(f"round-{arms[name].round:02d}/{made}")
        if not found:
            raise InputError(f"arm:{name}/{model}: arm {name} has no {model} of its own")
        folder = job.folder(home, seed) / found["folder"]
        return json.dumps(str((folder / of_control / "model" if of_control else folder).absolute()))

    settings = tuple(OF_AN_ARM.sub(lambda found: path_of(found[1], found[2]), one) for one in group.settings)
    return Group(group.arms, settings, group.world_settings, group.last, group.after)


def _measure(job: Job, group: Group, name: str, seed: int, split: str, config: Config, say: Say) -> None:
    """Write the record of an arm of one split."""
    arm, root = job.experiment.arms[name], job.folder(group, seed)
    if not has_model(config, arm):
        make_record(root, job, name, seed, split, config, None)
        return
    if not is_measured(root, arm):
        raise RunFailed(f"{evaluation_folder(root, arm)}: the loop has measured no such model")
    measured = evaluation_folder(root, arm)
    if split != "held_out":
        measured = measure_on(config, arm, split, _pictures_of(job, arm, config, split), say)
    make_record(root, job, name, seed, split, config, measured)


def _pictures_of(job: Job, arm: Arm, config: Config, split: str) -> AnnotatedSet:
    """The annotated set of a split other than held_out: the world's, the file's, or what of the human set is not drawn.

    Pictures are stored as those of the held-out set.
    """
    own = config.of_round(arm.round)
    assert own.held_out is not None  # `has_model`
    if job.experiment.is_builtin:
        return own.held_out.model_copy(update={"path": config.root / "world" / f"{split}.jsonl"})
    if job.experiment.validation:
        return own.held_out.model_copy(update={"path": job.experiment.validation})
    if job.experiment.draw.human and own.human:
        return own.human.model_copy(update={"path": rest_path(own.human.path)})
    raise InputError(f"{job.experiment.name}: no pictures of the split {split}; give validation: PATH, or draw.human")
