"""Judges by the name of their kind: the built-in ones, and those that installed packages bring."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, get_args

from blip_bootstrap.config import JudgeConfig
from blip_bootstrap.config.select import BuiltInScore
from blip_bootstrap.errors import ConfigError, InputError
from blip_bootstrap.paths import SCORE_NAME
from blip_bootstrap.storage.tables import CAPTIONS
from blip_pipelines.judges.interface import VARIES_WITH, Judge

GROUP = "blip_bootstrap.judges"
"""The entry points by which a package names its judges: `my-kind = "my_package.module:MyJudge"`."""

BUILT_IN = {
    "dual_encoder": "blip_pipelines.judges.dual_encoder:DualEncoderJudge",
    "vqa_score": "blip_pipelines.judges.vqa:VqaJudge",
    "endpoint_vqa_score": "blip_pipelines.judges.endpoint:EndpointVqaJudge",
    "blip_itm": "blip_pipelines.judges.blip:BlipItmJudge",
    "blip_itc": "blip_pipelines.judges.blip:BlipItcJudge",
}
"""Kinds that are always there; a package cannot take their names."""

TAKEN = frozenset((*get_args(BuiltInScore), "rule", *CAPTIONS.schema.names))
"""Names that already mean another score or column."""


def kinds() -> dict[str, str]:
    """Each kind of judge with the class that it names, as `module:Class`."""
    return {one.name: one.value for one in entry_points(group=GROUP)} | BUILT_IN


def judge_class(kind: str) -> type[Judge]:
    """The class of a kind. Raises ConfigError where nobody has registered it, or its class cannot be imported."""
    known = kinds()
    if kind not in known:
        near = get_close_matches(kind, known, n=1)
        meant = f"did you mean {near[0]}?" if near else "install the package that brings it"
        raise ConfigError([f"kind: there is no judge {kind!r}; {meant} (there are {', '.join(sorted(known))})"])
    found: type[Judge] = _imported(kind, known[kind])
    return found


def make_judge(kind: str, options: Mapping[str, Any]) -> Judge:
    """A judge of this kind, not loaded. Raises ConfigError where there is none, or its options are wrong."""
    made = judge_class(kind)(options)
    lacking = [name for name in ("load", "score", "digest", "names", "varies_with") if not hasattr(made, name)]
    if lacking:
        raise ConfigError([f"kind: {kind} ({kinds()[kind]}) is no judge: it has no {', '.join(lacking)}"])
    if made.varies_with not in VARIES_WITH:
        raise ConfigError([f"kind: {kind}: varies_with is one of {', '.join(VARIES_WITH)}, not {made.varies_with!r}"])
    if not made.names or not all(isinstance(name, str) and re.match(SCORE_NAME, name) for name in made.names):
        raise ConfigError([f"kind: {kind}: names are lower case letters, digits and underscores, not {made.names!r}"])
    return made


def score_names(judge: JudgeConfig, names: Sequence[str]) -> dict[str, str]:
    """What a judge's own names are called in the tables: by its name alone where it has a single score."""
    return {one: judge.name if len(names) == 1 else f"{judge.name}_{one}" for one in names}


def names_of_judges(judges: Sequence[JudgeConfig]) -> list[str]:
    """The scores of these judges, as the tables call them. Raises ConfigError as `make_judge` does."""
    return [name for one in judges for name in score_names(one, make_judge(one.kind, one.options).names).values()]


def with_account(judge: JudgeConfig, folder: Path) -> JudgeConfig:
    """The judge, with a folder for the account of what it asks, where it keeps one (`with_account`)."""
    place = getattr(judge_class(judge.kind), "with_account", None)
    return judge.model_copy(update={"options": place(judge.options, folder)}) if place else judge


def mistakes_of(judges: Sequence[JudgeConfig]) -> list[str]:
    """What is wrong with the judges' kinds, options and names, one line for each mistake."""
    mistakes, known = [], dict.fromkeys(TAKEN, "a score or column that is always there")
    for one in judges:
        where = f"caption.judges.{one.name}"
        try:
            names = names_of_judges([one])
        except ConfigError as error:
            mistakes += [f"{where}: {line}" for line in error.mistakes]
            continue
        except InputError as error:
            mistakes.append(f"{where}: {error}")
            continue
        mistakes += [
            f"{where}: {name} is the name of {known[name]}; call it otherwise" for name in names if name in known
        ]
        known |= dict.fromkeys(names, f"a score of {where}")
    return mistakes


def digest_of_judges(judges: Sequence[JudgeConfig]) -> str:
    """What all judges are, as one digest; of one that is wrong, its options as they are."""
    return hashlib.sha256(json.dumps([_digest_of(one) for one in judges]).encode()).hexdigest()


def _digest_of(judge: JudgeConfig) -> str:
    try:
        return make_judge(judge.kind, judge.options).digest
    except InputError:  # said by who begins to work with it
        return json.dumps(dict(judge.options), sort_keys=True)


def _imported(kind: str, place: str) -> Any:
    try:
        if kind in BUILT_IN:
            module, _, name = place.partition(":")
            return getattr(import_module(module), name)
        return EntryPoint(kind, place, GROUP).load()
    except (ImportError, AttributeError) as error:
        raise ConfigError([f"kind: {kind} ({place}) cannot be imported: {error}"]) from error
