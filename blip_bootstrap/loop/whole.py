"""Whether an artifact is there, whole, and what it holds: read from its MANIFEST."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blip_bootstrap.errors import InputError
from blip_bootstrap.loop.layout import Artifact
from blip_bootstrap.reading.places import digest_of_files, digest_of_stamps, files_of
from blip_bootstrap.reading.records import is_list_file
from blip_bootstrap.storage.files import write_whole
from blip_bootstrap.storage.manifest import digest_of_path, stamp_of
from blip_bootstrap.storage.notes import digest_in
from blip_bootstrap.storage.run_folder import MANIFEST, TRAIN_ANEW, TRAINED, read_json

DIGESTS = ".lists/digests.json"
"""Under the root, on this machine alone: the digests of large lists, with sizes and dates of their files."""

LARGE_BYTES = 1 << 25
"""Smaller files are hashed each time: 0.03 s."""

_digests: dict[tuple[object, ...], str] = {}


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
        advice = TRAIN_ANEW if folder.resolve().parent.name in TRAINED else "delete its folder to make it anew"
        raise InputError(f"{folder / MANIFEST}: damaged ({error.__cause__}); {advice}") from error
    return manifest


def counts_of(artifact: Artifact | None) -> Mapping[str, Any]:
    """What the step counted that made the artifact; empty where it is not there."""
    manifest = read_manifest(artifact) if artifact else None
    counts: Mapping[str, Any] = (manifest or {}).get("counts", {})
    return counts


def digest_of_input(artifact: Artifact, root: Path | None = None) -> str:
    """What an input holds, as 64 hex digits: of its MANIFEST where a step made it, else of its bytes.

    That of a large file is remembered under `root`, the run's, until the file changes.
    A name that is no path is the name of a model on the hub, and the digest is that of the name. Raises InputError
    where an input is missing.
    """
    if not artifact.given:
        manifest = read_manifest(artifact)
        if manifest is None:
            raise InputError(f"{artifact.path}: not there or half-made; run the round that makes it first")
        of_file = [digest_in(entry) for entry in manifest["files"] if entry["name"] == artifact.file]
        return str(of_file[0] if of_file else manifest["content"])
    if artifact.holds == "list" and not artifact.local.is_file():
        return digest_of_files(files_of(artifact.local, is_list_file))
    if artifact.holds == "pictures":
        return digest_of_stamps(artifact.local)
    if artifact.local.exists():
        return _digest_of_given(artifact.local, root)
    if isinstance(artifact.path, Path):
        raise InputError(f"{artifact.path}: no such file (the {artifact.name})")
    return hashlib.sha256(artifact.path.encode()).hexdigest()


def _digest_of_given(path: Path, root: Path | None) -> str:
    if not path.is_file() or path.stat().st_size < LARGE_BYTES:
        return digest_of_path(path)
    stamp, name = [*stamp_of(path)], str(path.absolute())
    known = _remembered(root) if root else {}
    if known.get(name, {}).get("stamp") == stamp:
        return str(known[name]["sha256"])
    digest = _digests.get((name, *stamp)) or digest_of_path(path)
    _digests[(name, *stamp)] = digest
    if root and root.is_dir():
        (root / DIGESTS).parent.mkdir(exist_ok=True)
        told = {one: was for one, was in known.items() if Path(one).is_file()}
        write_whole(root / DIGESTS, json.dumps(told | {name: {"stamp": stamp, "sha256": digest}}, indent=1))
    return digest


def _remembered(root: Path) -> dict[str, Any]:
    try:
        found = read_json(root / DIGESTS)
    except InputError:
        return {}
    return {name: one for name, one in (found or {}).items() if isinstance(one, dict)}
