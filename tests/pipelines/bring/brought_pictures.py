"""Small pictures, shards of them, and the rows of a run that brings them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import webdataset
from PIL import Image

from blip_bootstrap.config import DownloadConfig, PictureSource, RayConfig, UrlList
from blip_bootstrap.schemas.tables import IMAGES
from blip_bootstrap.storage.parquet import parquet_files, read_parquet
from blip_pipelines.ingest.download import download_images

HERE = RayConfig(address="none")


def picture(number: int, size: tuple[int, int] = (40, 30), kind: str = "JPEG", **more: Any) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (number * 40 % 256, 90, 200)).save(stream, kind, **more)
    return stream.getvalue()


PICTURES = [picture(number) for number in range(4)]


def bring(out: Path, *pictures: PictureSource, urls: tuple[UrlList, ...] = (), **more: Any) -> list[dict[str, Any]]:
    config = DownloadConfig(pictures=pictures, urls=urls, image_size=64, max_pixels=1_000_000, **more)
    paths = [*(one.path for one in urls), *(one.path for one in pictures)]
    download_images(out, *paths, config=config, ray=HERE)
    tables = [read_parquet(path) for path in parquet_files(out)]
    assert all(table.schema.equals(IMAGES.schema) for table in tables)
    assert not (out / ".bring").exists()
    return [row for table in tables for row in table.to_pylist()]


def write_tar(path: Path, samples: list[dict[str, Any]]) -> Path:
    """A shard by webdataset's own writer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path)) as sink:
        for sample in samples:
            sink.write(sample)
    return path


def sample(number: int, **more: Any) -> dict[str, Any]:
    return {"__key__": f"{number:09d}", "jpg": PICTURES[number], "txt": f"text {number}"} | more
