"""Stub rounds whose images, captions and pairs are tables in parts: lists grow, rows fail and are fetched again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from blip_bootstrap.audit.audits import audit
from blip_bootstrap.config import DownloadConfig
from blip_bootstrap.errors import InputError
from blip_bootstrap.query.views import connect
from blip_bootstrap.schemas.tables import CAPTIONS, IMAGES, PAIRS
from blip_bootstrap.select.pairs import select_pairs, take_web_pairs
from blip_bootstrap.storage.parquet import parquet_files, read_parquet, rows_to_table, write_parquet
from blip_bootstrap.storage.parts import borrow, of_rows, read_left_out, write_left_out
from blip_bootstrap.storage.run_folder import named_files
from tests.support.stub_rounds import StubRounds

FEW = ("download.rows_per_shard=3", "caption.references=0")
"""Settings of all runs: three rows a part."""

FIRST, MORE = [f"u{at}" for at in range(6)], ["v0", "v1", "v2", "v3"]

ALL = ["images", "captions", "pairs"]

Rows = dict[str, list[dict[str, Any]]]


class GrowingRounds(StubRounds):
    """`parts` has the names of the parts that the last call made, as `images/part-00000`; `gone` are dead URLs."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.parts: list[str] = []
        self.gone: set[str] = set()
        super().__init__(folder, monkeypatch)

    def lists(self, *lists: Sequence[str]) -> str:
        """The setting for these lists of URLs, which are written."""
        for at, urls in enumerate(lists):
            (self.folder / f"list-{at}.tsv").write_text("\n".join(["url\tcaption", *(f"{url}\tt" for url in urls)]))
        named = ", ".join(f"{{path: {self.folder / f'list-{at}.tsv'}}}" for at in range(len(lists)))
        return f"download.urls=[{named}]"

    def run(self, number: int, *settings: str, remake: tuple[int, ...] = (), retry: str | None = None) -> list[str]:
        self.parts.clear()
        return super().run(number, *FEW, *settings, remake=remake, retry=retry)

    def _step(self, name: str) -> Callable[..., Any]:
        own: dict[str, Any] = {
            "download_images": self.download_images, "caption_and_score": self.caption_and_score,
            "select_pairs": self.select_pairs, "take_web_pairs": self.take_web_pairs,
        }  # fmt: skip
        step: Callable[..., Any] = own[name] if name in own else super()._step(name)
        return step

    def select_pairs(self, out: Path, captions: Path, config: Any, **beside: Path) -> Any:
        with self._noting("pairs", out):
            return select_pairs(out, captions, config=config, **beside)

    def take_web_pairs(self, out: Path, images: Path, **beside: Path) -> Any:
        with self._noting("pairs", out):
            return take_web_pairs(out, images, **beside)

    def few_pairs(self, out: Path, images: Path, config: Any = None) -> dict[str, int]:
        """Pairs without DuckDB, of captions or of images, where only their parts matter."""
        with self._noting("pairs", out):
            for part in parquet_files(images):
                if not (out / part.name).exists():
                    rows = [
                        {**dict.fromkeys(PAIRS.schema.names), "key": one}
                        for one in read_parquet(part)["key"].to_pylist()
                    ]
                    write_parquet(out / part.name, rows_to_table(rows, PAIRS), PAIRS)
        return {"rows": 1, "kept": 1}

    def caption_and_score(self, out: Path, images: Path, *models: Path, config: Any) -> dict[str, int]:
        with self._noting("captions", out):
            for part in parquet_files(images):
                if not (out / part.name).exists():
                    keys = [row["key"] for row in read_parquet(part).to_pylist() if row["status"] == "success"]
                    rows = [_text(key, source) for key in keys for source in ("web", "synthetic")]
                    write_parquet(out / part.name, rows_to_table(rows, CAPTIONS), CAPTIONS)
            left_out = read_left_out(images).items()
            write_left_out(out, {n: of_rows(spans, read_parquet(out / n, ["key"])["key"]) for n, spans in left_out})
        return {"rows": 1}

    def download_images(
        self, out: Path, *urls: Path, config: DownloadConfig, kin: Sequence[Path] = (), retry: str | None = None
    ) -> dict[str, int]:
        """As the step of this name, for lists without repeated rows: the pool, new parts, what is left out, counts."""
        with self._noting("images", out):
            listed = [line.partition("\t")[0] for one in urls for line in one.read_text().splitlines()[1:]]
            listed = listed[: config.limit]
            pool = {part.name: part for folder in (*kin, out) for part in sorted(folder.glob("part-*")) if _opens(part)}
            rows = {name: read_parquet(part).to_pylist() for name, part in pool.items()}
            known = {row["url"]: row for of in rows.values() for row in of if not _is_done(rows, row)}
            own = {row["url"] for name in rows if _is_own(out / name) for row in rows[name]}
            again = [url for url in listed if retry and url not in own and _has_failed(known.get(url))]
            lost = sorted({*self._numbers(out)} - {int(name[5:10]) for name in rows})
            new = [url for url in listed if url not in known]
            self._fetch(out, new + again, rows, config.rows_per_shard, lost)
            for name in pool:
                if not (out / name).exists() and {row["url"] for row in rows[name]} & {*listed}:
                    borrow(out, pool[name])
            return self._counted(out, rows, listed)

    def _numbers(self, out: Path) -> Iterator[int]:
        """The numbers of the parts of an artifact that is made anew where they are lost."""
        yield from (int(name[5:10]) for name in named_files(out) or ())

    def _fetch(self, out: Path, urls: list[str], rows: Rows, size: int, lost: list[int]) -> None:
        free = max((int(name[5:10]) for name in rows), default=-1) + 1
        for at in range(0, len(urls), size):
            number = lost.pop(0) if lost else free + at // size
            name = f"part-{number:05d}.parquet"
            rows[name] = [_image(f"{number:05d}{i:05d}", u, u in self.gone) for i, u in enumerate(urls[at : at + size])]
            write_parquet(out / name, rows_to_table(rows[name], IMAGES), IMAGES)

    def _counted(self, out: Path, rows: Rows, listed: list[str]) -> dict[str, int]:
        mine = {name: rows[name] for name in sorted(rows) if (out / name).exists()}
        left_out: dict[str, dict[str, list[tuple[int, int]]]] = {}
        counts: Counter[str] = Counter()
        for name, row in ((name, row) for name, of in mine.items() for row in of):
            kind = "retried" if _is_done(mine, row) else "" if row["url"] in listed else "removed"
            if kind:
                place = int(row["key"][5:])
                left_out.setdefault(name, {}).setdefault(kind, []).append((place, place))
            if kind != "retried":
                told = (kind,) if kind else (row["status"], row["error_class"])
                counts.update(one for one in ("rows", *told) if one)
        write_left_out(out, left_out)
        return dict(counts)

    @contextmanager
    def _noting(self, what: str, out: Path) -> Iterator[None]:
        before = {part.name for part in out.glob("part-*") if part.is_file()}
        yield
        made = [part for part in sorted(out.glob("part-*")) if part.name not in before and not part.is_symlink()]
        self.parts += [f"{what}/{part.stem}" for part in made]
        (out / "text").write_text(what)


def _opens(part: Path) -> bool:
    try:
        read_parquet(part, ["key"])
    except InputError:
        return False
    return True


def _is_own(part: Path) -> bool:
    return part.is_file() and not part.is_symlink()


def _has_failed(row: dict[str, Any] | None) -> bool:
    return row is not None and row["status"] != "success"


def _is_done(rows: Rows, row: dict[str, Any]) -> bool:
    """Whether another row of the same URL counts: the first that succeeded, else the last."""
    same = [one for name in sorted(rows) for one in rows[name] if one["url"] == row["url"]]
    good = [one for one in same if one["status"] == "success"]
    return bool(row["key"] != (good[0] if good else same[-1])["key"])


def _image(key: str, url: str, is_gone: bool) -> dict[str, Any]:
    empty = dict.fromkeys(IMAGES.schema.names)
    row = {**empty, "key": key, "uid": f"uid of {url}", "dataset": "list", "url": url, "caption": f"text of {url}"}
    failure = {"status": "failed_to_download", "error_class": "timeout", "error_message": "late"}
    return row | (failure if is_gone else {"status": "success", "jpg": b"jpg"})


def _text(key: str, source: str) -> dict[str, Any]:
    empty = dict.fromkeys(CAPTIONS.schema.names)
    said = {"caption": f"{source} text of {key}", "itm_score": 0.9 if int(key) % 2 else 0.1, "flags": []}
    return {**empty, "key": key, "source": source, "candidate": 0, **said}


def of(*numbers: int, tables: list[str] = ALL) -> list[str]:
    return [f"{table}/part-{number:05d}" for table in tables for number in numbers]


def manifest(grown: GrowingRounds, place: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((grown.root / place / "MANIFEST.json").read_text())
    return found


def ask(root: Path, sql: str) -> list[tuple[Any, ...]]:
    with connect(root) as connection:
        return connection.execute(sql).fetchall()


def no_gap(root: Path, number: int = 1) -> bool:
    (answer,) = audit(root, number, ["accounting"])
    return all(row["gap"] == 0 for row in answer.table.to_pylist())
