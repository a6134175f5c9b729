"""Judges by the name of their kind: the built-in ones, and those that installed packages bring."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from blip_bootstrap.config import JudgeConfig
from blip_bootstrap.config.select import BuiltInScore
from blip_bootstrap.errors import ConfigError, InputError
from blip_bootstrap.paths import SCORE_NAME
from blip_bootstrap.schemas.tables import CAPTIONS
from blip_pipelines.captioners.kinds import Kinds
from blip_pipelines.judges.interface import Judge

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


KINDS: Kinds[Judge] = Kinds("judge", GROUP, BUILT_IN, ("load", "score", "digest", "names", "varies_with"))


def make_judge(kind: str, options: Mapping[str, Any]) -> Judge:
    """A judge of this kind, not loaded. Raises ConfigError where there is none, or its options or names are wrong."""
    made = KINDS.make(kind, options)
    if not made.names or not all(isinstance(name, str) and re.match(SCORE_NAME, name) for name in made.names):
        raise ConfigError([f"kind: {kind}: names are lower case letters, digits and underscores, not {made.names!r}"])
    return made


def score_names(judge: JudgeConfig, names: Sequence[str]) -> dict[str, str]:
    """What a judge's own names are called in the tables: by its name alone where it has a single score."""
    return {one: judge.name if len(names) == 1 else f"{judge.name}_{one}" for one in names}


def names_of_judges(judges: Sequence[JudgeConfig]) -> list[str]:
    """The scores of these judges, as the tables call them. Raises ConfigError as `make_judge` does."""
    return [name for one in judges for name in score_names(one, make_judge(one.kind, one.options).names).values()]


def told_of(judge: JudgeConfig, made: Judge | None = None) -> dict[str, object]:
    """What stands of a judge in the metadata of captions; two of which it is the same give the same scores.

    Raises ConfigError as `make_judge` does.
    """
    made = made or make_judge(judge.kind, judge.options)
    names = [*score_names(judge, made.names).values()]
    return {
        "name": judge.name, "kind": judge.kind, "digest": made.digest, "varies_with": made.varies_with, "scores": names,
    }  # fmt: skip


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
