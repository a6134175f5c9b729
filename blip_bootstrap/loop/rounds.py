"""The loop: one round from URLs to the next model (section 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from blip_bootstrap.audit.open_run import OpenRun
from blip_bootstrap.audit.shortfalls import no_pairs, no_pictures
from blip_bootstrap.config import Config, dump_yaml
from blip_bootstrap.errors import ConfigError, NothingLeft
from blip_bootstrap.labels.truth import oracle_pairs
from blip_bootstrap.loop.adopt import adopt
from blip_bootstrap.loop.at_work import forget_note
from blip_bootstrap.loop.check import check_config, check_retry, notes_on
from blip_bootstrap.loop.given import check_given, note_given, seem_right
from blip_bootstrap.loop.kept import Keeper, damage_of, is_kept
from blip_bootstrap.loop.layout import Artifact, Layout, at_hand
from blip_bootstrap.loop.maker import Maker
from blip_bootstrap.loop.whole import counts_of
from blip_bootstrap.progress import Say
from blip_bootstrap.report.figures import write_figures
from blip_bootstrap.report.overview_page import write_overview
from blip_bootstrap.report.round_page import write_report
from blip_bootstrap.select.pairs import select_pairs, take_web_pairs
from blip_bootstrap.storage.files import write_whole
from blip_bootstrap.storage.lock import locked
from blip_bootstrap.storage.pointers import settle
from blip_bootstrap.storage.run_folder import (
    made_by_steps,
    made_from_another,
    out_of_date,
    read_pointers,
    round_folder,
    round_name,
    round_of,
)
from blip_bootstrap.storage.withdrawn import check_no_journal
from blip_bootstrap.stores.store import shown
from blip_pipelines.caption.again import CAPTIONS_AGAIN
from blip_pipelines.caption.step import caption_and_score
from blip_pipelines.check.step import check_filter
from blip_pipelines.cluster.devices import resolve_dtypes
from blip_pipelines.duplicates.groups import group_pictures
from blip_pipelines.duplicates.hashes import hash_pictures
from blip_pipelines.duplicates.same_pictures import HUMAN_PART, find_same_pictures
from blip_pipelines.ingest.annotated import ingest_annotated
from blip_pipelines.ingest.download import download_images
from blip_pipelines.texts.step import check_texts
from blip_pipelines.train.steps import evaluate, finetune_captioner, finetune_filter, pretrain, train_controls


def run_rounds(
    config: Config, last: int, say: Say, remake: Sequence[int] = (), retry: str | None = None
) -> Path | None:
    """Run the rounds up to `last`, making only what is missing or out of date; the path of the last round's page.

    Earlier rounds that were made to their end stay as they are, but for those in `remake`, which are made anew where
    the settings are others now. `retry` fetches rows of the images again that have failed: `failed`, or `failed:CLASS`
    for those of one error class; or asks captioners of `caption.writers` again for texts that they did not write in
    round `last`: `captions`, or `captions:REASON`. Writes the page of each round and the page over all rounds. Where
    captioner and filter are both given, no round depends on an earlier one, and only `last` is run. Raises ConfigError
    where the configuration does not suffice for the round, NothingLeft, once the pages are written, where no picture or
    no pair is left to go on with, and RunFailed where a step fails or another process works on the same root.
    """
    seeming = [number for number in _checked(config, last) if seem_right(config.of_round(number), number)]
    mistakes = _mistakes(config, last, remake, seeming) + check_retry(retry)
    if mistakes:
        raise ConfigError(mistakes)
    _say_notes(config, last, say)
    open_given = partial(_open_given, config, last, seeming)
    config = at_hand(resolve_dtypes(config, say))
    page, nothing_left = None, None
    with locked(config.root), OpenRun(config.root) as run:
        check_no_journal(config.root)
        adopt(config.root)
        before = out_of_date(config.root)
        if not seeming:
            open_given()
        write_whole(config.root / "config.yaml", shown(dump_yaml(config)))
        for number in _numbers(config, last, remake):
            run.close()
            try:
                if number < last and number not in remake and is_kept(config.root, number):
                    keep_round(config.of_round(number), number, say)
                else:
                    again = retry if number == last or not (retry or "").startswith(CAPTIONS_AGAIN) else None
                    run_round(config.of_round(number), number, say, again, open_given)
                    retry = retry if again is None else None  # the rounds after it have the same images
            except NothingLeft as error:
                nothing_left = error
            page = _write_pages(config, number, run, say)
            if nothing_left:
                break
        for number in sorted(one for one in before.keys() ^ out_of_date(config.root).keys() if one > last):
            if (round_folder(config.root, number) / "report.html").exists():
                _write_pages(config, number, run, say)
        say(f"overview: {write_overview(config.root, run)}")
        forget_note(config.root)
    if nothing_left:
        raise nothing_left
    return page


def _numbers(config: Config, last: int, remake: Sequence[int]) -> list[int]:
    """The rounds to look at: all up to `last`, or those asked for where none depends on an earlier one."""
    own = config.of_round(last)
    given = last > 0 and own.models_given
    return sorted({*remake, last}) if given else [*range(last + 1)]


def _checked(config: Config, last: int) -> list[int]:
    """The rounds up to `last` that have settings of their own, and `last`."""
    return [last, *(one for one in config.rounds if one < last)]


def _mistakes(config: Config, last: int, remake: Sequence[int], seeming: Sequence[int]) -> list[str]:
    """What the configuration lacks for the rounds, and whether those to be made anew are among them.

    Models given for rounds in `seeming` are not opened: nothing is wrong with them that shows without it.
    """
    found = [
        f"--remake {one}: is one of 0 to {last}, the rounds that --round {last} makes" for one in remake if one > last
    ]
    for number in _checked(config, last):
        own = config.of_round(number)
        found += check_config(own, number) or ([] if number in seeming else check_given(own, number))
    return list(dict.fromkeys(found))


def _say_notes(config: Config, last: int, say: Say) -> None:
    notes = [line for number in _checked(config, last) for line in notes_on(config.of_round(number), number)]
    for line in dict.fromkeys(notes):
        say(f"note: {line}")


def _open_given(config: Config, last: int, seeming: list[int]) -> None:
    """Open the models given for the rounds in `seeming`, once. Raises ConfigError where one is not right."""
    mistakes = [line for number in seeming for line in check_given(config.of_round(number), number)]
    if mistakes:
        raise ConfigError(list(dict.fromkeys(mistakes)))
    seeming.clear()
    note_given(config.of_round(last), last)


def _write_pages(config: Config, number: int, run: OpenRun, say: Say) -> Path:
    """Write the figures and the page of a round, where they may have changed; the page's path."""
    write_figures(config.root, number, config.of_round(number).truth, say)
    return write_report(config.root, number, config.of_round(number).report, run, say)


def run_download(config: Config, say: Say, retry: str | None = None) -> None:
    """Make the images alone, which no model is needed for; a later `run_rounds` finds them current."""
    if mistakes := check_retry(retry):
        raise ConfigError(mistakes)
    config = at_hand(config)
    at = Layout(config, 0)
    with locked(config.root):
        check_no_journal(config.root)
        adopt(config.root)
        Maker(config, say, retry=retry)(at.images, download_images, *at.urls)
        forget_note(config.root)


def keep_round(config: Config, number: int, say: Say) -> None:
    """Leave a round as it was made, and say whether the settings would make it otherwise now."""
    keeper = Keeper(number)
    with suppress(NothingLeft):
        _steps(config, Layout(config, number).as_made(read_pointers(config.root, number)), keeper)
    keeper.tell(say)
    for name, damaged in damage_of(config.root, number).items():
        say(f"{round_name(number)}: of its {name}, {', '.join(damaged)} is missing or damaged; put it back if you can")


def run_round(
    config: Config, number: int, say: Say, retry: str | None = None, open_given: Callable[[], None] | None = None
) -> None:
    """Run the steps of CapFilt round `number` (BLIP, section 3.3), making only what is missing or out of date.

    `retry` is as in `run_rounds`; `open_given` is called once the images are there.

    Raises NothingLeft where there is no picture, or no pair to train on or to give out.
    """
    make = Maker(config, say, number, retry)
    _steps(config, Layout(config, number), make, open_given)
    settle(config.root, number, without=_left_behind(config.root, number, make.settled))


def _left_behind(root: Path, number: int, settled: set[str]) -> frozenset[str]:
    """What the round had, is not asked for any more, and was made from something else than the round has now."""
    made = made_by_steps(root)
    mine = {name for name in made if round_of(name) == number} - settled
    return frozenset(name for name in mine if name in read_pointers(root, number) and made_from_another(made, name))


def _steps(config: Config, at: Layout, make: Maker | Keeper, open_given: Callable[[], None] | None = None) -> None:
    """The steps of a round, each as output, function, inputs; `open_given` is called after the first."""
    make(at.images, download_images, *at.urls)
    if lost := no_pictures(counts_of(at.images)):
        make(replace(at.pairs, section=None), take_web_pairs, at.images)
        raise NothingLeft(f"images: {lost}; the same command tries all of them again")
    if open_given:
        open_given()  # not before: fetching need not wait for torch
    make(at.human, ingest_annotated, at.human_list)
    make(at.held_out, ingest_annotated, at.held_out_list)
    make(at.hashes, hash_pictures, at.images)
    make(at.human_hashes, hash_pictures, at.human)
    make(at.held_out_hashes, hash_pictures, at.held_out)
    make(at.groups, group_pictures, at.images, at.hashes)
    make(at.text_checks, check_texts, at.images)
    aside = [*_grouped(at.groups), *([replace(at.text_checks, keyword="text_checks")] if at.text_checks else [])]
    looks = at.hashes, at.human_hashes, at.held_out_hashes
    make(at.same_pictures, find_same_pictures, at.images, at.human, at.held_out, *looks)
    of_human, of_all = _left_out(at.same_pictures, "human"), _left_out(at.same_pictures, "human", "web")
    if at.number == 0:
        make(at.pairs, take_web_pairs, at.images, *aside)
    else:
        make(at.captioner, finetune_captioner, at.previous_model, at.human, of_human)
        writer = at.captioner if config.filter.hard_texts.needs_captioner or config.filter.shared else None
        make(at.filter, finetune_filter, at.previous_model, at.human, of_human, writer)
        own = at.captioner if config.caption.own_writer else None
        judges = [at.judges] if at.judges else []
        plugged_in = [*([at.writers] if at.writers else []), *judges]
        make(at.captions, caption_and_score, at.images, own, at.filter, *plugged_in)
        make(at.filter_check, check_filter, at.images, own, at.filter, at.human, at.held_out, *judges)
        make(at.pairs, select_pairs, at.captions, *aside)
    if (lost := no_pairs(counts_of(at.pairs))) and not (at.model and at.human):
        use = "to train on, and no human set" if at.model else "to give out"
        raise NothingLeft(f"{at.pairs.name}: {lost}, so there is no pair {use}; what was made before it is kept")
    start = at.previous_model if config.pretrain.start_from == "previous" else None  # Table 13 has both
    make(at.model, pretrain, at.images, at.pairs, at.human, start, of_all)
    make(at.evaluation, evaluate, at.model, at.held_out, None, at.references)
    make(at.truth_pairs, oracle_pairs, at.images, at.captions, at.truth, *aside)
    arms = at.images, at.captions, at.pairs, at.human, at.held_out, at.truth_pairs, of_all
    make(at.controls, train_controls, *arms)


def _grouped(groups: Artifact | None) -> list[Artifact]:
    """The groups of pictures, as an input of what chooses pairs; none where no picture is there twice."""
    return [replace(groups, keyword="groups")] if groups and counts_of(groups).get("duplicates") else []


def _left_out(same_pictures: Artifact | None, *sets: str) -> Artifact | None:
    """The pictures that are in two sets, as an input of a training; None where it leaves none out of these sets."""
    counts = counts_of(same_pictures)
    if not same_pictures or not any(counts.get(f"left_out_{name}") for name in sets):
        return None
    return replace(same_pictures, file=HUMAN_PART) if sets == ("human",) else same_pictures
