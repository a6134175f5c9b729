"""Pictures decoded by other processes are the same, and neither a picture nor a process that ends costs another one."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest
import torch
from PIL import Image

from blip_bootstrap.config import CaptionConfig, SamplerConfig
from blip_bootstrap.errors import InputError
from blip_bootstrap.storage.parquet import parquet_files, read_parquet
from blip_pipelines.caption.worker import CaptionWorker
from blip_pipelines.failures.aside import Died
from blip_pipelines.scoring import decoders
from blip_pipelines.scoring.decoders import DecodeProcesses
from blip_pipelines.scoring.picture import Picture
from blip_training.data.pixels import decode_pixels

SIZES = (24, 16)


def picture(seed: int, mode: str = "RGB", format: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 30, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, format)
    return stream.getvalue()


@pytest.fixture
def processes() -> Iterator[DecodeProcesses]:
    made = DecodeProcesses(2, SIZES)
    yield made
    made.close()


def children() -> list[psutil.Process]:
    found = (one for one in psutil.Process().children() if one.status() != psutil.STATUS_ZOMBIE)
    return [one for one in found if any("decode_process" in part for part in one.cmdline())]


def test_pixels_are_those_of_this_process(processes: DecodeProcesses) -> None:
    pictures = [
        picture(0),
        picture(1, "L"),
        picture(2, "RGBA", "PNG"),
        picture(3, "P", "GIF"),
        *map(picture, range(30)),
    ]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda one: processes.pixels(one, "here"), pictures))
    for encoded, pixels in zip(pictures, found, strict=True):
        assert set(pixels) == set(SIZES)
        assert all(torch.equal(pixels[size], decode_pixels(encoded, size, "here")) for size in SIZES)


@pytest.mark.parametrize("broken", [b"", b"no picture", picture(0)[:200]])
def test_broken_bytes_are_told_and_cost_nothing_else(processes: DecodeProcesses, broken: bytes) -> None:
    before = children()
    for _ in range(3):
        with pytest.raises(InputError, match="key 7: the picture cannot be decoded"):
            processes.pixels(broken, "key 7")
        assert processes.pixels(picture(1), "here")[24].shape == (3, 24, 24)
    assert children() == before


def test_a_killed_process_is_replaced(processes: DecodeProcesses) -> None:
    expected = decode_pixels(picture(5), 24, "here")
    before = children()
    for one in before:
        one.kill()
    for _ in range(4):
        assert torch.equal(processes.pixels(picture(5), "here")[24], expected)
    assert len(children()) == 2
    assert not {one.pid for one in children()} & {one.pid for one in before}


@pytest.mark.parametrize(
    ("ending", "how", "reason"),
    [
        ("os.kill(os.getpid(), 9)", "was killed, as Linux does where memory runs out", "out_of_memory"),
        ("sys.exit(3)", "ended with 3", "crashed"),
    ],
)
def test_one_that_dies_at_a_picture_again_is_its_rows_reason(
    monkeypatch: pytest.MonkeyPatch, ending: str, how: str, reason: str
) -> None:
    code = f"import os, sys\nsys.stdin.buffer.read(9)\n{ending}"
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    monkeypatch.setattr(decoders, "start_child", lambda *_: subprocess.Popen([sys.executable, "-c", code], **pipes))
    dying = DecodeProcesses(1, SIZES)
    with pytest.raises(Died, match=f"decodes key 7 {how}, 2 times") as died:
        dying.pixels(picture(0), "key 7")
    assert died.value.reason == reason
    row = {"key": "7", "caption": "a dog", "jpg": picture(0), "status": "success"}
    shown = Picture(row, frozenset(SIZES), None, dying)
    assert (shown.decoded, shown.flags) == (False, [reason])
    dying.close()


def test_they_end_with_what_made_them() -> None:
    assert children() == []
    made = DecodeProcesses(2, SIZES)
    assert len(children()) == 2
    del made
    assert children() == []


def test_they_end_with_a_process_that_is_killed() -> None:
    code = (
        "import os, sys\nfrom blip_pipelines.scoring.decoders import DecodeProcesses\n"
        "made = DecodeProcesses(2, [8])\nprint([made._idle.get().pid for _ in range(2)], flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as one:
        assert one.stdout
        pids = [int(pid) for pid in one.stdout.readline().strip("[]\n").split(",")]
        os.kill(one.pid, signal.SIGKILL)
    until = time.monotonic() + 20
    while (left := [pid for pid in pids if psutil.pid_exists(pid) and _runs(pid)]) and time.monotonic() < until:
        time.sleep(0.05)
    assert not left


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_worker_writes_and_scores_the_same(
    make_images: Callable[..., Path], tmp_path: Path, models: tuple[Path, Path]
) -> None:
    """With a picture that cannot be decoded, which keeps its web text alone."""
    images = read_parquet(parquet_files(make_images(tmp_path, 40, 40))[0])
    rows = images.to_pylist()
    keys = [row["key"] for row in rows if row["status"] == "success"][:2]
    broken = [row | {"jpg": b"no picture"} if row["key"] in keys else row for row in rows]
    images = pa.Table.from_pylist(broken, images.schema)
    worker = CaptionWorker(*models, CaptionConfig(device="cpu", batch_size=9, sampler=SamplerConfig(max_tokens=8)))
    expected = worker(images)
    worker.decode_aside(3)
    assert worker(images).equals(expected)
    left = [row for row in expected.to_pylist() if row["key"] in keys]
    assert [(row["source"], row["itm_score"]) for row in left] == [("web", None)] * 2
