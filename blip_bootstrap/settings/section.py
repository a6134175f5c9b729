"""The base class of every section of the configuration, and the types of their values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

from blip_bootstrap.paths import local_path, model_name, root_text, run_root
from blip_bootstrap.settings.marks import ByContent, CountsAs, Seeded, Speed

Fraction = Annotated[float, Field(ge=0, le=1)]

Count = Annotated[int, Field(ge=1)]

NonNegative = Annotated[int, Field(ge=0)]

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

ShardRows = Annotated[int, Field(ge=1, le=100_000)]  # five digits of a key count the rows of a shard


def _fits_torch(seed: int) -> int:
    if seed >= 2**63:
        raise ValueError("must be under 2^63, as torch has it")
    return seed


SeedNumber = Annotated[int, Field(ge=0), AfterValidator(_fits_torch)]
"""What torch and numpy both take as a seed."""

Seed = Annotated[SeedNumber, Seeded()]

NumWorkers = Annotated[Count, CountsAs(1), Field(description="training processes that share each batch")]

MinWorkers = Annotated[
    Count | None,
    Speed(),
    Field(
        description="on Ray: where machines are lost for more than ten minutes, go on with so few workers; null: wait "
        "for num_workers, as long as ray.nodes_timeout_s"
    ),
]


def _path_text(value: object) -> str:
    """A path of this machine as text, which is all that pydantic takes for a path read from JSON."""
    return str(local_path(value))


def _root_text(value: object) -> str:
    return str(run_root(value))


LocalPath = Annotated[Path, BeforeValidator(_path_text)]
"""A path of this machine, `~` expanded; see `paths.local_path`."""

RunRoot = Annotated[Path, BeforeValidator(_root_text), PlainSerializer(root_text, return_type=str)]
"""Where a run lies: a path of this machine, or an s3:// or gs:// URI; see `paths.run_root`."""

InputPath = RunRoot
"""Where an input lies: a file, a folder or a pattern of this machine, or an s3:// or gs:// URI of one."""

ModelName = Annotated[str, BeforeValidator(model_name), ByContent()]
"""A model or tokenizer: a folder or file, `package:NAME` or a hub name; see `paths.model_name`."""

Device = Literal["auto", "cpu", "cuda"]

Dtype = Literal["auto", "float32", "bfloat16"]
"""auto: bfloat16 where the device is fast at it, else float32; settled before anything is made."""

Normalise = Literal["auto", "none", "blip"]
"""How texts are shown to a model. blip: as by BLIP's released code (`TextConfig.normalise`)."""


class Section(BaseModel):
    """A part of the configuration: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _keep_own_defaults(cls, data: Any) -> Any:
        """A section that is set in part keeps, for the rest, the default of its field and not that of its class.

        `captioner: {optimizer: {lr: 1e-4}}` stays at the captioner's 5,000 steps; OptimizerConfig has 100,000.
        """
        if not isinstance(data, Mapping):
            return data
        places = {name: field.default for name, field in cls.model_fields.items() if isinstance(field.default, Section)}
        return {**data, **{name: _filled(default, data[name]) for name, default in places.items() if name in data}}


def _filled(default: Section, given: Any) -> Any:
    """The settings `given`, and those that `default` sets beside them; a Section made in Python is taken as it is."""
    if not isinstance(given, Mapping):
        return given
    own = {name: getattr(default, name) for name in default.model_fields_set}
    return own | {
        name: _filled(own[name], value) if isinstance(own.get(name), Section) else value
        for name, value in given.items()
    }


def check_at_most(section: Section, smaller: str, larger: str) -> None:
    """Raise ValueError where the setting `smaller` is more than the setting `larger`, which it must not exceed."""
    low, high = getattr(section, smaller), getattr(section, larger)
    if low > high:
        raise ValueError(f"{smaller} {low} is more than {larger} {high}; lower {smaller}, or raise {larger}")


def check_workers(most: int, fewest: int | None, batch_size: int, accumulate: int) -> None:
    """Raise ValueError where the workers cannot share a batch, or where the fewest are more than there are to be."""
    if fewest and fewest > most:
        raise ValueError(f"min_workers {fewest} is more than num_workers {most}; lower it")
    if batch_size % (most * accumulate):
        factors = {"num_workers": most, "accumulate": accumulate}
        shares = " x ".join(f"{name} {factor}" for name, factor in factors.items() if factor > 1)
        raise ValueError(
            f"optimizer.batch_size {batch_size} cannot be shared out evenly over {shares}; take a multiple of "
            f"{most * accumulate}"
        )
