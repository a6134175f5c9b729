"""The whole configuration of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    Field,
    SerializationInfo,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    field_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from blip_bootstrap.config.benchmark import BenchmarkConfig
from blip_bootstrap.config.caption import CaptionConfig
from blip_bootstrap.config.duplicates import DuplicatesConfig
from blip_bootstrap.config.evaluate import ControlsConfig, EvaluateConfig, ReportConfig
from blip_bootstrap.config.filter_check import CheckFilterConfig, FilterCheckConfig, Untrained
from blip_bootstrap.config.inputs import (
    AnnotatedSet,
    DownloadConfig,
    FindSamePicturesConfig,
    PictureRule,
    SamePicturesConfig,
)
from blip_bootstrap.config.select import BuiltInScore, SelectConfig
from blip_bootstrap.config.text_rules import TextRulesConfig
from blip_bootstrap.config.training import FinetuneConfig, PretrainConfig
from blip_bootstrap.config.vqa import VqaConfig
from blip_bootstrap.settings.marks import Seeded, mark_of
from blip_bootstrap.settings.section import Count, LocalPath, Positive, RunRoot, Section, SeedNumber

RoundNumber = Annotated[int, Field(ge=0)]

SEED: TypeAdapter[int] = TypeAdapter(SeedNumber)

OF_THE_RUN = ("root", "ray")
"""Settings that no round has for itself."""


class RayConfig(Section):
    """Where Ray runs; results do not depend on it."""

    address: str = Field(
        "local",
        description="local: a Ray on this machine, started once there is more than one file of work; auto: the cluster "
        "that Ray finds; else the address of a cluster; none: all in one process",
    )
    trainer: Literal["auto", "ray_train", "task"] = Field(
        "auto",
        description="what trains a model: Ray Train, or for one worker a plain Ray task; auto: a task for one worker "
        "on the CPU, else Ray Train",
    )
    num_cpus: Count | None = Field(None, description="logical CPUs of a local Ray; null: those of the machine")
    object_store_bytes: Annotated[int, Field(ge=80_000_000)] = Field(
        500_000_000, description="shared memory of a local Ray"
    )
    row_timeout_s: Positive = Field(
        60.0,
        description="a worker hangs that is at a batch for longer than this for each of its rows; once it has done "
        "some, for longer than 20 times as long as they took, and than this",
    )
    worker_memory_bytes: Count | None = Field(
        None, description="memory that is asked of Ray for each worker; one that holds more is ended. null: as measured"
    )
    nodes_timeout_s: Positive = Field(
        3600.0,
        description="a training whose workers find no room in the cluster waits so long for machines, and then ends; "
        "the same command goes on",
    )


class Config(Section):
    """The whole configuration of a run."""

    root: RunRoot = Field(
        Path("runs/default"),
        description="the folder of the run, or s3:// or gs://: everything that it makes lies there",
    )
    seed: SeedNumber = Field(0, description="seed of every section that does not set its own")
    download: DownloadConfig = DownloadConfig()
    human: AnnotatedSet | None = Field(
        None, description="pictures with captions that people wrote; needed to fine-tune captioner and filter"
    )
    held_out: AnnotatedSet | None = Field(
        None, description="pictures with captions on which each round's model is measured"
    )
    same_pictures: SamePicturesConfig = SamePicturesConfig()
    duplicates: DuplicatesConfig = DuplicatesConfig()
    truth: LocalPath | None = Field(
        None, description="JSON lines that say what is really in the pictures; for figures alone"
    )
    pretrain: PretrainConfig = PretrainConfig()
    captioner: FinetuneConfig = FinetuneConfig()
    filter: FinetuneConfig = FinetuneConfig()
    caption: CaptionConfig = CaptionConfig()
    filter_check: FilterCheckConfig = FilterCheckConfig()
    text_rules: TextRulesConfig = TextRulesConfig()
    select: SelectConfig = SelectConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    controls: ControlsConfig = ControlsConfig()
    report: ReportConfig = ReportConfig()
    ray: RayConfig = RayConfig()
    vqa: VqaConfig = Field(VqaConfig(), description="settings of `blip-bootstrap vqa`; no part of a round")
    benchmark: BenchmarkConfig = Field(
        BenchmarkConfig(), description="settings of `blip-bootstrap evaluate`; no part of a round"
    )
    rounds: Annotated[Mapping[RoundNumber, Config], WithJsonSchema({"type": "object"})] = Field(
        {}, description="settings of single rounds that are others than above, by number: `{2: {select: {...}}}`"
    )

    def of_round(self, number: int) -> Config:
        """The configuration of one round, in which its own settings stand in place of those of all."""
        return self.rounds.get(number, self)

    @property
    def needs_captioner(self) -> bool:
        """Whether rounds have a captioner of their own: it writes, or the filter learns from what it writes."""
        return self.caption.own_writer or self.filter.shared or self.filter.hard_texts.needs_captioner

    @property
    def models_given(self) -> bool:
        """Whether no round makes a captioner or filter: all that are needed are given."""
        return bool((self.captioner.checkpoint or not self.needs_captioner) and self.filter.checkpoint)

    @field_serializer("rounds")
    def _own_settings(self, rounds: Mapping[int, Config], info: SerializationInfo) -> dict[int, Any]:
        """Of each round what differs, as one writes it."""
        mode = "json" if info.mode == "json" else "python"
        base = self.model_dump(mode=mode, exclude={"rounds"})
        return {n: _differing(base, one.model_dump(mode=mode, exclude={"rounds"})) for n, one in rounds.items()}

    @model_validator(mode="after")
    def _knows_scores(self) -> Config:
        """A score that is not built in is one of a judge: its name, or where it has several NAME_SCORE."""
        judges = [one.name for one in self.caption.judges]
        for name in self.select.score_names:
            if name not in get_args(BuiltInScore) and not any(f"{name}_".startswith(f"{one}_") for one in judges):
                known = ", ".join((*get_args(BuiltInScore), *judges))
                raise _of_score(f"is one of {known}, or a score of caption.judges (got {name!r})")
            if name not in get_args(BuiltInScore) and self.select.is_idle_score:
                raise _of_score(f"strategy threshold cuts by {name} at select.score_threshold, which is not set")
        return self

    @model_validator(mode="before")
    @classmethod
    def _spread_seed(cls, data: Any) -> Any:
        """The top-level seed reaches every section that has a seed and does not set it."""
        if not isinstance(data, Mapping) or "seed" not in data or not _is_seed(data["seed"]):
            return data  # a wrong one is told once, and not of each section
        spread: dict[str, Any] = dict(data)
        for *sections, seed in _seeded(cls):
            node = spread
            for name in sections:
                child = node.get(name, {})
                if not isinstance(child, Mapping):
                    break
                node[name] = node = dict(child)
            else:
                node.setdefault(seed, data["seed"])
        return spread

    @model_validator(mode="before")
    @classmethod
    def _spread_picture_rule(cls, data: Any) -> Any:
        """Annotated sets are stored as the web's pictures are, where they do not say otherwise."""
        if not isinstance(data, Mapping) or not isinstance(data.get("download"), Mapping):
            return data
        rule = {name: value for name, value in data["download"].items() if name in PictureRule.model_fields}
        sets = {name: data.get(name) for name in ("human", "held_out")}
        return {**data, **{name: {**rule, **one} for name, one in sets.items() if isinstance(one, Mapping)}}

    @model_validator(mode="before")
    @classmethod
    def _draw_human(cls, data: Any) -> Any:
        """A sample of the human set is drawn by the run's seed, where it does not say otherwise."""
        if not isinstance(data, Mapping) or "seed" not in data or not isinstance(data.get("human"), Mapping):
            return data
        human = data["human"]
        return {**data, "human": {"sample_seed": data["seed"], **human}} if human.get("sample") else data

    @model_validator(mode="before")
    @classmethod
    def _spread_validation(cls, data: Any) -> Any:
        """Pre-training leaves out the tenth of the human set by which a fine-tuning chooses its best step."""
        if not isinstance(data, Mapping) or not any(_validates(data.get(name)) for name in ("captioner", "filter")):
            return data
        pretrain = data.get("pretrain", {})
        if isinstance(pretrain, PretrainConfig) and "hold_out_validation" not in pretrain.model_fields_set:
            return {**data, "pretrain": pretrain.model_copy(update={"hold_out_validation": True})}
        return (
            {**data, "pretrain": {"hold_out_validation": True, **pretrain}} if isinstance(pretrain, Mapping) else data
        )

    @model_validator(mode="before")
    @classmethod
    def _merge_rounds(cls, data: Any) -> Any:
        """Each round's own settings are laid over those of all. The last validator of its kind, which runs first."""
        rounds = data.get("rounds") if isinstance(data, Mapping) else None
        if not isinstance(rounds, Mapping):
            return data
        base = {name: value for name, value in data.items() if name != "rounds"}
        return {**base, "rounds": {number: _laid_over(base, own) for number, own in rounds.items()}}

    @model_validator(mode="after")
    def _keeps_one_run(self) -> Config:
        """What decides about the whole run is no round's own."""
        for number, own in self.rounds.items():
            names = [name for name in OF_THE_RUN if getattr(own, name) != getattr(self, name)]
            names += ["rounds"] if own.rounds else []
            if names:
                raise ValueError(f"rounds.{number}.{names[0]} is of the whole run; set {names[0]} itself")
        return self

    @model_validator(mode="after")
    def _has_whole_patches(self) -> Config:
        vision = self.pretrain.model.vision
        for name, section in (("captioner", self.captioner), ("filter", self.filter)):
            if vision.kind == "vit" and (section.image_size or 0) % vision.patch_size:
                given = f"{name}.image_size {section.image_size}"
                raise ValueError(f"{given} is not a multiple of pretrain.model.vision.patch_size {vision.patch_size}")
        return self

    @model_validator(mode="after")
    def _shares_what_it_tunes(self) -> Config:
        if self.captioner.shared:
            raise ValueError("captioner.shared is of the filter; set filter.shared")
        if self.filter.shared and (self.captioner.checkpoint or self.filter.checkpoint):
            raise ValueError("filter.shared is of a model that is tuned; leave out captioner.checkpoint and filter's")
        return self

    @model_validator(mode="after")
    def _has_references(self) -> Config:
        if self.evaluate.wants_references and not self.human:
            raise ValueError("evaluate.rerank_by lm needs a human set (human)")
        return self


def _laid_over(base: Any, own: Any) -> Any:
    """The mapping `base` with the values of `own` in place of its own, level by level."""
    if own is None or not isinstance(own, Mapping):
        return own
    below = base.model_dump(exclude_unset=True) if isinstance(base, Section) else base
    if not isinstance(below, Mapping):
        return own
    return {**below, **{name: _laid_over(below.get(name), value) for name, value in own.items()}}


def _differing(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The values of `own` that are others than in `base`, level by level."""
    return {
        name: _differing(base[name], value) if isinstance(value, dict) and isinstance(base.get(name), dict) else value
        for name, value in own.items()
        if value != base.get(name)
    }


def _validates(section: Any) -> bool:
    """Whether a section, as a mapping or as a FinetuneConfig, fine-tunes and chooses its best step by validation."""
    given = section if isinstance(section, Mapping) else vars(section) if isinstance(section, FinetuneConfig) else {}
    return given.get("validate_every_steps") not in (None, 0, "0", False) and not given.get("checkpoint")


def _is_seed(value: object) -> bool:
    try:
        SEED.validate_python(value)
    except ValidationError:
        return False
    return True


def _seeded(section: type[Section]) -> Iterator[tuple[str, ...]]:
    """The settings below a section that take the run's seed, as the names on the way to each."""
    for name, field in section.model_fields.items():
        if mark_of(field, Seeded):
            yield (name,)
        elif isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from ((name, *below) for below in _seeded(field.annotation))


def _of_score(told: str) -> PydanticCustomError:
    """A mistake in `select.score` that is seen from the whole configuration alone."""
    return PydanticCustomError("value_error", "{told}", {"told": told, "where": "select.score"})


class TrainControlsConfig(ControlsConfig):
    """The settings on which the controls depend: the arms, and those of the round's own pre-training and evaluation."""

    pretrain: PretrainConfig
    evaluate: EvaluateConfig

    @classmethod
    def of(cls, config: Config) -> TrainControlsConfig:
        """The part of a whole configuration that the controls depend on."""
        return cls(**config.controls.model_dump(), pretrain=config.pretrain, evaluate=config.evaluate)


def same_pictures_config(config: Config) -> FindSamePicturesConfig:
    """The part of a whole configuration that decides which pictures are in two sets."""
    looks = config.duplicates
    near = {"near_radius": looks.near_radius, "least_quality": looks.least_quality} if looks.near else {}
    return FindSamePicturesConfig(**config.same_pictures.model_dump(), **near)


def check_filter_config(config: Config) -> CheckFilterConfig:
    """The part of a whole configuration that measuring the scores depends on."""
    own = [config.captioner] if config.caption.own_writer else []
    tuned = [one for one in (*own, config.filter) if not one.checkpoint]
    held_out = all(one.validate_every_steps for one in tuned) and config.pretrain.hold_out_validation
    untrained: Untrained = "all" if not tuned else "validation" if held_out else "none"
    caption = config.caption.model_copy(
        update={"writers": ()}
    )  # what they write is paid for, and judged by nobody here
    return CheckFilterConfig(**config.filter_check.model_dump(), caption=caption, untrained=untrained)
