"""Finds the rows of the lists that are to go: those that are asked for, all with their URLs, and copies of these."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from blip_bootstrap.schemas.closed_lists import WITHDRAWN
from blip_bootstrap.storage.parquet import open_parquet, reading
from blip_bootstrap.storage.withdrawn import digest_of_url
from blip_bootstrap.withdrawal.asked import Asked
from blip_bootstrap.withdrawal.lineage import DOWNLOAD, Found
from blip_bootstrap.withdrawal.tables import digest_of_text, kind_of

_COLUMNS = ["key", "url", "caption", "status", "sha256", "same_as", "origin"]

ROWS_AT_ONCE = 50_000


@dataclass
class Going:
    """The rows that go: keys by file, from the root; and what they are known by."""

    keys: dict[str, set[str]] = field(default_factory=dict)
    urls: set[str] = field(default_factory=set)
    texts: set[str] = field(default_factory=set)
    pictures: set[str] = field(default_factory=set)
    """Digests of pictures that lists may not bring back under other names: those asked for, and those that were there
    without a URL of their own."""
    equal: dict[str, str] = field(default_factory=dict)
    """Rows with the same bytes under other URLs, which stay: key and URL."""
    unknown: int = 0
    """How many of the URLs and digests that are asked for no row has."""

    @property
    def all_keys(self) -> set[str]:
        """The keys of all images."""
        return {key for keys in self.keys.values() for key in keys}

    @property
    def url_digests(self) -> list[str]:
        """The URLs' digests."""
        return sorted(map(digest_of_url, self.urls))


def find_rows(found: Sequence[Found], asked: Asked) -> Going:
    """Read the URLs and digests of all images twice: for the rows that are asked for, and for all with their URLs."""
    images = [one for one in found if one.step in (DOWNLOAD, "")]
    going, digests, seen = Going(), set[str](), set[str]()
    for _, rows in _batches(images):
        mask = _asked_mask(rows, asked)
        if pc.any(mask).as_py():
            hits = rows.filter(mask)
            going.urls |= {*hits["url"].drop_null().to_pylist()}
            digests |= {*hits["sha256"].drop_null().to_pylist()}
            seen |= {*pc.fill_null(hits["sha256"], "").to_pylist()} & asked.pictures
    going.unknown = len(asked.urls - going.urls) + len(asked.pictures - seen)
    urls = pa.array(sorted(going.urls), pa.string())
    for file, rows in _batches(images) if going.urls else ():
        mask = pc.or_(_is_in(rows["url"], urls), _is_in(rows["sha256"], pa.array(sorted(asked.pictures), pa.string())))
        _take(going, file, rows.filter(mask))
        others = rows.filter(pc.and_(pc.invert(mask), _is_in(rows["sha256"], pa.array(sorted(digests), pa.string()))))
        going.equal |= dict(zip(others["key"].to_pylist(), others["url"].to_pylist(), strict=True))
    for one in found:
        if one.step == "ingest_annotated":
            going.equal |= _annotated(one, digests | asked.pictures)
    going.urls |= asked.urls
    going.pictures |= asked.pictures
    return going


def _annotated(one: Found, digests: set[str]) -> dict[str, str]:
    """Pictures of an annotated set with the same bytes: their key and name, with the set's."""
    known, found = pa.array(sorted(digests), pa.string()), dict[str, str]()
    for path in (one.path / name for name in one.own if digests):
        with reading(path), open_parquet(path) as file:
            rows = file.read([name for name in ("key", "name", "sha256") if name in file.schema_arrow.names])
        if "sha256" in rows.column_names:
            same = rows.filter(_is_in(rows["sha256"], known)).to_pylist()
            found |= {f"{row['key']} of {one.told.get('name')}": str(row["name"]) for row in same}
    return found


def _take(going: Going, file: str, hits: pa.Table) -> None:
    if not len(hits):
        return
    going.keys.setdefault(file, set()).update(hits["key"].to_pylist())
    going.texts |= {digest_of_text(text) for text in hits["caption"].drop_null().to_pylist() if text.strip()}
    brought = hits.filter(pc.is_valid(hits["origin"]))
    going.pictures |= {*brought["sha256"].drop_null().to_pylist()}


def _asked_mask(rows: pa.Table, asked: Asked) -> pa.Array:
    mask = pc.or_(
        _is_in(rows["url"], pa.array(sorted(asked.urls), pa.string())),
        _is_in(rows["sha256"], pa.array(sorted(asked.pictures), pa.string())),
    )
    for domain in asked.domains:
        near = pc.fill_null(pc.match_substring(rows["url"], domain, ignore_case=True), False).combine_chunks()
        if pc.any(near).as_py():
            urls = zip(near.to_pylist(), rows["url"].to_pylist(), strict=True)
            mask = pc.or_(mask, pa.array([is_near and asked.is_of_domain(url) for is_near, url in urls]))
    return mask


def _is_in(column: pa.ChunkedArray, wanted: pa.Array) -> pa.Array:
    return pc.fill_null(pc.is_in(column, wanted), False).combine_chunks()


def _batches(images: Iterable[Found]) -> Iterator[tuple[str, pa.Table]]:
    """The rows of the lists in all tables of images and shards, those withdrawn before left out, with `_COLUMNS`."""
    for one in images:
        for name in one.own:
            path = one.path / name
            with reading(path), open_parquet(path) as file:
                there = file.schema_arrow.names
                if kind_of(there) != "pictures":
                    continue
                for batch in file.iter_batches(ROWS_AT_ONCE, columns=[one for one in _COLUMNS if one in there]):
                    rows = pa.Table.from_batches([batch])
                    for lacking in (one for one in _COLUMNS if one not in there):
                        rows = rows.append_column(lacking, pa.nulls(len(rows), pa.string()))
                    is_gone = pc.fill_null(pc.equal(rows["status"], WITHDRAWN), False)
                    yield f"{one.folder}/{name}", rows.filter(pc.invert(is_gone))


def keys_of_images(one: Found, keys: Mapping[str, set[str]]) -> set[str]:
    """The keys of the rows that go in an artifact of images, its shards and borrowed parts included."""
    return {key for home in one.homes.values() for key in keys.get(home, ())}


def stored_bytes(path: Path, keys: set[str]) -> tuple[int, int]:
    """How many of these rows of a part have a picture, and the bytes of these as stored."""
    with reading(path), open_parquet(path) as file:
        if "jpg" not in file.schema_arrow.names:
            return 0, 0
        rows = file.read(["key", "jpg"])
    mine = rows.filter(pc.is_in(rows["key"], pa.array(sorted(keys), pa.string())))["jpg"].drop_null()
    return len(mine), int(pc.sum(pc.binary_length(mine)).as_py() or 0)
