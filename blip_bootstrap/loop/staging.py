"""Where artifacts are made and how they come to their place: the only module of the loop that moves or deletes files.

An artifact is made in a private folder under `.staging`, and comes to its place by renames when it is whole.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blip_bootstrap.loop.layout import Artifact
from blip_bootstrap.storage.files import write_whole
from blip_bootstrap.storage.run_folder import MANIFEST

STAGING = ".staging"


def staging_folder(root: Path, artifact: Artifact, digest: str) -> Path:
    """The folder in which `artifact` is made by the recipe with this digest.

    What a killed run left there is kept, so that the step goes on from it; what other recipes left is deleted.
    """
    name = artifact.name.replace("/", "--")
    folder = root / STAGING / f"{name}--{digest[:16]}"
    for other in folder.parent.glob(f"{name}--*"):
        if other != folder:
            shutil.rmtree(other)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def publish(staged: Path, artifact: Artifact, manifest: Mapping[str, Any]) -> None:
    """Move what is staged to the artifact's place, with its MANIFEST.

    A run that is killed in between leaves no artifact or a whole one: the old one goes first, the new one comes in one
    rename.
    """
    text = json.dumps(manifest, indent=1) + "\n"
    artifact.local.parent.mkdir(parents=True, exist_ok=True)
    if artifact.is_file:
        artifact.manifest.unlink(missing_ok=True)
        (staged / artifact.local.name).replace(artifact.local)
        write_whole(artifact.manifest, text)
        shutil.rmtree(staged)
        return
    for hidden in staged.glob(".*"):
        shutil.rmtree(hidden) if hidden.is_dir() else hidden.unlink()
    for file in staged.rglob("*.safetensors"):
        file.chmod(0o644)  # safetensors writes for the owner alone, and a model is there to be shared
    write_whole(staged / MANIFEST, text)
    old = staged.with_name(f"{staged.name}.old")
    if artifact.local.exists():
        artifact.local.replace(old)
    staged.replace(artifact.local)
    if old.exists():
        shutil.rmtree(old)


def restage(artifact: Artifact, staged: Path, damaged: list[str]) -> None:
    """Move a published folder back to its staging folder, without the damaged files: only these are made anew."""
    shutil.rmtree(staged, ignore_errors=True)
    artifact.local.replace(staged)
    for name in [*damaged, MANIFEST]:
        (staged / name).unlink(missing_ok=True)
