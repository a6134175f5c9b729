"""The loop: one round from URLs to the next model, and the Maker that skips what is current."""

from __future__ import annotations

import fcntl
import inspect
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blip_bootstrap import __version__
from blip_bootstrap.config import CaptionConfig, Config, FinetuneConfig, dump_yaml
from blip_bootstrap.errors import ConfigError, RunFailed
from blip_bootstrap.layout import (
    Artifact,
    Layout,
    damaged_files,
    describe_files,
    digest_of_input,
    digest_of_recipe,
    publish,
    read_manifest,
    recipe_of,
    restage,
    staging_folder,
)

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

    mistakes = check_config(config, last)
    if mistakes:
        raise ConfigError(mistakes)
    config = resolve_dtypes(config, say)
    given = last > 0 and config.captioner.checkpoint and config.filter.checkpoint
    _resolve_given(config)
    report = None
    with locked(config.root):
        (config.root / "config.yaml").write_text(dump_yaml(config), encoding="utf-8")
        with OpenRun(config.root) as run:
            for number in [last] if given else range(last + 1):
                run.close()
                report = run_round(config, number, run, say)
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

    The page is made of `run`, the run under `config.root`, which stays open.
    """
    from blip_bootstrap.metrics import measure_round
    from blip_bootstrap.report import write_report
    from blip_bootstrap.select import select_pairs, take_web_pairs
    from blip_bootstrap.truth import oracle_pairs
    from blip_pipelines.annotated import ingest_annotated
    from blip_pipelines.caption import caption_and_score
    from blip_pipelines.download import download_images
    from blip_pipelines.launch_training import evaluate, finetune_captioner, finetune_filter, pretrain, train_controls
    from blip_pipelines.same_pictures import find_same_pictures

    at, make = Layout(config, number), Maker(config, say)
    make(at.images, download_images, *at.urls)
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
    make(at.model, pretrain, at.images, at.pairs, at.human, _start(at, config), of_all)
    make(at.evaluation, evaluate, at.model, at.held_out, None, at.references)
    make(at.truth_pairs, oracle_pairs, at.images, at.captions, at.truth)
    arms = at.images, at.captions, at.pairs, at.human, at.held_out, at.truth_pairs, of_all
    make(at.controls, train_controls, *arms)
    make(at.metrics, partial(measure_round, at.root, number), at.images, at.pairs, at.evaluation, at.controls, at.truth)
    make(at.report, partial(write_report, at.root, number, run=run), at.images, at.pairs, at.model, at.metrics)
    return Path(at.report.path)


def _resolve_given(config: Config) -> None:
    """Find the models that are given, and fetch those of the hub, before hours of work that would need them."""
    from blip_training.sources import resolve_source

    text = config.pretrain.model.text
    trains = config.pretrain.optimizer.steps > 0
    starts = (text.tokenizer, text.start, config.pretrain.model.vision.start) if trains else ()
    more = (*config.caption.captioners, *config.caption.filters, config.caption.scorer)
    for source in (config.captioner.checkpoint, config.filter.checkpoint, *more, *starts):
        if source:
            resolve_source(source)


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
    mistakes += [
        f"download.urls.{i}.path: no such file: {one.path}"
        for i, one in enumerate(config.download.urls)
        if not one.path.is_file()
    ]
    for name, annotated in (("human", config.human), ("held_out", config.held_out)):
        if annotated and not annotated.path.is_file():
            mistakes.append(f"{name}.path: no such file: {annotated.path}")
    if config.truth and not config.truth.is_file():
        mistakes.append(f"truth: no such file: {config.truth}")
    if number > 0:
        mistakes += _check_finetune(config, "captioner", config.captioner)
        mistakes += _check_finetune(config, "filter", config.filter)
        mistakes += _check_beams(config.caption)
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
        if manifest and manifest["digest"] == digest and not damaged:
            self.say(f"{output.name}: current")
            return output
        staged = staging_folder(self.config.root, output, digest)
        if manifest and manifest["digest"] == digest:
            self.say(f"{output.name}: {', '.join(damaged)} missing or damaged; making them anew")
            if not Path(output.path).suffix:
                restage(output, staged, damaged)
        elif manifest:
            self.say(f"{output.name}: making it anew, because of {_difference(manifest['recipe'], recipe)}")
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
