"""What `forget` is to do, decided before anything is changed: it is the journal of the work, and its receipt."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from blip_bootstrap.report.report_file import REPORT_FILES
from blip_bootstrap.schemas.keys import is_part, part_of
from blip_bootstrap.storage.parquet import open_parquet, reading
from blip_bootstrap.storage.parts import is_left_out, read_left_out
from blip_bootstrap.storage.run_folder import (
    ARTIFACTS,
    labels_path,
    languages_path,
    manifest_path,
    round_folder,
    round_numbers,
    used_folder,
)
from blip_bootstrap.storage.withdrawn import HASHES, JOURNAL, digest_of_url
from blip_bootstrap.stores.store import is_there, size_of
from blip_bootstrap.withdrawal.asked import Asked
from blip_bootstrap.withdrawal.lineage import DOWNLOAD, Found, Lineage, artifacts_of
from blip_bootstrap.withdrawal.rows import Going, find_rows, keys_of_images, stored_bytes
from blip_bootstrap.withdrawal.stale import cost_of, reference_keys, stale_artifacts, with_those_after
from blip_bootstrap.withdrawal.tables import Marks, columns_of, counts_of_gone, going, kind_of, less

GOES_ON = (DOWNLOAD, "caption_and_score", "hash_pictures", "check_texts")
"""Steps whose half-made artifacts stay, without the rows; of others a half-made one that has such rows goes whole."""

SCRATCH = (".growth", ".bring")
"""Folders in artifacts that a step makes again where it needs them."""

LISTS = "known/lists.json"

MOST_SOUGHT, MOST_BYTES = 1_000, 1 << 26
"""URLs that are looked for in other files under the root, and the size of these in bytes."""


@dataclass
class Plan:
    """Digests of URLs, texts and pictures; files with the keys of their rows that go; MANIFESTs that change; receipt.

    All paths are from the root. `lists` are files of counts beside images, with what these are to be.
    """

    urls: list[str] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    files: dict[str, list[str]] = field(default_factory=dict)
    lists: dict[str, dict[str, Any]] = field(default_factory=dict)
    counts: dict[str, dict[str, Any]] = field(default_factory=dict)
    stale: dict[str, str] = field(default_factory=dict)
    delete: list[str] = field(default_factory=list)
    receipt: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> str:
        """As the journal has it."""
        return json.dumps(asdict(self))

    @classmethod
    def of_json(cls, text: str) -> Plan:
        """What the journal has."""
        return cls(**json.loads(text))


class Planner:
    """Reads what a run has of the rows that are asked for; changes nothing."""

    def __init__(self, root: Path, asked: Asked) -> None:
        self.root, self.asked = root, asked
        self.found = artifacts_of(root)
        self.lineage = Lineage(self.found)
        self.going: Going = find_rows(self.found, asked)
        self.keys = {one.folder: self._keys(one) for one in self.found}
        self.gone: dict[str, pa.Table] = {}
        self.made = Plan(self.going.url_digests, sorted(self.going.pictures), sorted(self.going.texts))

    def plan(self) -> Plan:
        """What is to be done, with its receipt."""
        made = self.made
        if self.going.keys:
            for one in self.found:
                self._look(one)
            self._look_beside()
            made.delete += self._to_delete()
            made.stale = stale_artifacts(self.found, self.lineage, self.gone, self.keys)
            for one in (one for one in self.found if one.is_whole):
                self._count(one)
        made.receipt = self._receipt()
        return made

    def _keys(self, one: Found) -> set[str]:
        """The keys of the rows that go in the images that an artifact is of; all, where these are not there."""
        if one.step in (DOWNLOAD, ""):
            return keys_of_images(one, self.going.keys)
        images = self.lineage.images(one)
        if images is None:
            return self.going.all_keys
        return {key for image in images for key in keys_of_images(image, self.going.keys)}

    def _look(self, one: Found) -> None:
        keys, numbers = self.keys[one.folder], {part_of(key) for key in self.keys[one.folder]}
        if not keys:
            return
        if not one.is_whole and (one.step not in GOES_ON or reference_keys(one, self.lineage) & keys):
            self.made.delete.append(one.folder)
            return
        for name in one.own:
            file = f"{one.folder}/{name}"
            if _may_have(name, one.step, numbers):
                self._look_into(file, self.going.keys.get(file, set()), keys)

    def _look_into(self, file: str, own: set[str], keys: set[str]) -> None:
        """Plan a file; `own` are the keys of a file of pictures or of their URLs, `keys` those of other tables."""
        path = self.root / file
        with reading(path), open_parquet(path) as opened:
            names = opened.schema_arrow.names
            if (kind := kind_of(names)) is None:
                return
            rows = opened.read(columns_of(kind, names))
        marks = Marks(frozenset(own if kind == "pictures" else keys), frozenset(self.going.texts))
        gone = rows.filter(going(rows, kind, marks))
        if len(gone):
            self.gone[file] = gone
            self.made.files[file] = sorted(marks.keys)

    def _look_beside(self) -> None:
        """The answers and languages of rounds' texts, by the keys of the images that each round was made with."""
        folders = {(self.root / one.folder).resolve(): one.folder for one in self.found}
        for number in round_numbers(self.root):
            folder = folders.get(used_folder(self.root, number, "images").resolve())
            keys = self.keys[folder] if folder else self.going.all_keys
            for path in (labels_path(self.root, number), languages_path(self.root, number)):
                if is_there(path):
                    self._look_into(path.relative_to(self.root).as_posix(), set(), keys)

    def _to_delete(self) -> list[str]:
        """Pages and figures, which are written anew, and scratch."""
        rounds = (one for one in self.root.glob("*") if one.is_dir() and not one.is_symlink())  # copies of some, too
        folders = [self.root, *rounds, *(round_folder(self.root, number) for number in round_numbers(self.root))]
        pages = [folder / name for folder in folders for name in REPORT_FILES]
        files = [file for page in dict.fromkeys(pages) for file in (page, manifest_path(page)) if is_there(file)]
        files += [one.path / name for one in self.found for name in SCRATCH if (one.path / name).is_dir()]
        return [file.relative_to(self.root).as_posix() for file in files]

    def _count(self, one: Found) -> None:
        """The counts of an artifact without the rows, also of those in parts that it borrows."""
        mine = {name: self.gone[home] for name, home in one.homes.items() if home in self.gone}
        if not mine:
            return
        counts = dict(one.told.get("counts", {}))
        if one.step == DOWNLOAD:
            change = _change_of_images(one.path, {name: rows for name, rows in mine.items() if is_part(name)})
            self.made.counts[one.folder] = _changed(counts, change)
            if is_there(one.path / LISTS) and not (one.path / LISTS).is_symlink():
                told = json.loads((one.path / LISTS).read_text(encoding="utf-8"))
                self.made.lists[f"{one.folder}/{LISTS}"] = told | {"rows": _changed(told["rows"], change)}
            return
        lost: Counter[str] = Counter()
        for name, rows in mine.items():
            kind = kind_of(open_parquet(self.root / one.homes[name]).schema_arrow.names)
            lost.update(counts_of_gone(one.path / name, rows, kind) if kind and "/" not in name else {})
        self.made.counts[one.folder] = less(counts, lost)

    def _receipt(self) -> dict[str, Any]:
        files = {file: len(rows) for file, rows in self.gone.items()}
        mine = {(one.folder, name): self.going.keys.get(f"{one.folder}/{name}", set()) for one in self.found
                for name in one.own}  # fmt: skip
        rows = {(folder, key) for (folder, _), keys in mine.items() for key in keys}
        pictures = [stored_bytes(self.root / file, keys) for file, keys in self.going.keys.items()]
        stale = with_those_after(self.found, self.made.stale)
        return {
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "asked": {"urls": len(self.asked.urls), "domains": len(self.asked.domains),
                      "pictures": len(self.asked.pictures), "not_found": self.going.unknown},
            "rows": len(rows),
            "pictures": sum(number for number, _ in pictures),
            "bytes": sum(size for _, size in pictures),
            "texts": self._num_texts("flags"),
            "pairs": self._num_texts("kept"),
            "files": files,
            "bytes_written_anew": sum(size_of(self.root / file) or 0 for file in files),
            "deleted": list(self.made.delete),
            "keys": {one.folder: sorted(keys) for one in self.found if (keys := self.keys[one.folder])
                     and one.step == DOWNLOAD},
            "urls": self.made.urls,
            "pictures_by_sha256": self.made.pictures,
            "domains": sorted(digest_of_url(one) for one in self.asked.domains),
            "same_bytes_elsewhere": sorted(self.going.equal),
            "named_in": self._named_in(),
            "stale": [cost_of(one, self.made.stale) for one in stale],
        }  # fmt: skip

    def _named_in(self) -> list[str]:
        """Other files under the root that have one of the URLs as it is, as a list or an export that was put there."""
        urls = sorted(self.going.urls)[:MOST_SOUGHT]
        wanted = re.compile(b"|".join(re.escape(one.encode("utf-8", "surrogatepass")) for one in urls))
        apart = {ARTIFACTS, *self.made.delete, *self.made.files, HASHES, JOURNAL}
        found = []
        for path in sorted(self.root.rglob("*")) if urls else ():
            name = path.relative_to(self.root).as_posix()
            if name.partition("/")[0] in apart or name in apart or path.is_symlink() or not path.is_file():
                continue
            if path.stat().st_size <= MOST_BYTES and wanted.search(path.read_bytes()):
                found.append(name)
        return found

    def _num_texts(self, column: str) -> int:
        return sum(len(rows) for rows in self.gone.values() if column in rows.column_names)


def _may_have(name: str, step: str, numbers: set[int]) -> bool:
    """Whether a file may have rows of these parts, by its name."""
    found = re.match(r"part-([0-9]{5,})", Path(name).name)
    by_part = found is not None and not name.startswith("known/") and step not in ("find_same_pictures", "check_filter")
    return not by_part or (found is not None and int(found[1]) in numbers)


def _change_of_images(folder: Path, gone: Mapping[str, pa.Table]) -> Counter[str]:
    """By what the counts of images change: rows that are in no list, or were fetched again, do not count there."""
    left_out, change = read_left_out(folder), Counter[str]()
    for name, rows in gone.items():
        is_out = is_left_out(rows["key"], left_out.get(name, {}))
        for row in rows.filter(pa.array(~is_out)).to_pylist():
            change.subtract(one for one in (row["status"], row["error_class"]) if one)
            change["texts_too_long"] -= row.get("cut_from_chars") is not None
            change["withdrawn"] += 1
    return change


def _changed(counts: Mapping[str, Any], change: Mapping[str, int]) -> dict[str, Any]:
    found = dict(counts) | {name: int(counts.get(name, 0)) + number for name, number in change.items()}
    return {name: value for name, value in found.items() if value or name not in change}
