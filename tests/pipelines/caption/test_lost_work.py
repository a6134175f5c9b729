"""A node, an actor or the driver is killed while several workers work: nothing lost or twice, little done again.

What each worker was working on is done again, and nothing else: `noting_driver.py` writes down what is begun.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest

from blip_bootstrap.config import CaptionConfig, SamplerConfig
from blip_bootstrap.storage.parquet import parquet_files, read_parquet
from blip_pipelines.caption.worker import CaptionWorker
from blip_pipelines.scoring.references import pick_references

pytestmark = pytest.mark.ray
DRIVER = Path(__file__).parents[2] / "support" / "noting_driver.py"
NUM_FILES, PER_FILE = 16, 25
ON_SECOND_NODE = 2
"""Workers that fit the node that is lost."""
CONFIG = CaptionConfig(device="cpu", batch_size=1, sampler=SamplerConfig(max_tokens=8))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, make_images: Callable[..., Path]) -> Path:
    return make_images(tmp_path_factory.mktemp("images"), NUM_FILES * PER_FILE, PER_FILE)


@pytest.fixture(scope="module")
def expected(images: Path, models: tuple[Path, Path]) -> dict[str, pa.Table]:
    references = pick_references(images, CONFIG.references)
    worker = CaptionWorker(*models, CONFIG, num_threads=1, references=references)
    return {part.name: worker(read_parquet(part)) for part in parquet_files(images)}


def caption_settings(images: Path, models: tuple[Path, Path], **changes: Any) -> dict[str, Any]:
    config = CONFIG.model_copy(update=changes).model_dump(mode="json")
    return {"config": config, "images": images, "captioner": models[0], "filter": models[1]}


def start(what: str, out: Path, settings: dict[str, Any]) -> subprocess.Popen[str]:
    out.mkdir(exist_ok=True)
    command = [sys.executable, "-W", "ignore", str(DRIVER), what, str(out), json.dumps(settings, default=str)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def end_well(driver: subprocess.Popen[str]) -> None:
    said = driver.communicate(timeout=300)[1]
    assert driver.returncode == 0, said


def when_first_is_whole(out: Path, driver: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while not parquet_files(out):
        assert driver.poll() is None
        assert time.monotonic() < end
        time.sleep(0.005)


def assert_all_there(out: Path, expected: dict[str, pa.Table]) -> None:
    assert sorted(path.name for path in out.iterdir() if not path.name.startswith(".")) == sorted(expected)
    for name, table in expected.items():
        assert read_parquet(out / name) == table


def begun(out: Path) -> tuple[Counter[str], set[str]]:
    """How often each unit of work was begun, and on which nodes."""
    lines = [line.split() for line in out.with_name(f"{out.name}.log").read_text().splitlines()]
    return Counter(unit for unit, _ in lines), {node for _, node in lines}


def test_a_node_that_captions(
    tmp_path: Path, images: Path, models: tuple[Path, Path], expected: dict[str, pa.Table]
) -> None:
    out = tmp_path / "out"
    end_well(start("caption", out, {**caption_settings(images, models), "lose_node": True}))
    assert_all_there(out, expected)
    blocks, nodes = begun(out)
    assert (len(blocks), len(nodes)) == (NUM_FILES, 2)
    assert blocks.total() - NUM_FILES <= ON_SECOND_NODE


@pytest.mark.long
def test_an_actor_of_two(
    tmp_path: Path, images: Path, models: tuple[Path, Path], expected: dict[str, pa.Table]
) -> None:
    out = tmp_path / "out"
    driver = start("caption", out, caption_settings(images, models, num_actors=2))
    when_first_is_whole(out, driver)
    below = psutil.Process(driver.pid).children(recursive=True)
    actors = [child.pid for child in below if "ray::caption" in "".join(child.cmdline())]
    assert len(actors) == 2
    os.kill(actors[0], signal.SIGKILL)
    end_well(driver)
    assert_all_there(out, expected)
    assert begun(out)[0].total() - NUM_FILES <= 1


@pytest.mark.long  # of one actor: test_step
def test_the_driver_of_two_actors(
    tmp_path: Path, images: Path, models: tuple[Path, Path], expected: dict[str, pa.Table]
) -> None:
    out, settings = tmp_path / "out", caption_settings(images, models, num_actors=2)
    driver = start("caption", out, settings)
    when_first_is_whole(out, driver)
    driver.kill()
    driver.communicate()
    assert len(parquet_files(out)) < NUM_FILES
    end_well(start("caption", out, settings))
    assert_all_there(out, expected)
    assert begun(out)[0].total() - NUM_FILES <= 2


def test_a_node_that_downloads(tmp_path: Path, rude_server: Any) -> None:
    names = [f"lost{i}.jpg" for i in range(NUM_FILES * PER_FILE)]
    lines = ["url\tcaption", *(f"{rude_server.url(name)}\ta {name}" for name in names)]
    (tmp_path / "urls.tsv").write_text("\n".join(lines) + "\n")
    settings = {"urls": [{"path": tmp_path / "urls.tsv"}], "rows_per_shard": PER_FILE, "num_threads": 1}
    out = tmp_path / "out"
    end_well(start("download", out, {**settings, "allow_private_addresses": True, "lose_node": True}))
    made = pa.concat_tables([read_parquet(part, ["url", "status"]) for part in parquet_files(out)])
    assert made["url"].to_pylist() == [rude_server.url(name) for name in names]
    assert set(made["status"].to_pylist()) == {"success"}
    assert len(begun(out)[1]) == 2
    asked = Counter(rude_server.asked[f"/{name}"] for name in names)
    assert set(asked) <= {1, 2}
    assert asked[2] <= ON_SECOND_NODE * PER_FILE
