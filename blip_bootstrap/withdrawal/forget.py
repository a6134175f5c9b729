"""Takes rows out of a run: by a journal, so that a kill at any moment loses nothing and the next call ends it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blip_bootstrap.errors import InputError
from blip_bootstrap.progress import Progress
from blip_bootstrap.storage.files import make_folder, sweep, sync, write_durable
from blip_bootstrap.storage.manifest import digest_of_path, stored
from blip_bootstrap.storage.many_files import FILES, FILES_IN
from blip_bootstrap.storage.notes import Note, digest_in, note_path, read_note, write_note
from blip_bootstrap.storage.parquet import read_parquet
from blip_bootstrap.storage.run_folder import MANIFEST, STALE, checksum
from blip_bootstrap.storage.withdrawn import JOURNAL, add_withdrawn
from blip_bootstrap.stores.store import fetched, gone, is_there
from blip_bootstrap.withdrawal.asked import Asked
from blip_bootstrap.withdrawal.lineage import Found, artifacts_of
from blip_bootstrap.withdrawal.plan import Plan, Planner
from blip_bootstrap.withdrawal.tables import Marks, counts_in, going, kind_of, left_of, write_left

RECEIPTS = "withdrawals"
"""Under the root: a JSON file for each time that something was forgotten."""


def plan_withdrawal(root: Path, asked: Asked) -> tuple[Plan, dict[str, str]]:
    """What `forget` would do, and the rows with the same bytes that stay, key and URL; nothing is changed."""
    planner = Planner(root, asked)
    return planner.plan(), planner.going.equal


def is_begun(root: Path) -> bool:
    """Whether a call was stopped before its end."""
    return is_there(root / JOURNAL)


def begin(root: Path, plan: Plan) -> None:
    """Write the journal: from now on the run does nothing else before this is at its end."""
    write_durable(root / JOURNAL, plan.as_json())


def end(root: Path) -> tuple[Plan, Path]:
    """Do what the journal says, all of it or what is left; the plan, and the path of its receipt.

    Each file is written beside the old one and takes its name in one rename; then the MANIFESTs follow. The journal
    goes last. Hold the run's lock.
    """
    plan = _read_journal(root)
    add_withdrawn(root, plan.urls, plan.pictures)
    for folder in (root, *(one for one in root.rglob("*/") if not one.is_symlink())):
        sweep(folder)
    for name in plan.delete:
        gone(root / name)
    written = _write_files(root, plan)
    if plan.files or plan.stale:
        for one in artifacts_of(root):
            if one.is_whole:
                _write_manifest(one, plan, written)
    receipt = _write_receipt(root, plan)
    gone(root / JOURNAL)
    sync(root)
    return plan, receipt


def _read_journal(root: Path) -> Plan:
    path = root / JOURNAL
    try:
        return Plan.of_json(fetched(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path}: damaged ({error}); delete it and forget again what was asked") from error


def _write_files(root: Path, plan: Plan) -> dict[str, dict[str, Any]]:
    """Write the tables that have rows which go, without them; what MANIFESTs are to say of each."""
    written = {}
    with Progress("forget", len(plan.files), unit="files") as progress:
        for file, keys in plan.files.items():
            written[file] = _write_file(root / file, Marks(frozenset(keys), frozenset(plan.texts)))
            progress.advance(1)
    for file, told in plan.lists.items():
        write_durable(root / file, json.dumps(told, sort_keys=True) + "\n")
        written[file] = {"bytes": (root / file).stat().st_size, "sha256": digest_of_path(root / file)}
    return written


def _write_file(path: Path, marks: Marks) -> dict[str, Any]:
    before, note = read_parquet(path), read_note(path)
    kind = kind_of(before.schema.names)
    assert kind, path
    mask = going(before, kind, marks)
    rows = left_of(before, kind, mask)
    if not rows.equals(before):
        write_left(path, rows, before.schema)
        sync(path.parent)
    counts = counts_in(path, rows, kind)
    fetched(path)
    now = Note(path.stat().st_size, digest_of_path(path), len(rows), counts, note.same if note else None)
    if note or is_there(note_path(path)):  # of what is half-made
        write_note(path, now)
    return {"bytes": now.bytes, "sha256": now.sha256, "rows": now.rows, "counts": counts}


def _write_manifest(one: Found, plan: Plan, written: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the MANIFEST anew of what has such files, or is stale. By what recipes know a file stays as it was."""
    pointer = one.told.get(FILES_IN)  # a kill may have left the JSON before beside newer files
    is_torn = pointer is not None and digest_of_path(one.path / FILES) != pointer["sha256"]
    files, is_changed = [], is_torn or (one.folder in plan.stale and STALE not in one.told)
    for entry in one.told["files"]:
        home = str(entry.get("at") or f"{one.folder}/{entry['name']}")
        if home in written:
            now = {name: value for name, value in written[home].items() if name in entry}
            same = {"same": digest_in(entry)} if written[home]["sha256"] != entry["sha256"] or "same" in entry else {}
            is_changed |= now != {name: entry[name] for name in now}
            entry = {**entry, **now, **same}
        files.append(entry)
    counts = plan.counts.get(one.folder, one.told.get("counts", {}))
    if not is_changed and counts == one.told.get("counts", {}):
        return
    manifest = {name: value for name, value in one.told.items() if name != FILES_IN}
    manifest |= {"files": files, "counts": counts, "check": checksum(counts, files)}
    manifest |= {STALE: plan.stale[one.folder]} if one.folder in plan.stale else {}
    write_durable(one.path / MANIFEST, json.dumps(stored(one.path, manifest), indent=1) + "\n")


def _write_receipt(root: Path, plan: Plan) -> Path:
    made = root / RECEIPTS
    make_folder(made)
    name = str(plan.receipt["when"]).replace(":", "-").replace("+00-00", "Z")
    path, at = made / f"{name}.json", 1
    text = json.dumps(plan.receipt, indent=1) + "\n"
    while is_there(path) and fetched(path).read_text(encoding="utf-8") != text:
        path, at = made / f"{name}-{at + 1}.json", at + 1
    write_durable(path, text)
    return path
