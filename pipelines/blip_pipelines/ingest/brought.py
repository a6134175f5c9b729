"""Rows of pictures that are there already, among those that are fetched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from blip_bootstrap.config import DownloadConfig, RayConfig
from blip_bootstrap.errors import InputError
from blip_pipelines.bring.index import INDEX, PictureRows
from blip_pipelines.bring.read import bring_rows, is_brought
from blip_pipelines.ingest.pictures import BroughtStore
from blip_pipelines.lists.url_lists import AnyList

Row = dict[str, Any]


def with_pictures(listed: Sequence[Row], fetched: Iterator[Row | None], config: DownloadConfig) -> Iterator[Row | None]:
    """Rows of the table `images` in the order of the shard's: those that are `fetched`, and pictures that are there."""
    there = [one for one in listed if is_brought(one)]
    if not there:
        yield from fetched
        return
    with BroughtStore(config) as store:
        brought = bring_rows(there, config.pictures, store, config.max_bytes)
        for one in listed:
            row = next(brought if is_brought(one) else fetched)
            while row is None:  # a word that it is waited for
                yield None
                row = next(fetched)
            yield row


def lists_of(out: Path, paths: Sequence[Path], config: DownloadConfig, ray: RayConfig) -> list[AnyList]:
    """What rows come from, pictures that are there before what is to be fetched, so that it is not fetched."""
    if not config.urls and not config.pictures:
        raise InputError("download.urls: no URL list is given; add one with its path")
    urls, pictures = paths[: len(config.urls)], paths[len(config.urls) :]
    lists = [known.model_copy(update={"path": path}) for known, path in zip(config.urls, urls, strict=True)]
    found = [one.model_copy(update={"path": path}) for one, path in zip(config.pictures, pictures, strict=True)]
    return [*(PictureRows(one, out / INDEX, ray) for one in found), *lists]
