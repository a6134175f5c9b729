"""Whether an artifact is there, whole, and what it holds: read from its MANIFEST."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blip_bootstrap.errors import InputError
from blip_bootstrap.loop.layout import Artifact
from blip_bootstrap.reading.places import digest_of_files, digest_of_stamps, files_of
from blip_bootstrap.reading.records import is_list_file
from blip_bootstrap.storage.manifest import digest_of_path
from blip_bootstrap.storage.run_folder import MANIFEST, read_json


def read_manifest(artifact: Artifact) -> dict[str, Any] | None:
    """The artifact's MANIFEST; None where there is none, and the artifact is not whole.

    Raises InputError where it is damaged.
    """
    return manifest_in(artifact.local)


def manifest_in(folder: Path) -> dict[str, Any] | None:
    """The MANIFEST in a folder; None where there is none. Raises InputError where it is damaged."""
    try:
        manifest: dict[str, Any] | None = read_json(folder / MANIFEST)
    except InputError as error:
        raise InputError(
            f"{folder / MANIFEST}: damaged ({error.__cause__}); delete its folder to make it anew"
        ) from error
    return manifest


def counts_of(artifact: Artifact | None) -> Mapping[str, Any]:
    """What the step counted that made the artifact; empty where it is not there."""
    manifest = read_manifest(artifact) if artifact else None
    counts: Mapping[str, Any] = (manifest or {}).get("counts", {})
    return counts


def digest_of_input(artifact: Artifact) -> str:
    """What an input holds, as 64 hex digits: of its MANIFEST where a step made it, else of its bytes.

    A name that is no path is the name of a model on the hub, and the digest is that of the name. Raises InputError
    where an input is missing.
    """
    if not artifact.given:
        manifest = read_manifest(artifact)
        if manifest is None:
            raise InputError(f"{artifact.path}: not there or half-made; run the round that makes it first")
        of_file = [entry["sha256"] for entry in manifest["files"] if entry["name"] == artifact.file]
        return str(of_file[0] if of_file else manifest["content"])
    if artifact.holds == "list" and not artifact.local.is_file():
        return digest_of_files(files_of(artifact.local, is_list_file))
    if artifact.holds == "pictures":
        return digest_of_stamps(artifact.local)
    if artifact.local.exists():
        return digest_of_path(artifact.local)
    if isinstance(artifact.path, Path):
        raise InputError(f"{artifact.path}: no such file (the {artifact.name})")
    return hashlib.sha256(artifact.path.encode()).hexdigest()
