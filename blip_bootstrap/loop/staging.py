"""Where a run's things lie, and what each was made from: artifacts, digests, manifests, publishing by rename."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blip_bootstrap.errors import InputError
from blip_bootstrap.loop.layout import Artifact
from blip_bootstrap.storage.files import write_whole
from blip_bootstrap.storage.manifest import digest_of_path
from blip_bootstrap.storage.run_folder import MANIFEST

STAGING = ".staging"


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
    text = json.dumps(manifest, indent=1) + "\n"
    if path.suffix:
        artifact.manifest.unlink(missing_ok=True)
        (staged / path.name).replace(path)
        write_whole(artifact.manifest, text)
        shutil.rmtree(staged)
        return
    for hidden in staged.glob(".*"):
        shutil.rmtree(hidden) if hidden.is_dir() else hidden.unlink()
    for file in staged.rglob("*.safetensors"):
        file.chmod(0o644)  # safetensors writes for the owner alone, and a model is there to be shared
    write_whole(staged / MANIFEST, text)
    if path.exists():
        old = staged.with_name(f"{staged.name}.old")
        path.replace(old)
        staged.replace(path)
        shutil.rmtree(old)
    else:
        staged.replace(path)


def restage(artifact: Artifact, staged: Path, damaged: list[str]) -> None:
    """Take a published folder with damaged files back to staging without these, so that only they are made anew."""
    shutil.rmtree(staged, ignore_errors=True)
    Path(artifact.path).replace(staged)
    for name in [*damaged, MANIFEST]:
        (staged / name).unlink(missing_ok=True)
