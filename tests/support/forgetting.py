"""What tests of `forget` ask of a run: what holds what is gone, and whether all of it is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blip_bootstrap.audit.audits import audit
from blip_bootstrap.loop.artifacts import damaged_files
from blip_bootstrap.storage.lock import locked
from blip_bootstrap.storage.manifest import digest_of_path
from blip_bootstrap.storage.parquet import read_parquet
from blip_bootstrap.storage.run_folder import place_of, read_json
from blip_bootstrap.withdrawal.asked import asked
from blip_bootstrap.withdrawal.forget import begin, end, plan_withdrawal

GONE = ("http://web/3.jpg", "http://web/8.jpg")

KEYS = ("0000000003", "0000100002")

TEXTS = ("a text of picture 3", "a text of picture 8")


def forgotten(root: Path, *urls: str, **known: Any) -> dict[str, Any]:
    """Forget without writing pages anew; the receipt."""
    begin(root, plan_withdrawal(root, asked(urls, **known))[0])
    with locked(root):
        return end(root)[0].receipt


def holding(root: Path, wanted: list[bytes]) -> list[str]:
    """The files under a root that hold one of these, as bytes, or in a cell where they are tables."""
    found = []
    for path in (one for one in root.rglob("*") if one.is_file() and not one.is_symlink()):
        data = path.read_bytes()
        if path.suffix == ".parquet" or data[:4] == b"PAR1":
            cells = (cell for column in read_parquet(path).columns for cell in column.to_pylist())
            data += b"\n".join(cell if isinstance(cell, bytes) else repr(cell).encode() for cell in cells)
        found += [f"{path.relative_to(root)}: {one[:40]!r}" for one in wanted if one in data]
    return found


def is_whole(root: Path) -> bool:
    """Whether every artifact has the files that its MANIFEST names, with their bytes."""
    for path in root.glob("artifacts/*/*/MANIFEST.json"):
        manifest = read_json(path)
        files = [(place_of(path.parent, one["name"], one.get("at")), one["sha256"]) for one in manifest["files"]]
        if damaged_files(path.parent, manifest) or any(digest_of_path(file) != sha256 for file, sha256 in files):
            return False
    return True


def no_gap(root: Path, number: int = 1) -> bool:
    (answer,) = audit(root, number, ["accounting"])
    return all(row["gap"] == 0 for row in answer.table.to_pylist())
