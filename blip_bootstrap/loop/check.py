"""What a configuration lacks for a round, found before anything is made."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import get_args

from blip_bootstrap.config import (
    CaptionConfig,
    Config,
    FinetuneConfig,
    HardTextsConfig,
    OptimizerConfig,
    PretrainConfig,
)
from blip_bootstrap.config.select import BuiltInScore
from blip_bootstrap.errors import InputError
from blip_bootstrap.loop.input_paths import missing_paths
from blip_bootstrap.schemas.closed_lists import ERROR_CLASSES, NO_ANSWERS
from blip_bootstrap.select.own_score import expressions
from blip_pipelines.caption.again import CAPTIONS_AGAIN
from blip_pipelines.captioners.registry import mistakes_of
from blip_pipelines.judges.registry import mistakes_of as mistakes_of_judges
from blip_pipelines.judges.registry import names_of_judges
from blip_training.decoding.sampler import resolve_sampler
from blip_training.watch.trackers import lacking_trackers

NEVER_FETCHED = ("blank_url", "duplicate_row")
"""Error classes of rows of which nothing is fetched, so that they cannot be fetched again."""


def check_config(config: Config, number: int) -> list[str]:
    """What the configuration lacks for round `number`, one line for each mistake."""
    has_any = config.download.urls or config.download.pictures
    mistakes = [] if has_any else ["download.urls: at least one URL list is needed, or pictures (download.pictures)"]
    mistakes += missing_paths(config, number)
    if number > 0:
        mistakes += _check_finetune(config, "captioner", config.captioner) if config.needs_captioner else []
        mistakes += _check_finetune(config, "filter", config.filter)
        mistakes += _check_beams(config.caption)
        mistakes += check_passes(config.caption)
        mistakes += [line for one in config.caption.writers for line in mistakes_of(one)]
        mistakes += mistakes_of_judges(config.caption.judges) or _check_scores(config)
        mistakes += _check_filter_only(config) + _check_controls(config)
        mistakes += _check_hard_texts(config) + _check_itm(config)
    mistakes += _check_trackers(config, number) + _check_positions(config, number)
    if config.pretrain.optimizer.steps == 0 and number == 0:
        mistakes.append("pretrain.optimizer.steps: is 0, so that round 0 has nothing to make; run a later round")
    return mistakes


def check_retry(retry: str | None) -> list[str]:
    """What is wrong with the rows that are to be fetched again; nothing where none are named."""
    status, _, error_class = (retry or "failed").partition(":")
    if status == CAPTIONS_AGAIN:
        return _check_captions_again(str(retry), error_class)
    fetched = [one for one in ERROR_CLASSES if one not in NEVER_FETCHED]
    if status == "failed" and (error_class in fetched or retry in (None, "failed")):
        return []
    near = get_close_matches(error_class, fetched, n=1)
    meant = f"did you mean failed:{near[0]}?" if near else f"CLASS is one of {', '.join(fetched)}"
    return [f"--retry {retry}: is failed, or failed:CLASS for one error class, or captions; {meant}"]


def _check_captions_again(retry: str, reason: str) -> list[str]:
    if retry == CAPTIONS_AGAIN or reason in NO_ANSWERS:
        return []
    near = get_close_matches(reason, NO_ANSWERS, n=1)
    meant = f"did you mean captions:{near[0]}?" if near else f"REASON is one of {', '.join(NO_ANSWERS)}"
    return [f"--retry {retry}: is captions, or captions:REASON for texts that lack for one reason; {meant}"]


def _check_finetune(config: Config, name: str, section: FinetuneConfig) -> list[str]:
    if section.checkpoint:
        return []
    if config.human is None:
        return [f"human: needed to fine-tune the {name}; or give {name}.checkpoint"]
    if config.pretrain.optimizer.steps == 0:
        return [f"{name}.checkpoint: needed where pretrain.optimizer.steps is 0"]
    return []


def _check_beams(caption: CaptionConfig) -> list[str]:
    """Beam search gives as many candidates as it has beams, or fewer."""
    if caption.candidates == 1 or not (caption.sampler.num_beams or caption.sampler.preset == "beam"):
        return []
    beams = resolve_sampler(caption.sampler).num_beams
    if beams == 1 or beams >= caption.candidates:
        return []
    return [f"caption.candidates: {caption.candidates} of {beams} beams; set caption.sampler.num_beams higher"]


def check_passes(caption: CaptionConfig) -> list[str]:
    """What is wrong with the rule by which texts pass: scores that nobody gives; nothing where no text is spared."""
    if not caption.spares:
        return []
    if caption.until_passes and resolve_sampler(caption.sampler).num_beams > 1:
        return ["caption.until_passes: beam search writes all candidates at once; use another sampler.preset"]
    try:
        judged = names_of_judges(caption.judges)
    except InputError:  # told of the judges themselves
        return []
    known = [one for one in get_args(BuiltInScore) if one != "agreement"] + judged
    asked = [(name, f"caption.passes.{source}.{name}") for source, rule in caption.passes.items() for name in rule]
    mistakes = [f"{where}: there is no such score; {_meant(name, known)}" for name, where in asked if name not in known]
    lacking = {
        "clip": (caption.scorer is None, "caption.scorer gives it, and none is set"),
        "distinctness": (not caption.references, "caption.references is 0, so that no text has it"),
        "lift": (not caption.references or not caption.lift_references, "caption.lift_references is 0"),
    }
    told = {name: why for name, (lacks, why) in lacking.items() if lacks}
    return mistakes + [f"{where}: {told[name]}" for name, where in asked if name in told]


def _meant(name: str, known: Sequence[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"


def _check_scores(config: Config) -> list[str]:
    """The rule may go by scores of judges that there are; found before hours of captioning for it."""
    known, select = names_of_judges(config.caption.judges), config.select
    try:
        own = expressions(select).values() if select.has_own_score else []
    except InputError as error:
        return [str(error)]
    asked = [name for one in own for name in one.scores] if own else select.score_names
    lacking = [name for name in dict.fromkeys(asked) if name not in (*known, *get_args(BuiltInScore))]
    setting = "select.score" if select.score_sql is None else "select.score_sql"
    given = f"their scores are {', '.join(known)}" if known else "there are none"
    return [f"{setting}: {name} is no score of a judge of caption.judges; {given}" for name in lacking]


def _check_filter_only(config: Config) -> list[str]:
    """The arm `filter_only` has web texts alone, and needs a score that these have."""
    select = config.select
    if "filter_only" in config.controls.arms and select.strategy == "fraction" and select.score == "logprob":
        return [
            "controls.arms: filter_only has no pairs where select.strategy fraction cuts by logprob, which web texts "
            "lack; leave the arm out, or cut by another select.score"
        ]
    return []


def _check_controls(config: Config) -> list[str]:
    """What an arm trains on has to be there; found before the captions and the round's own model are made."""
    arms = config.controls.arms if config.held_out and config.pretrain.optimizer.steps else ()
    lacking = {"human_only": ("human", config.human), "oracle": ("truth", config.truth)}
    return [
        f"controls.arms: {arm} needs {setting}; give it, or leave the arm out"
        for arm, (setting, value) in lacking.items()
        if arm in arms and value is None
    ]


def _check_hard_texts(config: Config) -> list[str]:
    """Hard texts are of the filter, and its captioner's texts begin with what the captioner was trained on."""
    mistakes = []
    if config.captioner.hard_texts != HardTextsConfig():
        mistakes.append("captioner.hard_texts: a captioner learns from right texts alone; set filter.hard_texts")
    if config.filter.hard_texts.needs_captioner and config.filter.prompt != config.captioner.prompt:
        told = f"{config.filter.prompt!r}, the captioner's is {config.captioner.prompt!r}"
        mistakes.append(f"filter.prompt: {told}; give both the same where filter.hard_texts.captioner is used")
    return mistakes


def notes_on(config: Config, number: int) -> list[str]:
    """What is likely not meant in the settings of round `number`, one line each; the round can be made all the same."""
    trained = _trained(config, number)
    return [line for name, section in trained.items() for line in note_on_warmup(section.optimizer, name)]


def note_on_warmup(optimizer: OptimizerConfig, name: str) -> list[str]:
    """Why the training `name` never comes to its learning rate; nothing where it does.

    It is no mistake: who shortens a training to try it, or goes on with a run made before, is not kept from it.
    """
    steps, warmup = optimizer.steps, optimizer.warmup_steps
    if steps >= warmup:
        return []
    told = f"{warmup} is more than steps {steps}, so that the learning rate rises no higher than {steps / warmup:.1%}"
    return [f"{name}.optimizer.warmup_steps: {told} of lr; {steps // 10} is a tenth of the steps"]


def _check_trackers(config: Config, number: int) -> list[str]:
    """The trackers of trainings are installed; found before days of downloads and captions."""
    return [
        f"{name}.optimizer.trackers: {line}"
        for name, section in _trained(config, number).items()
        for line in lacking_trackers(section.optimizer.trackers)
    ]


def _trained(config: Config, number: int) -> dict[str, PretrainConfig | FinetuneConfig]:
    """The settings of the models that round `number` trains, by their section's name."""
    tuned = {"captioner": config.captioner} if number > 0 and config.needs_captioner else {}
    tuned |= {"filter": config.filter} if number > 0 and not config.filter.shared else {}
    sections = {"pretrain": config.pretrain} | {name: one for name, one in tuned.items() if not one.checkpoint}
    return {name: section for name, section in sections.items() if section.optimizer.steps}


def _check_itm(config: Config) -> list[str]:
    """A filter judges by ITM, which has to begin before its training ends."""
    name, section = ("captioner", config.captioner) if config.filter.shared else ("filter", config.filter)
    start, steps = section.itm.start_step, section.optimizer.steps
    if config.filter.checkpoint or not 0 < steps <= start:
        return []
    return [f"{name}.itm.start_step: {start} is past the last of {steps} steps, so that ITM is never trained; lower it"]


def _check_positions(config: Config, number: int) -> list[str]:
    """Texts of models that are trained here fit these; found before the trainings."""
    positions, steps = config.pretrain.model.text.max_positions, config.pretrain.optimizer.steps
    writes = number > 0 and config.caption.own_writer and not config.captioner.checkpoint
    samplers = {"caption.sampler": config.caption.sampler} if writes else {}
    samplers |= {"evaluate.sampler": config.evaluate.sampler} if config.held_out and steps else {}
    longest = {name: resolve_sampler(one).max_tokens for name, one in samplers.items()}
    return [
        f"{name}.max_tokens: {most} is more than pretrain.model.text.max_positions {positions}; lower it"
        for name, most in longest.items()
        if most > positions
    ]
