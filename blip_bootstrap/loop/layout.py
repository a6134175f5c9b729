"""The artifacts of a round, and where they lie."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from blip_bootstrap.config import (
    AnnotatedSet,
    Config,
    FinetuneConfig,
    PictureSource,
    Section,
    TrainControlsConfig,
    UrlList,
    check_filter_config,
    same_pictures_config,
)
from blip_bootstrap.storage.remote import opened
from blip_bootstrap.storage.run_folder import round_folder
from blip_pipelines.captioners.registry import KINDS as CAPTIONERS
from blip_pipelines.judges.registry import KINDS as JUDGES


def at_hand(config: Config) -> Config:
    """The configuration with the folder where its run can be worked on, in place of an s3:// or gs:// URI."""
    return config.model_copy(update={"root": opened(config.root, make=True)})


@dataclass(frozen=True)
class Artifact:
    """Something on disk that a step makes (a folder) or reads (a folder, or a file).

    A step makes it from `section` and its inputs; one that is `given` is the user's own. `path` is a string where it
    may be the name of a model on the hub. As an input of a step that depends on one of its files alone, it names that
    (`file`); a step that may do without it gets it by the name of a parameter (`keyword`).
    """

    name: str
    path: Path | str
    section: Section | None = None
    given: bool = False
    file: str | None = None
    keyword: str | None = None
    holds: Literal["", "list", "pictures"] = ""
    """Of what the user gives: a list, which may be many files, or pictures, which are told by their files' times."""

    @property
    def local(self) -> Path:
        """Where it lies, if it is no name on the hub."""
        return Path(self.path)

    @property
    def argument(self) -> Path | str:
        """What a step receives: a path, or the name of a model on the hub."""
        return self.local if isinstance(self.path, Path) or self.local.exists() else self.path


def _given(kind: Literal["list", "pictures"], found: Iterable[UrlList | PictureSource]) -> tuple[Artifact, ...]:
    return tuple(Artifact(f"{kind} {one.name}", one.path, given=True, holds=kind) for one in found)


class Layout:
    """The artifacts of one round under `config.root`; None for those that the configuration does without."""

    def __init__(self, config: Config, number: int) -> None:
        self.config, self.number = config, number
        self.root = config.root
        self.round = round_folder(self.root, number)
        download = config.download
        self.urls = (*_given("list", download.urls), *_given("pictures", download.pictures))
        self.images = Artifact("images", self.root / "images", config.download)
        self.human_list, self.human = self._annotated("human", config.human)
        self.held_out_list, self.held_out = self._annotated("held_out", config.held_out)
        self.hashes = self._hashes("hashes", self.images)
        wanted = config.duplicates.wanted
        self.groups = Artifact("groups", self.root / "groups", config.duplicates) if wanted else None
        self.text_checks = self._made("text_checks", config.text_rules) if config.text_rules.rules else None
        self.same_pictures = self._same_pictures()
        self.human_hashes = self._hashes("human_hashes", self.human if self.same_pictures else None)
        self.held_out_hashes = self._hashes("held_out_hashes", self.held_out if self.same_pictures else None)
        self.truth = Artifact("truth", config.truth, given=True) if config.truth else None
        trains = config.pretrain.optimizer.steps > 0
        self.model = self._made("model", config.pretrain) if trains else None
        before = round_folder(self.root, number - 1)
        self.previous_model = Artifact(f"{before.name}/model", before / "model") if trains and number else None
        self.pairs = self._made("pairs", config.select if number else None)
        self.evaluation = self._made("evaluation", config.evaluate) if trains and config.held_out else None
        self.references = self.human if config.evaluate.wants_references else None
        own = config.captioner.model_copy(update={"shared": config.filter.shared})
        self.captioner = self._finetuned("captioner", own) if number and config.needs_captioner else None
        self.writers = self._writers() if number and config.caption.writers else None
        self.judges = self._judges() if number and config.caption.judges else None
        self.filter = self._finetuned("filter", config.filter) if number else None
        self.captions = self._made("captions", config.caption) if number else None
        checks = config.filter_check.pictures and (config.human or config.held_out)
        self.filter_check = self._made("filter_check", check_filter_config(config)) if number and checks else None
        arms = bool(config.controls.arms) and number > 0
        oracle = arms and config.truth and "oracle" in config.controls.arms
        self.truth_pairs = self._made("truth_pairs", None) if oracle else None
        self.controls = self._made("controls", TrainControlsConfig.of(config)) if arms and self.evaluation else None

    def as_made(self, pointers: Mapping[str, Mapping[str, str]]) -> Layout:
        """The same round with each artifact where the record of the round has it, whatever its place shows now."""
        for key, one in vars(self).items():
            if isinstance(one, Artifact) and not one.given and one.name in pointers:
                setattr(self, key, replace(one, path=self.root / pointers[one.name]["folder"]))
        return self

    def _made(self, name: str, section: Section | None) -> Artifact:
        return Artifact(f"{self.round.name}/{name}", self.round / name, section)

    def _annotated(self, name: str, section: AnnotatedSet | None) -> tuple[Artifact | None, Artifact | None]:
        if section is None:
            return None, None
        return Artifact(f"list {name}", section.path, given=True), Artifact(name, self.root / name, section)

    def _hashes(self, name: str, pictures: Artifact | None) -> Artifact | None:
        """What the pictures of a set look like; None where nobody asks."""
        return Artifact(name, self.root / name) if pictures and self.config.duplicates.near else None

    def _writers(self) -> Artifact:
        """What the captioners of `caption.writers` say of themselves, as one digest: an input without a file."""
        digest = CAPTIONERS.digest(self.config.caption.writers)
        return Artifact("what caption.writers are", digest, given=True, keyword="writers")

    def _judges(self) -> Artifact:
        """What the judges of `caption.judges` say of themselves, as `_writers` has it."""
        return Artifact(
            "what caption.judges are", JUDGES.digest(self.config.caption.judges), None, True, None, "judges"
        )

    def _same_pictures(self) -> Artifact | None:
        """The pictures that are in two sets; None where there is one set, or no training that could leave them out."""
        given = self.config.models_given
        trains = self.config.pretrain.optimizer.steps > 0 or (self.number and not given)
        if not trains or not (self.human or self.held_out):
            return None
        return Artifact("same_pictures", self.root / "same_pictures", same_pictures_config(self.config))

    def _finetuned(self, name: str, section: FinetuneConfig) -> Artifact:
        if section.checkpoint:
            return Artifact(f"given {name}", section.checkpoint, section, given=True)
        return self._made(name, section)
