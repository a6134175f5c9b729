"""The loop: one round from URLs to the next model, and the Maker that skips what is current."""

from __future__ import annotations

import fcntl
import inspect
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blip_bootstrap import __version__
from blip_bootstrap.config import CaptionConfig, Config, FinetuneConfig, dump_yaml
from blip_bootstrap.errors import ConfigError, NothingLeft, RunFailed
from blip_bootstrap.given import check_given, note_given
from blip_bootstrap.input_paths import missing_paths
from blip_bootstrap.layout import (
    Artifact,
    Layout,
    damaged_files,
    describe_files,
    digest_of_input,
    digest_of_recipe,
    publish,
    read_manifest,
    recipe_by_today,
    recipe_of,
    restage,
    staging_folder,
)
from blip_bootstrap.shortfalls import all_failed, no_pairs, no_pictures

if TYPE_CHECKING:
    from blip_bootstrap.open_run import OpenRun

Step = Callable[..., Mapping[str, Any]]
Say = Callable[[str], None]


def run_rounds(config: Config, last: int, say: Say) -> Path | None:
    """Run every round up to `last` that is missing or out of date; the path of the last round's report.

    Writes the page over all rounds, `root`/report.html, at the end.
    With a captioner and a filter that are both given, no round depends on an earlier one, and only `last` is run.
    Raises ConfigError where the configuration cannot carry the round, RunFailed where a step fails or another
    process works on the same root.
    """
    from blip_bootstrap.open_run import OpenRun
    from blip_bootstrap.overview import write_overview
    from blip_pipelines.dtypes import resolve_dtypes

    mistakes = check_config(config, last) or check_given(config, last)
    if mistakes:
        raise ConfigError(mistakes)
    config = resolve_dtypes(config, say)
    given = last > 0 and config.captioner.checkpoint and config.filter.checkpoint
    report = None
    with locked(config.root):
        note_given(config, last)
        (config.root / "config.yaml").write_text(dump_yaml(config), encoding="utf-8")
        with OpenRun(config.root) as run:
            for number in [last] if given else range(last + 1):
                run.close()
                try:
                    report = run_round(config, number, run, say)
                except NothingLeft:
                    say(f"overview: {write_overview(config.root, run)}")
                    raise
            # Made anew whenever a run ends: it is made of what the rounds' own steps have left.
            say(f"overview: {write_overview(config.root, run)}")
    return report


def run_download(config: Config, say: Say) -> None:
    """Make the images alone, which no model is needed for; a later `run_rounds` finds them current."""
    from blip_pipelines.download import download_images

    at = Layout(config, 0)
    with locked(config.root):
        Maker(config, say)(at.images, download_images, *at.urls)


def run_round(config: Config, number: int, run: OpenRun, say: Say) -> Path:
    """Run CapFilt round `number` (BLIP, section 3.3), making only what is missing or out of date.

    The page is made of `run`, the run under `config.root`, which stays open. Raises NothingLeft, once the page is
    written, where there is no picture, or no pair to train on.
    """
    from blip_bootstrap.select import select_pairs, take_web_pairs
    from blip_bootstrap.truth import oracle_pairs
    from blip_pipelines.annotated import ingest_annotated
    from blip_pipelines.caption import caption_and_score
    from blip_pipelines.download import download_images
    from blip_pipelines.launch_training import evaluate, finetune_captioner, finetune_filter, pretrain, train_controls
    from blip_pipelines.same_pictures import find_same_pictures

    at, make = Layout(config, number), Maker(config, say)
    make(at.images, download_images, *at.urls)
    if lost := no_pictures(_counts(at.images)):
        make(replace(at.pairs, section=None), take_web_pairs, at.images)
        _write_pages(at, make, run)
        raise NothingLeft(f"images: {lost}; the same command tries all of them again")
    make(at.human, ingest_annotated, at.human_list)
    make(at.held_out, ingest_annotated, at.held_out_list)
    make(at.same_pictures, find_same_pictures, at.images, at.human, at.held_out)
    of_human, of_all = _left_out(at.same_pictures, "human"), _left_out(at.same_pictures, "human", "web")
    if number == 0:
        make(at.pairs, take_web_pairs, at.images)
    else:
        make(at.captioner, finetune_captioner, at.previous_model, at.human, of_human)
        make(at.filter, finetune_filter, at.previous_model, at.human, of_human)
        make(at.captions, caption_and_score, at.images, at.captioner, at.filter)
        make(at.pairs, select_pairs, at.captions)
    if (lost := no_pairs(_counts(at.pairs))) and not (at.model and at.human):
        _write_pages(at, make, run)
        use = "to train on, and no human set" if at.model else "to give out"
        raise NothingLeft(f"{at.pairs.name}: {lost}, so there is no pair {use}; what was made before it is kept")
    make(at.model, pretrain, at.images, at.pairs, at.human, _start(at, config), of_all)
    make(at.evaluation, evaluate, at.model, at.held_out, None, at.references)
    make(at.truth_pairs, oracle_pairs, at.images, at.captions, at.truth)
    arms = at.images, at.captions, at.pairs, at.human, at.held_out, at.truth_pairs, of_all
    make(at.controls, train_controls, *arms)
    _write_pages(at, make, run, at.model, at.evaluation, at.controls)
    return Path(at.report.path)


def _write_pages(
    at: Layout,
    make: Maker,
    run: OpenRun,
    model: Artifact | None = None,
    evaluation: Artifact | None = None,
    controls: Artifact | None = None,
) -> None:
    """The figures and the page of a round, of what it has made."""
    from blip_bootstrap.metrics import measure_round
    from blip_bootstrap.report import write_report

    measure = partial(measure_round, at.root, at.number)
    make(at.metrics, measure, at.images, at.pairs, evaluation, controls, at.truth)
    make(at.report, partial(write_report, at.root, at.number, run=run), at.images, at.pairs, model, at.metrics)


def _counts(made: Artifact) -> Mapping[str, Any]:
    """What the step counted that made it."""
    counts: Mapping[str, Any] = (read_manifest(made) or {}).get("counts", {})
    return counts


def _left_out(same_pictures: Artifact | None, *sets: str) -> Artifact | None:
    """The table of same pictures as an input, where training leaves some of these sets out: else it decides nothing."""
    counts = ((read_manifest(same_pictures) or {}) if same_pictures else {}).get("counts", {})
    return same_pictures if any(counts.get(f"left_out_{name}") for name in sets) else None


def _start(at: Layout, config: Config) -> Artifact | None:
    """The previous model where pre-training goes on from it (Table 13's other arm), else None."""
    return at.previous_model if config.pretrain.start_from == "previous" else None


def check_config(config: Config, number: int) -> list[str]:
    """What the configuration lacks for round `number`, one line for each mistake."""
    mistakes = [] if config.download.urls else ["download.urls: at least one URL list is needed"]
    mistakes += missing_paths(config, number)
    if number > 0:
        mistakes += _check_finetune(config, "captioner", config.captioner)
        mistakes += _check_finetune(config, "filter", config.filter)
        mistakes += _check_beams(config.caption)
        mistakes += _check_filter_only(config)
    if config.pretrain.optimizer.steps == 0 and number == 0:
        mistakes.append("pretrain.optimizer.steps: is 0, so that round 0 has nothing to make; run a later round")
    return mistakes


def _check_finetune(config: Config, name: str, section: FinetuneConfig) -> list[str]:
    if section.checkpoint:
        return []
    if config.human is None:
        return [f"human: needed to fine-tune the {name}; or give {name}.checkpoint"]
    if config.pretrain.optimizer.steps == 0:
        return [f"{name}.checkpoint: needed where pretrain.optimizer.steps is 0"]
    return []


def _check_beams(caption: CaptionConfig) -> list[str]:
    """An image's candidates are its best beams."""
    if caption.candidates == 1 or not (caption.sampler.num_beams or caption.sampler.preset == "beam"):
        return []
    from blip_training.decoding import resolve_sampler

    beams = resolve_sampler(caption.sampler).num_beams
    if beams == 1 or beams >= caption.candidates:
        return []
    return [f"caption.candidates: {caption.candidates} of {beams} beams; set caption.sampler.num_beams higher"]


def _check_filter_only(config: Config) -> list[str]:
    """The arm of web texts alone needs a rule that can judge them."""
    select = config.select
    if "filter_only" in config.controls.arms and select.strategy == "fraction" and select.score == "logprob":
        return [
            "controls.arms: filter_only has no pairs where select.strategy fraction cuts by logprob, which web texts "
            "lack; leave the arm out, or cut by another select.score"
        ]
    return []


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
    was, now = _flat(old["config"]), _flat(new["config"])
    found = [f"{k} {was.get(k)} -> {now.get(k)}" for k in sorted(was.keys() | now.keys()) if was.get(k) != now.get(k)]
    was, now = old["inputs"], new["inputs"]
    found += [f"another {k}" for k in sorted(was.keys() | now.keys()) if was.get(k) != now.get(k)]
    return "; ".join(found) or "another version of the step"


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as one level of dotted names."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


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
