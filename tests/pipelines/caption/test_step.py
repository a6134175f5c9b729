from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blip_bootstrap.config import CaptionConfig, RayConfig, SamplerConfig
from blip_bootstrap.errors import AccountingError, CheckpointError, InputError, RunFailed
from blip_bootstrap.schemas.text_columns import SCORES
from blip_bootstrap.storage.manifest import KnownParts
from blip_bootstrap.storage.parquet import parquet_files, read_parquet
from blip_pipelines.caption import blocks, step
from blip_pipelines.caption.blocks import BLOCKS, read_rows
from blip_pipelines.caption.step import caption_and_score
from blip_pipelines.caption.todo import Todo
from blip_pipelines.caption.worker import CaptionWorker
from blip_pipelines.cluster import crew, resources
from blip_pipelines.cluster.items import Pool
from blip_pipelines.cluster.tally import Tally
from blip_pipelines.scoring.references import pick_references
from blip_pipelines.scoring.rows import IMAGE_COLUMNS

Models = tuple[Path, Path]
CONFIG = CaptionConfig(candidates=2, device="cpu", num_actors=1, sampler=SamplerConfig(min_tokens=1, max_tokens=6))
NUM_IMAGES, PER_PART = 1_300, 650


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, make_images: Callable[..., Path]) -> Path:
    return make_images(tmp_path_factory.mktemp("images"), NUM_IMAGES, PER_PART, damaged=(5,))


@pytest.fixture(scope="module")
def expected(images: Path, models: Models) -> dict[str, pa.Table]:
    """What the worker makes of each block with no Ray about, joined by file."""
    references = pick_references(images, CONFIG.references)
    # One thread, as an actor has: last digits follow the threads.
    worker = CaptionWorker(*models, CONFIG, num_threads=1, references=references)
    return {
        part.name: pa.concat_tables(
            worker(read_rows(part, first, blocks.BLOCK_ROWS)) for first in range(0, PER_PART, blocks.BLOCK_ROWS)
        )
        for part in parquet_files(images)
    }


def made(out: Path) -> dict[str, pa.Table]:
    return {path.name: read_parquet(path) for path in parquet_files(out)}


@pytest.mark.ray
def test_files_are_aligned_and_are_what_the_worker_makes(
    tmp_path: Path, images: Path, models: Models, ray_config: RayConfig, expected: dict[str, pa.Table]
) -> None:
    counts = caption_and_score(tmp_path, images, *models, CONFIG, ray_config)
    assert made(tmp_path) == expected
    num_images = NUM_IMAGES * 9 // 10
    assert (counts["images"], counts["web"], counts["synthetic"]) == (num_images, num_images, 2 * (num_images - 1))
    names = [".notes", "part-00000.parquet", "part-00001.parquet"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    metadata = pq.read_schema(tmp_path / "part-00000.parquet").metadata
    assert (metadata[b"table"], metadata[b"candidates"], metadata[b"captioner"]) == (
        b"captions", b"2", str(models[0]).encode(),
    )  # fmt: skip


KILLED = """
import sys
from pathlib import Path
from blip_bootstrap.config import CaptionConfig, RayConfig
from blip_pipelines.caption.step import caption_and_score
config = CaptionConfig.model_validate_json(sys.argv[1])
caption_and_score(*map(Path, sys.argv[2:]), config, RayConfig(object_store_bytes=100_000_000))
"""


@pytest.mark.ray
def test_a_killed_run_goes_on_and_makes_the_same(
    tmp_path: Path, images: Path, models: Models, ray_config: RayConfig, expected: dict[str, pa.Table]
) -> None:
    """kill -9 of the driver after the first block; the finished block is kept as it is."""
    paths = [str(path) for path in (tmp_path, images, *models)]
    child = subprocess.Popen([sys.executable, "-W", "ignore", "-c", KILLED, CONFIG.model_dump_json(), *paths])
    blocks = tmp_path / BLOCKS
    end = time.monotonic() + 120
    while not list(blocks.glob("*.parquet")):
        assert child.poll() is None
        assert time.monotonic() < end
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    kept = {block: block.stat().st_ino for block in parquet_files(blocks)}
    assert not parquet_files(tmp_path)
    linked = {block: tmp_path.with_name(f"kept-{block.name}") for block in kept}
    for block, link in linked.items():
        link.hardlink_to(block)
    caption_and_score(tmp_path, images, *models, CONFIG, ray_config)
    assert made(tmp_path) == expected
    assert {block: link.stat().st_ino for block, link in linked.items()} == kept


@pytest.mark.ray
def test_finished_work_needs_no_actor(
    tmp_path: Path, images: Path, models: Models, ray_config: RayConfig, expected: dict[str, pa.Table]
) -> None:
    """All blocks done, the last merge not: a run with a model that cannot even be loaded completes."""
    (tmp_path / BLOCKS).mkdir()
    for name, table in expected.items():
        first = table["key"].to_pylist().index(f"{name[5:10]}{blocks.BLOCK_ROWS:05d}")
        for start, rows in ((0, table.slice(0, first)), (blocks.BLOCK_ROWS, table.slice(first))):
            pq.write_table(rows, tmp_path / BLOCKS / f"{name.removesuffix('.parquet')}-{start:06d}.parquet")
    caption_and_score(tmp_path, images, "none", "none", CONFIG, ray_config)
    assert made(tmp_path) == expected


def test_blocks_of_an_earlier_version_join_the_others(
    tmp_path: Path, images: Path, models: Models, expected: dict[str, pa.Table]
) -> None:
    """They lack the scores that came later, which are then null."""
    later = [column.name for column in SCORES]
    for name, table in expected.items():
        first = table["key"].to_pylist().index(f"{name[5:10]}{blocks.BLOCK_ROWS:05d}")
        stem = tmp_path / BLOCKS / name.removesuffix(".parquet")
        stem.parent.mkdir(exist_ok=True)
        pq.write_table(table.slice(0, first).drop_columns(later), f"{stem}-000000.parquet")
        pq.write_table(table.slice(first), f"{stem}-{blocks.BLOCK_ROWS:06d}.parquet")
    caption_and_score(tmp_path, images, *models, CONFIG, RayConfig(address="none"))
    for name, table in made(tmp_path).items():
        assert table.drop_columns(later).equals(expected[name].drop_columns(later))
        first = table["key"].to_pylist().index(f"{name[5:10]}{blocks.BLOCK_ROWS:05d}")
        assert table.slice(first).equals(expected[name].slice(first))
        assert [table[column].slice(0, first).null_count for column in later] == [first] * len(later)


@pytest.mark.parametrize("there", ["output", "merged"])
def test_a_finished_task_that_ray_runs_again_makes_nothing(tmp_path: Path, images: Path, there: str) -> None:
    """Its answer was lost with a node; the model could not even be loaded."""
    output, merged = tmp_path / "blocks" / "part-00000-000000.parquet", tmp_path / "part-00000.parquet"
    block = blocks.Block(str(parquet_files(images)[0]), 0, str(output), str(merged), 2 * blocks.BLOCK_ROWS)
    with pytest.raises(CheckpointError):
        list(blocks.CaptionBlocks("none", "none", CONFIG, tally=Tally())([block]))
    path = Path(getattr(block, there))
    path.parent.mkdir(exist_ok=True)
    path.touch()
    assert list(blocks.CaptionBlocks("none", "none", CONFIG, tally=Tally())([block])) == [block]
    assert output.exists() == (there == "output")


@pytest.mark.ray
def test_errors_of_actors_are_one_line(tmp_path: Path, images: Path, models: Models, ray_config: RayConfig) -> None:
    none = tmp_path / "none"
    with pytest.raises(CheckpointError) as error:
        caption_and_score(tmp_path, images, none, models[1], CONFIG, ray_config)
    assert str(error.value) == f"{none}: no such file or folder"


@pytest.mark.ray
def test_too_many_actors_are_refused_before_they_wait(
    tmp_path: Path, images: Path, models: Models, ray_config: RayConfig
) -> None:
    greedy = CONFIG.model_copy(update={"num_actors": 3, "cpus_per_actor": 2.0})
    with pytest.raises(RunFailed, match="needs 6 CPUs for its actors and 1 for their input, the cluster has"):
        caption_and_score(tmp_path, images, *models, greedy, ray_config)


def test_a_lost_image_fails_the_run(
    tmp_path: Path, images: Path, models: Models, expected: dict[str, pa.Table]
) -> None:
    for name, table in expected.items():
        pq.write_table(table.slice(0, len(table) - 3), tmp_path / name)
    with pytest.raises(AccountingError, match="584 images for 585 downloaded"):
        caption_and_score(tmp_path, images, *models, CONFIG, RayConfig())


def test_no_images_at_all(tmp_path: Path, models: Models) -> None:
    with pytest.raises(InputError, match="no part-"):
        caption_and_score(tmp_path, tmp_path / "images", *models, CONFIG, RayConfig())


@pytest.mark.parametrize(("first", "count"), [(0, 512), (512, 512), (1, 3), (640, 20), (650, 5)])
def test_read_rows(images: Path, first: int, count: int) -> None:
    part = parquet_files(images)[1]
    whole = read_parquet(part).select(IMAGE_COLUMNS)
    assert read_rows(part, first, count).to_pylist() == whole.slice(first, count).to_pylist()


def test_row_groups_smaller_than_a_block(tmp_path: Path, images: Path) -> None:
    whole = read_parquet(parquet_files(images)[1]).select(["key", "status", "caption", "jpg"]).slice(0, 20)
    pq.write_table(whole, tmp_path / "rows.parquet", row_group_size=3)
    for first in range(22):
        for count in (1, 2, 3, 4, 7, 30):
            assert read_rows(tmp_path / "rows.parquet", first, count) == whole.slice(first, count)


@pytest.mark.parametrize(
    ("blocks", "actors", "gpus", "expected"), [(1_000, 1, 0.0, 1), (1_000, 4, 0.25, 8), (20, 1, 1.0, 5), (3, 1, 1.0, 1)]
)
def test_blocks_of_a_task(blocks: int, actors: int, gpus: float, expected: int) -> None:
    assert step.blocks_per_task(blocks, actors, gpus) == expected


@pytest.mark.parametrize(
    ("device", "in_cluster", "asked", "expected"),
    [
        ("auto", 0, 0.25, 0.0), ("auto", 2, 0.0, 1.0), ("auto", 2, 0.25, 0.25), ("cpu", 2, 0.25, 0.0),
        ("cuda", 0, 0.0, 1.0), ("cuda", 2, 0.5, 0.5),
    ],
)  # fmt: skip
def test_gpus_of_an_actor(
    monkeypatch: pytest.MonkeyPatch, device: Any, in_cluster: int, asked: float, expected: float
) -> None:
    monkeypatch.setattr(resources, "num_gpus", lambda: in_cluster)
    assert step.gpus_of_actor(CaptionConfig(device=device, gpus_per_actor=asked)) == expected


@pytest.mark.ray
def test_a_gpus_tasks_of_several_blocks_make_the_same_and_keep_what_is_made(
    tmp_path: Path,
    images: Path,
    models: Models,
    ray_config: RayConfig,
    expected: dict[str, pa.Table],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(step, "blocks_per_task", lambda *_: 3)
    monkeypatch.setattr(step, "gpus_of_actor", lambda config: 0.5)
    every = Todo.of(parquet_files(images), tmp_path, KnownParts())
    todo = [every[0], every[2]]  # of two files, neither of which is whole with it
    compared = pick_references(images, CONFIG.references)
    captioner, filter = map(str, models)
    worker = blocks.CaptionBlocks(captioner, filter, CONFIG, references=compared, tally=Tally())
    first_two = todo[::-1]
    assert list(worker(todo[1:2])) == todo[1:2]
    kept = Path(todo[1].output).stat().st_ino
    assert list(worker(todo)) == first_two, "the one that is there comes first"
    assert Path(todo[1].output).stat().st_ino == kept
    gpus: list[float] = []
    options_of = crew.options_of

    def without_gpus(pool: Pool, asked_bytes: int) -> dict[str, Any]:
        asked = options_of(pool, asked_bytes)
        gpus.append(asked["num_gpus"])
        return asked | {"num_gpus": 0}

    monkeypatch.setattr(crew, "options_of", without_gpus)
    caption_and_score(tmp_path, images, *models, CONFIG, ray_config)
    assert gpus == [0.5]
    assert made(tmp_path) == expected
