"""500 images: the same captions whatever the batch, the workers and the order, and whatever is killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from blip_bootstrap.config import CaptionConfig, RayConfig, SamplerConfig
from blip_bootstrap.schemas import text_columns
from blip_bootstrap.schemas.tables import IMAGES
from blip_bootstrap.storage.parquet import parquet_files, read_parquet, write_parquet
from blip_pipelines.caption.step import caption_and_score
from blip_pipelines.caption.worker import CaptionWorker
from blip_pipelines.scoring.references import pick_references

SOURCES = [str(Path(__file__).parents[3] / part) for part in (".", "pipelines", "training")]
Models = tuple[Path, Path]
CONFIG = CaptionConfig(candidates=2, device="cpu", num_actors=1, sampler=SamplerConfig(max_tokens=10))
NUM_IMAGES, PER_PART = 560, 140
EXACT = ("key", "source", "candidate", "caption", "seed", "num_tokens", "flags")
SCORES = ("itm_score", "itc_score", "logprob", *(column.name for column in text_columns.SCORES))
TOLERANCE = 1e-5
"""Of float32 scores whose sums run in another order; captions are equal to the letter."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, make_images: Callable[..., Path]) -> Path:
    """Four files, 504 downloaded images."""
    return make_images(tmp_path_factory.mktemp("images"), NUM_IMAGES, PER_PART)


@pytest.fixture(scope="module")
def expected(images: Path, models: Models) -> pa.Table:
    """Batch size 64, no Ray."""
    return worked(CONFIG, images, models)


@pytest.fixture(scope="module")
def in_bfloat16(images: Path, models: Models) -> pa.Table:
    """The same in bfloat16."""
    return worked(CONFIG.model_copy(update={"dtype": "bfloat16"}), images, models)


def worked(config: CaptionConfig, images: Path, models: Models, order: slice = slice(None)) -> pa.Table:
    whole = pa.concat_tables([read_parquet(path) for path in parquet_files(images)])
    rows = list(range(len(whole)))[order]
    references = pick_references(images, config.references)
    return sorted_rows(CaptionWorker(*models, config, num_threads=1, references=references)(whole.take(rows)))


def sorted_rows(table: pa.Table) -> pa.Table:
    return table.sort_by([("key", "ascending"), ("source", "descending"), ("candidate", "ascending")])


def assert_same(found: pa.Table, expected: pa.Table, tolerance: float = TOLERANCE) -> None:
    assert found.select(EXACT).equals(expected.select(EXACT))
    for name in SCORES:
        pair = [torch.tensor(table[name].drop_null().to_pylist(), dtype=torch.float64) for table in (found, expected)]
        torch.testing.assert_close(*pair, rtol=tolerance, atol=tolerance)


def made(out: Path) -> pa.Table:
    return sorted_rows(pa.concat_tables([read_parquet(path) for path in parquet_files(out)]))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("batch_size", "order"), [(1, slice(PER_PART)), (7, slice(None, None, -1))])
def test_no_batch_and_no_order_changes_a_caption(
    images: Path, models: Models, expected: pa.Table, in_bfloat16: pa.Table, batch_size: int, order: slice, dtype: Any
) -> None:
    reference = expected if dtype == "float32" else in_bfloat16
    other = worked(CONFIG.model_copy(update={"dtype": dtype, "batch_size": batch_size}), images, models, order)
    of_these = reference.filter(pc.is_in(reference["key"], other["key"].combine_chunks()))
    assert_same(other, of_these, TOLERANCE if dtype == "float32" else 0.02)
    assert len(set(reference["caption"].to_pylist())) > 500


@pytest.mark.ray
def test_four_workers_write_what_one_does(
    tmp_path: Path, images: Path, models: Models, ray_config: RayConfig, expected: pa.Table
) -> None:
    four = CONFIG.model_copy(update={"num_actors": 4, "cpus_per_actor": 0.5})
    counts = caption_and_score(tmp_path, images, *models, four, ray_config)
    assert_same(made(tmp_path), expected)
    assert counts["images"] == NUM_IMAGES * 9 // 10


@pytest.mark.ray
def test_a_killed_worker_loses_and_repeats_no_finished_file(
    tmp_path: Path, images: Path, models: Models, ray_config: RayConfig, expected: pa.Table
) -> None:
    slow = CONFIG.model_copy(update={"batch_size": 4})
    killed: list[int] = []
    with when_first_file_is_there(tmp_path, lambda: killed.extend(kill_workers())) as finished:
        caption_and_score(tmp_path, images, *models, slow, ray_config)
    assert len(killed) == 1
    assert {path: path.stat().st_ino for path in finished} == finished
    assert 0 < len(finished) < NUM_IMAGES // PER_PART
    assert_same(made(tmp_path), expected)


@contextmanager
def when_first_file_is_there(out: Path, act: Callable[[], object]) -> Iterator[dict[Path, int]]:
    """Run `act` once a file of captions is whole; yields the files that were there then, with their inodes."""
    finished: dict[Path, int] = {}

    def watch() -> None:
        end = time.monotonic() + 300
        while time.monotonic() < end and not parquet_files(out):
            time.sleep(0.01)
        finished.update({path: path.stat().st_ino for path in parquet_files(out)})
        act()

    watcher = threading.Thread(target=watch)
    watcher.start()
    yield finished
    watcher.join()


def kill_workers() -> list[int]:
    """kill -9 of every captioning actor that this process's Ray started."""
    below = psutil.Process().children(recursive=True)
    found = [child.pid for child in below if "ray::caption" in "".join(child.cmdline())]
    for pid in found:
        os.kill(pid, signal.SIGKILL)
    return found


@pytest.mark.ray
def test_an_image_that_is_no_picture_costs_one_row(
    tmp_path: Path, images: Path, models: Models, ray_config: RayConfig, expected: pa.Table
) -> None:
    whole = read_parquet(parquet_files(images)[0])
    rows = whole.to_pylist()
    rows[3]["jpg"] = b"GIF89a"
    write_parquet(tmp_path / "images" / "part-00000.parquet", pa.Table.from_pylist(rows, whole.schema), IMAGES)
    counts = caption_and_score(tmp_path / "out", tmp_path / "images", *models, CONFIG, ray_config)
    found = made(tmp_path / "out").to_pylist()
    bad = [row for row in found if row["key"] == rows[3]["key"]]
    assert [(row["source"], row["itm_score"]) for row in bad] == [("web", None)]
    assert counts["not_scored"] == 1
    others = expected.slice(0, len(found) + 2).to_pylist()
    assert [row["caption"] for row in found if row not in bad] == [
        row["caption"] for row in others if row["key"] != rows[3]["key"]
    ]
