"""Captioning with compiled image encoders: the eager captions and scores, at any batch size and in lanes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from blip_bootstrap.config import CaptionConfig
from blip_bootstrap.errors import InputError
from blip_bootstrap.storage.parquet import read_parquet
from blip_pipelines.caption.worker import CaptionWorker

COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
needs_compiler = pytest.mark.skipif(not COMPILER, reason="torch.compile needs a C++ compiler")
EAGER = CaptionConfig(candidates=2, device="cpu", seed=7)
COMPILED = EAGER.model_copy(update={"compile": True})


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, make_images: Callable[..., Path]) -> pa.Table:
    folder = make_images(tmp_path_factory.mktemp("images"), 15, 15, damaged=(3,))
    return read_parquet(folder / "part-00000.parquet")


def check_same(found: pa.Table, expected: pa.Table) -> None:
    """The same rows and texts; scores to the last digits, which the order of a sum decides."""
    for row, other in zip(found.to_pylist(), expected.to_pylist(), strict=True):
        scores = ("itm_score", "itc_score", "logprob", "logprob_per_token", "lift", "captioner_itc")
        assert [row[name] for name in scores] == pytest.approx([other[name] for name in scores], abs=1e-4)
        assert row | dict.fromkeys(scores) == other | dict.fromkeys(scores)


@needs_compiler
@pytest.mark.filterwarnings("default")  # torch's compiler warns of its own insides
def test_compiled_captions_are_the_eager_ones(images: pa.Table, models: tuple[Path, Path]) -> None:
    eager = CaptionWorker(*models, EAGER, num_threads=1)(images)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    worker = CaptionWorker(*models, COMPILED, num_threads=1)
    check_same(worker(images), eager)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0, "compiled in deed"
    assert not torch._dynamo.utils.counters["graph_break"]
    for batch_size, lanes in ((1, 1), (5, 2)):
        config = COMPILED.model_copy(update={"batch_size": batch_size})
        check_same(CaptionWorker(*models, config, num_threads=1, num_lanes=lanes)(images), eager)


def test_what_was_compiled_stands_in_the_metadata(models: tuple[Path, Path]) -> None:
    if COMPILER:
        assert CaptionWorker(*models, COMPILED).metadata["compile"] == "vision blocks"
    assert "compile" not in CaptionWorker(*models, EAGER).metadata


def test_a_machine_without_a_compiler_is_told(models: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(InputError, match=r"caption\.compile: true needs a C\+\+ compiler"):
        CaptionWorker(*models, COMPILED)
