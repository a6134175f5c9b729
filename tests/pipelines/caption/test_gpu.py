"""A captioning worker on a GPU writes and scores what it does on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from blip_bootstrap.config import CaptionConfig, RayConfig, SamplerConfig
from blip_bootstrap.storage.parquet import parquet_files, read_parquet
from blip_pipelines.caption import step
from blip_pipelines.caption.probe import SampledCaptioning
from blip_pipelines.caption.worker import BATCH_SIZE, CaptionWorker

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
NUM_IMAGES = 60


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, make_images: Callable[..., Path]) -> pa.Table:
    return read_parquet(parquet_files(make_images(tmp_path_factory.mktemp("images"), NUM_IMAGES, NUM_IMAGES))[0])


def worked(images: pa.Table, models: tuple[Path, Path], device: Any, dtype: Any = "float32") -> list[dict[str, Any]]:
    config = CaptionConfig(device=device, dtype=dtype, candidates=2, sampler=SamplerConfig(max_tokens=10))
    made: list[dict[str, Any]] = CaptionWorker(*models, config)(images).to_pylist()
    return made


@pytest.mark.parametrize(("dtype", "tolerance", "same_captions"), [("float32", 0.005, 0.9), ("bfloat16", 0.05, 0.5)])
def test_captions_and_scores(
    images: pa.Table, models: tuple[Path, Path], dtype: str, tolerance: float, same_captions: float
) -> None:
    """The seeds are the same, so captions differ only where two tokens are nearly as likely."""
    cpu, gpu = worked(images, models, "cpu"), worked(images, models, "cuda", dtype)
    names = ("key", "source", "candidate", "seed")
    assert [[row[name] for name in names] for row in gpu] == [[row[name] for name in names] for row in cpu]
    pairs = [pair for pair in zip(cpu, gpu, strict=True) if pair[0]["caption"] == pair[1]["caption"]]
    synthetic = [one for one, _ in pairs if one["source"] == "synthetic"]
    assert len(synthetic) >= same_captions * NUM_IMAGES * 9 // 10 * 2
    for name in ("itm_score", "itc_score"):
        scores = [[row[name] for row in side] for side in zip(*pairs, strict=True)]
        assert scores[1] == pytest.approx(scores[0], abs=tolerance)


def test_pictures_are_decoded_aside_and_a_plan_measures_a_whole_block(
    images: pa.Table, models: tuple[Path, Path]
) -> None:
    config = CaptionConfig(device="cuda", sampler=SamplerConfig(max_tokens=10))
    worker = CaptionWorker(*models, config, 1, 4)
    assert (worker.num_decoders, worker.batch_size) == (4, BATCH_SIZE["cuda"])
    assert worker._processes
    actor = SampledCaptioning(str(models[0]), str(models[1]), config, 4)
    actor.load()
    found = actor.measure(images, 60.0)
    assert found["seconds"] > 0
    assert found["images"] == len([row for row in found["captions"] if row["source"] == "web"])


@pytest.mark.ray
def test_two_actors_on_one_gpu_caption_a_task_of_several_blocks(
    tmp_path: Path,
    make_images: Callable[..., Path],
    models: tuple[Path, Path],
    ray_config: RayConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(step, "blocks_per_task", lambda *_: 2)
    folder = make_images(tmp_path / "images", NUM_IMAGES, 10)  # a block in each of six files
    config = CaptionConfig(device="cuda", gpus_per_actor=0.5, num_actors=2, sampler=SamplerConfig(max_tokens=10))
    counts = step.caption_and_score(tmp_path / "captions", folder, *models, config, ray_config)
    assert (counts["images"], counts["synthetic"]) == (NUM_IMAGES * 9 // 10, NUM_IMAGES * 9 // 10)
    assert len(parquet_files(tmp_path / "captions")) == 6
