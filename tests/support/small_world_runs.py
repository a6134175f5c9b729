"""Runs of the small loop in the process of a test, whose stand-ins go with the test."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from blip_bootstrap.loop import rounds
from blip_bootstrap.storage.parquet import open_parquet, parquet_files, read_parquet
from blip_pipelines.fetch.answers import Fetched
from blip_pipelines.ingest import fetched_rows
from blip_training.runtime.stored import read_safetensors
from tests.support import small_loop
from tests.support.tiny_pipeline import encode


class SmallRuns:
    """`given` has the lists; `dead` are URLs that answer 404, `bodies` what others answer; `paid` is what was done."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.given = folder, folder / "given"
        self.dead: set[str] = set()
        self.bodies: dict[str, bytes] = {}
        self.paid: list[tuple[str, str]] = []

        def put(module: object, **values: object) -> None:
            for name, value in values.items():
                patch.setattr(module, name, value)

        patch.setattr(small_loop, "_put", put)
        patch.setattr(small_loop, "digests_in", _digests_in)
        if not self.given.exists():
            small_loop.write_inputs(self.given)
        small_loop.stand_in(lambda kind, what: self.paid.append((str(kind), str(what))))
        patch.setattr(fetched_rows, "try_once", self._fetch)

    def _fetch(self, url: str, *_: object) -> Fetched:
        self.paid.append(("fetch", url))
        if url in self.dead or "missing" in url:
            return Fetched(None, error_class="http_4xx", error_message=f"404 for {url}")
        return Fetched(self.bodies.get(url) or encode(int(url.rpartition("/")[2].removesuffix(".jpg"))), "image/jpeg")

    def write_list(self, rows: Sequence[tuple[str, str]], name: str = "web.tsv") -> None:
        (self.given / name).write_text("".join(f"{url}\t{text}\n" for url, text in [("url", "caption"), *rows]))

    def run(self, root: Path, last: int = 1, *settings: str, retry: str | None = None) -> list[str]:
        """Run rounds; what was said."""
        self.paid.clear()
        said: list[str] = []
        rounds.run_rounds(small_loop.config_of(root, self.given, settings), last, said.append, retry=retry)
        return said


def _digests_in(folder: Path) -> list[str]:
    """What a training sees of an artifact: of images those with a picture."""
    if (weights := folder / "model.safetensors").exists():
        return [repr({name: one.tolist() for name, one in sorted(read_safetensors(weights).items())})]
    return [repr([row for row in read_parquet(part).to_pylist() if row.get("kept") is not False
                  and row.get("status") in (None, "success")]) if "jpg" not in open_parquet(part).schema_arrow.names
            else repr([(row["key"], row["jpg"]) for row in read_parquet(part).to_pylist() if row["jpg"]])
            for part in parquet_files(folder)]  # fmt: skip


def rows_of(root: Path, place: str) -> list[dict[str, Any]]:
    """All rows of a table of a run, in order."""
    return [row for part in parquet_files(root / place) for row in read_parquet(part).to_pylist()]


def weights_of(root: Path, place: str) -> dict[str, Any]:
    """The weights of a model of a run."""
    return {name: one.tolist() for name, one in read_safetensors(root / place / "model.safetensors").items()}


def manifest_of(root: Path, place: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / place / "MANIFEST.json").read_text())
    return found
