"""Where a run's things lie, and what each was made from: artifacts, digests, manifests, publishing by rename."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pydantic import BaseModel

from blip_bootstrap.config import AnnotatedSet, Config, FinetuneConfig, Section, TrainControlsConfig
from blip_bootstrap.errors import InputError

MANIFEST = "MANIFEST.json"
STAGING = ".staging"
COUNTED_BY_CONTENT = ("start", "tokenizer", "checkpoint", "labels", "captioners", "filters", "scorer")
"""Settings that name a file or folder: what lies there decides the output, not its name."""


@dataclass(frozen=True)
class Artifact:
    """Something on disk: a folder or file that a step makes from `section` and inputs, or (`given`) the user's own."""

    name: str
    path: Path | str
    section: Section | None = None
    given: bool = False

    @property
    def manifest(self) -> Path:
        """Where its MANIFEST lies: in the folder, or beside the file."""
        path = Path(self.path)
        return path.with_name(f".{path.name}.{MANIFEST}") if path.suffix else path / MANIFEST


class Layout:
    """The artifacts of one round under `config.root`; None where the configuration leaves a part out."""

    def __init__(self, config: Config, number: int) -> None:
        self.config, self.number = config, number
        self.root = config.root
        self.round = self.root / f"round-{number:02d}"
        self.urls = tuple(Artifact(f"list {one.name}", one.path, given=True) for one in config.download.urls)
        self.images = Artifact("images", self.root / "images", config.download)
        self.human_list, self.human = self._annotated("human", config.human)
        self.held_out_list, self.held_out = self._annotated("held_out", config.held_out)
        self.truth = Artifact("truth", config.truth, given=True) if config.truth else None
        trains = config.pretrain.optimizer.steps > 0
        self.model = self._made("model", config.pretrain) if trains else None
        self.previous_model = self._previous("model") if trains and number else None
        self.pairs = self._made("pairs", config.select if number else None)
        self.evaluation = self._made("evaluation", config.evaluate) if trains and config.held_out else None
        self.references = self.human if config.evaluate.wants_references else None
        self.metrics = self._made("metrics.json", None)
        self.report = self._made("report.html", config.report)
        self.captioner = self._finetuned("captioner", config.captioner) if number else None
        self.filter = self._finetuned("filter", config.filter) if number else None
        self.captions = self._made("captions", config.caption) if number else None
        arms = bool(config.controls.arms) and number > 0
        oracle = arms and config.truth and "oracle" in config.controls.arms
        self.truth_pairs = self._made("truth_pairs", None) if oracle else None
        self.controls = self._made("controls", TrainControlsConfig.of(config)) if arms and self.evaluation else None

    def _made(self, name: str, section: Section | None) -> Artifact:
        return Artifact(f"{self.round.name}/{name}", self.round / name, section)

    def _previous(self, name: str) -> Artifact:
        folder = self.root / f"round-{self.number - 1:02d}"
        return Artifact(f"{folder.name}/{name}", folder / name)

    def _annotated(self, name: str, section: AnnotatedSet | None) -> tuple[Artifact | None, Artifact | None]:
        if section is None:
            return None, None
        return Artifact(f"list {name}", section.path, given=True), Artifact(name, self.root / name, section)

    def _finetuned(self, name: str, section: FinetuneConfig) -> Artifact:
        if section.checkpoint:
            return Artifact(f"given {name}", section.checkpoint, section, given=True)
        return self._made(name, section)


# ------------------------------------------------------------------------------------------------------- digests


def digest_of_input(artifact: Artifact) -> str:
    """What an input holds, as 64 hex digits: of its MANIFEST where a step made it, else of its bytes.

    A name that is no path is a hub name, and its digest that of the name.
    Raises InputError where a path that should be there is not.
    """
    if not artifact.given:
        manifest = read_manifest(artifact)
        if manifest is None:
            raise InputError(f"{artifact.path}: not there or half-made; run the round that makes it first")
        return str(manifest["content"])
    path = Path(artifact.path)
    if path.exists():
        return digest_of_path(path)
    if isinstance(artifact.path, Path):
        raise InputError(f"{path}: no such file (the {artifact.name})")
    return hashlib.sha256(str(artifact.path).encode()).hexdigest()


def digest_of_path(path: Path) -> str:
    """The sha256 of a file, or of a folder's names and files."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    files = sorted(p for p in path.rglob("*") if p.is_file())
    whole = hashlib.sha256()
    for one in files:
        whole.update(f"{one.relative_to(path)} {digest_of_path(one)}\n".encode())
    return whole.hexdigest()


def recipe_of(step: str, section: Section | None, inputs: Mapping[str, str]) -> dict[str, Any]:
    """What decides a step's output: its name, its settings (speed settings left out) and its inputs' digests."""
    settings = _settings(section) if section else {}
    return {"step": step, "config": settings, "inputs": dict(inputs)}


def digest_of_recipe(recipe: Mapping[str, Any]) -> str:
    """The recipe's sha256, 64 hex digits."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def _settings(section: BaseModel) -> dict[str, Any]:
    """The section as JSON without its speed settings and later ones at their defaults.

    A path to a model or tokenizer counts by what it holds.
    """
    found: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        value, marks = getattr(section, name), field.json_schema_extra
        if isinstance(marks, dict) and (marks.get("speed") or (marks.get("later") and value == field.default)):
            continue
        if isinstance(value, BaseModel):
            found[name] = _settings(value)
        elif name in COUNTED_BY_CONTENT and value:
            found[name] = [_content(one) for one in value] if isinstance(value, tuple) else _content(value)
        else:
            found[name] = section.model_dump(mode="json", include={name})[name]
    return found


def _content(source: Path | str) -> str:
    """The digest of what lies there; a hub name as it is."""
    return digest_of_path(Path(source)) if Path(source).exists() else str(source)


# ----------------------------------------------------------------------------------------------------- manifests


def read_manifest(artifact: Artifact) -> dict[str, Any] | None:
    """The artifact's MANIFEST, or None where there is none: then the artifact is not whole."""
    try:
        manifest: dict[str, Any] = json.loads(artifact.manifest.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{artifact.manifest}: damaged ({error}); delete it to make its folder anew") from error
    return manifest


def damaged_files(artifact: Artifact, manifest: Mapping[str, Any]) -> list[str]:
    """Names of the artifact's files that are missing or not of the size that the manifest states."""
    folder = artifact.manifest.parent
    return [
        entry["name"]
        for entry in manifest["files"]
        if not (file := folder / entry["name"]).is_file() or file.stat().st_size != entry["bytes"]
    ]


def describe_files(folder: Path) -> list[dict[str, Any]]:
    """Name, rows (Parquet), bytes and sha256 of every file of a staged folder, hidden ones left out."""
    entries = []
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = file.relative_to(folder)
        if any(part.startswith(".") for part in name.parts):
            continue
        entry: dict[str, Any] = {"name": str(name), "bytes": file.stat().st_size, "sha256": digest_of_path(file)}
        if file.suffix == ".parquet":
            entry["rows"] = pq.read_metadata(file).num_rows
        entries.append(entry)
    return entries


def staging_folder(root: Path, artifact: Artifact, digest: str) -> Path:
    """The private place where `artifact` is made for this digest; it survives a kill, and is continued from."""
    folder = root / STAGING / f"{artifact.name.replace('/', '--')}--{digest[:16]}"
    for stale in folder.parent.glob(f"{artifact.name.replace('/', '--')}--*"):
        if stale != folder:
            shutil.rmtree(stale)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def publish(staged: Path, artifact: Artifact, manifest: Mapping[str, Any]) -> None:
    """Move what is staged to its place in one rename, its MANIFEST with it.

    Killed in between, the artifact is absent and never half there: the old one goes first, the new one comes whole.
    """
    path = Path(artifact.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(manifest, indent=1)
    if path.suffix:
        artifact.manifest.unlink(missing_ok=True)
        (staged / path.name).replace(path)
        _write_text(artifact.manifest, text)
        shutil.rmtree(staged)
        return
    for hidden in staged.glob(".*"):
        shutil.rmtree(hidden) if hidden.is_dir() else hidden.unlink()
    for file in staged.rglob("*.safetensors"):
        file.chmod(0o644)  # safetensors writes for the owner alone, and a model is there to be shared
    _write_text(staged / MANIFEST, text)
    if path.exists():
        old = staged.with_name(f"{staged.name}.old")
        path.replace(old)
        staged.replace(path)
        shutil.rmtree(old)
    else:
        staged.replace(path)


def _write_text(path: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    staged = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    staged.write_text(text + "\n", encoding="utf-8")
    staged.replace(path)


def restage(artifact: Artifact, staged: Path, damaged: list[str]) -> None:
    """Take a published folder with damaged files back to staging without these, so that only they are made anew."""
    shutil.rmtree(staged, ignore_errors=True)
    Path(artifact.path).replace(staged)
    for name in [*damaged, MANIFEST]:
        (staged / name).unlink(missing_ok=True)
