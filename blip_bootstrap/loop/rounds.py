"""The loop: one round from URLs to the next model (section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from blip_bootstrap.audit.open_run import OpenRun
from blip_bootstrap.audit.shortfalls import no_pairs, no_pictures
from blip_bootstrap.config import Config, dump_yaml
from blip_bootstrap.errors import ConfigError, NothingLeft
from blip_bootstrap.labels.truth import oracle_pairs
from blip_bootstrap.loop.check import check_config
from blip_bootstrap.loop.given import check_given, note_given
from blip_bootstrap.loop.layout import Artifact, Layout
from blip_bootstrap.loop.maker import Maker, Say, locked
from blip_bootstrap.loop.staging import read_manifest
from blip_bootstrap.report.figures import write_figures
from blip_bootstrap.report.overview_page import write_overview
from blip_bootstrap.report.round_page import write_report
from blip_bootstrap.select.pairs import select_pairs, take_web_pairs
from blip_bootstrap.storage.files import write_whole


def run_rounds(config: Config, last: int, say: Say) -> Path | None:
    """Run every round up to `last` that is missing or out of date; the path of the last round's report.

    Writes the page over all rounds, `root`/report.html, at the end.
    With a captioner and a filter that are both given, no round depends on an earlier one, and only `last` is run.
    Raises ConfigError where the configuration cannot carry the round, RunFailed where a step fails or another
    process works on the same root.
    """
    from blip_pipelines.cluster.devices import resolve_dtypes

    mistakes = check_config(config, last) or check_given(config, last)
    if mistakes:
        raise ConfigError(mistakes)
    config = resolve_dtypes(config, say)
    given = last > 0 and config.captioner.checkpoint and config.filter.checkpoint
    report = None
    with locked(config.root):
        note_given(config, last)
        write_whole(config.root / "config.yaml", dump_yaml(config))
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
    from blip_pipelines.ingest.download import download_images

    at = Layout(config, 0)
    with locked(config.root):
        Maker(config, say)(at.images, download_images, *at.urls)


def run_round(config: Config, number: int, run: OpenRun, say: Say) -> Path:
    """Run CapFilt round `number` (BLIP, section 3.3), making only what is missing or out of date.

    The page is made of `run`, the run under `config.root`, which stays open. Raises NothingLeft, once the page is
    written, where there is no picture, or no pair to train on.
    """
    from blip_pipelines.caption.step import caption_and_score
    from blip_pipelines.ingest.annotated import ingest_annotated
    from blip_pipelines.ingest.download import download_images
    from blip_pipelines.ingest.same_pictures import find_same_pictures
    from blip_pipelines.train.steps import evaluate, finetune_captioner, finetune_filter, pretrain, train_controls

    at, make = Layout(config, number), Maker(config, say)
    make(at.images, download_images, *at.urls)
    if lost := no_pictures(_counts(at.images)):
        make(replace(at.pairs, section=None), take_web_pairs, at.images)
        write_pages(config, number, run, say)
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
        write_pages(config, number, run, say)
        use = "to train on, and no human set" if at.model else "to give out"
        raise NothingLeft(f"{at.pairs.name}: {lost}, so there is no pair {use}; what was made before it is kept")
    make(at.model, pretrain, at.images, at.pairs, at.human, _start(at, config), of_all)
    make(at.evaluation, evaluate, at.model, at.held_out, None, at.references)
    make(at.truth_pairs, oracle_pairs, at.images, at.captions, at.truth)
    arms = at.images, at.captions, at.pairs, at.human, at.held_out, at.truth_pairs, of_all
    make(at.controls, train_controls, *arms)
    return write_pages(config, number, run, say)


def write_pages(config: Config, number: int, run: OpenRun, say: Say) -> Path:
    """Write the figures and the page of a round, if they may have changed; the page's path."""
    write_figures(config.root, number, config.truth, say)
    return write_report(config.root, number, config.report, run, say)


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
