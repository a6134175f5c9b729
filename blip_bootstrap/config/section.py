"""What every section of the configuration is made of: its base class and the types of its values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

from blip_bootstrap.paths import local_path, source

Fraction = Annotated[float, Field(ge=0, le=1)]

Count = Annotated[int, Field(ge=1)]

NonNegative = Annotated[int, Field(ge=0)]

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

ShardRows = Annotated[int, Field(ge=1, le=100_000)]  # five digits of a key count the rows of a shard


def _path_text(value: object) -> str:
    """As `local_path`; as text, for a path that is read from JSON has to be that."""
    return str(local_path(value))


LocalPath = Annotated[Path, BeforeValidator(_path_text)]
"""A path of this machine, `~` expanded; see `paths.local_path`."""

Source = Annotated[str, BeforeValidator(source)]
"""A model or tokenizer: a path, `package:NAME` or a hub name; see `paths.source`."""

Device = Literal["auto", "cpu", "cuda"]

Dtype = Literal["auto", "float32", "bfloat16"]
"""auto: bfloat16 where the device has products of it, else float32; resolved before anything is made."""

Normalise = Literal["auto", "none", "blip"]
"""How texts are shown to a model. blip: as by BLIP's released code (TextConfig.normalise)."""

SPEED: dict[str, JsonValue] = {"speed": True}
"""Marks a setting that decides how fast a result comes or how bytes are fetched, never the result: a change of it makes
nothing anew."""

LATER: dict[str, JsonValue] = {"later": True}
"""Marks a setting that is younger than the runs that people have. At its default a step makes what it made before the
setting was there, so a recipe holds it only where it is another: what was made before stays current."""


def counts_as(value: JsonValue) -> dict[str, JsonValue]:
    """Marks a setting that decides no result, but was part of recipes once: they hold `value`, whatever is set.

    What was made, or half-made, while `value` was the default stays current.
    """
    return {"counts_as": value}


class Section(BaseModel):
    """A part of the configuration: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
