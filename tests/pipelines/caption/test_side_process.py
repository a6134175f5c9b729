"""Captions made in a process beside the command's: the same tables, errors and ends as in the command's own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from blip_bootstrap.config import CaptionConfig, Config, RayConfig, SamplerConfig
from blip_bootstrap.errors import CheckpointError, RunFailed
from blip_bootstrap.storage.parquet import parquet_files, read_parquet
from blip_pipelines.caption.side_process import CaptionProcess, caption_process, close_unless_first, running
from blip_pipelines.caption.step import caption_and_score

Models = tuple[Path, Path]

HERE = RayConfig(address="none")
CONFIG = CaptionConfig(device="cpu", batch_size=16, sampler=SamplerConfig(max_tokens=10))

COMMAND = """
import sys, time
from blip_pipelines.caption.side_process import CaptionProcess
process = CaptionProcess()
print(process._process.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, make_images: Callable[..., Path]) -> Path:
    return make_images(tmp_path_factory.mktemp("images"), 80, 40, damaged=(5,))


def config_of(models: Models, **ray: Any) -> Config:
    given = {name: {"checkpoint": str(path)} for name, path in zip(("captioner", "filter"), models, strict=True)}
    return Config.model_validate(given | {"ray": {"address": "none", **ray}})


def captions(out: Path) -> list[dict[str, Any]]:
    return [row for file in parquet_files(out) for row in read_parquet(file).to_pylist()]


def test_tables_are_those_of_one_process(tmp_path: Path, images: Path, models: Models) -> None:
    counts = [caption_and_score(tmp_path / "one", images, *models, CONFIG, HERE)]
    with caption_process():
        close_unless_first(config_of(models), 1)
        beside = running()
        assert beside is not None
        counts.append(caption_and_score(tmp_path / "two", images, *models, CONFIG, HERE))
        assert running() is None, "it holds the models' memory after its work"
    assert beside._process.poll() is not None
    assert counts[0] == counts[1]
    assert captions(tmp_path / "one") == captions(tmp_path / "two")
    assert [file.name for file in parquet_files(tmp_path / "two")] == ["part-00000.parquet", "part-00001.parquet"]


def test_it_ends_where_training_or_a_cluster_comes_first(models: Models) -> None:
    for config, number in (
        (config_of(models), 0), (config_of(models, address="auto"), 1), (Config.model_validate({}), 1),
    ):  # fmt: skip
        with caption_process():
            close_unless_first(config, number)
            assert running() is None


def test_its_errors_are_raised_here(tmp_path: Path, images: Path, models: Models) -> None:
    with caption_process(), pytest.raises(CheckpointError) as raised:
        caption_and_score(tmp_path / "out", images, models[0], tmp_path / "none", CONFIG, HERE)
    with pytest.raises(CheckpointError) as in_one:
        caption_and_score(tmp_path / "out", images, models[0], tmp_path / "none", CONFIG, HERE)
    assert str(raised.value) == str(in_one.value)
    assert running() is None


def test_killed_at_work_it_is_one_line_and_the_next_run_goes_on(
    tmp_path: Path, images: Path, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_blocks = CaptionProcess.in_blocks

    def killed(
        self: CaptionProcess, blocks: Iterable[Sequence[dict[str, Any]]]
    ) -> Iterator[tuple[list[dict[str, Any]], bool]]:
        for rows, is_last in in_blocks(self, blocks):
            yield rows, is_last
            if rows[0]["key"].startswith("00001"):  # a batch of the second file
                self._process.send_signal(signal.SIGKILL)
                self._process.wait()

    monkeypatch.setattr(CaptionProcess, "in_blocks", killed)
    with (
        caption_process(),
        pytest.raises(RunFailed, match=r"^caption: the captioning process was killed.*; run again to go on$"),
    ):
        caption_and_score(tmp_path / "out", images, *models, CONFIG, HERE)
    (first,) = parquet_files(tmp_path / "out")
    made = first.stat().st_mtime_ns
    caption_and_score(tmp_path / "out", images, *models, CONFIG, HERE)
    assert first.stat().st_mtime_ns == made
    caption_and_score(tmp_path / "whole", images, *models, CONFIG, HERE)
    assert captions(tmp_path / "out") == captions(tmp_path / "whole")


def test_it_ends_with_a_command_that_is_killed() -> None:
    command = subprocess.Popen([sys.executable, "-c", COMMAND], stdout=subprocess.PIPE, text=True)
    assert command.stdout is not None
    process = psutil.Process(int(command.stdout.readline()))
    command.kill()
    command.wait()
    command.stdout.close()
    process.wait(timeout=60)


def test_ctrl_c_is_left_to_the_command(tmp_path: Path, images: Path, models: Models) -> None:
    with caption_process():
        close_unless_first(config_of(models), 1)
        beside = running()
        assert beside is not None
        beside.load(*map(str, models), CONFIG, 1, 1)
        os.kill(beside._process.pid, signal.SIGINT)
        time.sleep(0.1)
        assert list(beside.in_blocks([[], []])) == [([], True), ([], True)]


def test_modules_of_the_working_directory_are_not_imported(
    tmp_path: Path, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(tmp_path)
    process = CaptionProcess()
    try:
        assert "captioner" in process.load(*map(str, models), CONFIG, 1, 1).metadata
    finally:
        process.close()
