"""kill -9 while an endpoint captions: what was answered and written is not asked again, and the bill is counted."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from blip_bootstrap.config import CaptionConfig, RayConfig
from blip_bootstrap.storage.parquet import parquet_files, read_parquet
from blip_pipelines.caption.step import caption_and_score
from blip_pipelines.endpoints.ledger import STEP
from tests.support.chat_server import ChatServer

REPO = Path(__file__).parents[3]

BATCH, NUM_IMAGES = 8, 80

CODE = """
import json, sys
from pathlib import Path
from blip_bootstrap.config import CaptionConfig, RayConfig
from blip_pipelines.caption.step import caption_and_score
out, images, filter, config = sys.argv[1:]
config = CaptionConfig.model_validate(json.loads(config))
caption_and_score(Path(out), Path(images), None, Path(filter), config, RayConfig(address="none"))
"""


def config_for(server: ChatServer, **options: Any) -> dict[str, Any]:
    known = {"urls": [server.url], "model": "tiny", "max_in_flight": 4, "start_in_flight": 4, **options}
    writer = {"name": "chat", "kind": "openai", "options": known, "prompts": {"short": "Describe: {alt_text}"}}
    return {"own_writer": False, "writers": [writer], "batch_size": BATCH, "device": "cpu", "references": 0}


def begin(out: Path, images: Path, filter: Path, config: dict[str, Any]) -> subprocess.Popen[bytes]:
    arguments = [str(out), str(images), str(filter), json.dumps(config)]
    return subprocess.Popen([sys.executable, "-c", CODE, *arguments], cwd=REPO)


def made(out: Path) -> pa.Table:
    return pa.concat_tables([read_parquet(path) for path in parquet_files(out)])


def finish(out: Path, images: Path, filter: Path, config: dict[str, Any]) -> dict[str, Any]:
    settings = CaptionConfig.model_validate(config)
    return caption_and_score(out, images, None, filter, settings, RayConfig(address="none"))


def wait_until(server: ChatServer, answers: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 240
    while sum(server.counts()["answered"].values()) < answers:
        assert process.poll() is None, "it was over before it could be killed"
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, make_images: Callable[..., Path]) -> Path:
    return make_images(tmp_path_factory.mktemp("images"), NUM_IMAGES, 40)


def test_a_killed_run_asks_nothing_again_but_for_one_batch(
    tmp_path: Path, images: Path, models: tuple[Path, Path]
) -> None:
    with ChatServer(latency_s=0.05) as server:
        config = config_for(server, budget={"requests": 1000})
        for answers in (13, 45):
            with begin(tmp_path / "killed", images, models[1], config) as process:
                wait_until(server, answers, process)
                process.kill()
        counts = finish(tmp_path / "killed", images, models[1], config)
        asked = server.counts()
        server.be(latency_s=0)
        again = finish(tmp_path / "whole", images, models[1], config)
    wanted = NUM_IMAGES * 9 // 10
    assert len(asked["answered"]) == wanted
    twice = sum(times - 1 for times in asked["answered"].values())
    assert twice <= 2 * BATCH  # of two kills, a batch each
    killed, whole = made(tmp_path / "killed"), made(tmp_path / "whole")
    texts = ["key", "source", "caption", "seed", "flags", "captioner", "prompt", "cost_completion_tokens"]
    assert killed.select(texts).equals(whole.select(texts))
    of_server = killed.filter(pc.equal(killed["source"], "synthetic"))
    assert sum(of_server["cost_requests"].to_pylist()) == wanted
    assert sum(of_server["cost_prompt_tokens"].to_pylist()) == 90 * wanted
    assert asked["requests"] <= counts["requests_sent"] <= asked["requests"] + 2 * STEP
    assert again["requests_sent"] == wanted
    assert again["tokens_billed"] == 100 * wanted


def test_a_budget_that_is_spent_leaves_rows_with_that_reason(
    tmp_path: Path, images: Path, models: tuple[Path, Path]
) -> None:
    with ChatServer(latency_s=0) as server:
        counts = finish(tmp_path, images, models[1], config_for(server, budget={"requests": 50}))
        assert server.counts()["requests"] == 50
    assert counts["over_budget"] == NUM_IMAGES * 9 // 10 - 50
    assert counts["requests_sent"] == 50
    rows = [row for row in made(tmp_path).to_pylist() if row["source"] == "synthetic"]
    assert all((row["caption"] == "") == (row["flags"] == ["over_budget"]) for row in rows)
    assert len(rows) == NUM_IMAGES * 9 // 10


def test_the_key_is_in_no_file(
    tmp_path: Path, images: Path, models: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINY_KEY", key := "sk-only-in-the-environment")
    seen: list[bytes] = []
    write = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", lambda path, data: seen.append(bytes(data)) or write(path, data))
    with ChatServer(latency_s=0, key=key) as server:
        finish(tmp_path, images, models[1], config_for(server, key_variable="TINY_KEY"))
        assert server.counts()["last"]["headers"]["Authorization"] == f"Bearer {key}"
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert seen  # answers are kept beside the block until it is written
    assert not [data for data in (*files, *seen) if key.encode() in data]


def test_failures_are_rows_with_their_reason(tmp_path: Path, images: Path, models: tuple[Path, Path]) -> None:
    with ChatServer(latency_s=0, shares={"refusal": 0.1, "500": 0.1}) as server:
        counts = finish(tmp_path, images, models[1], config_for(server))
        refused = server.counts()["by_manner"]["refusal"]
    assert counts["refused"] == refused > 0
    assert counts["synthetic"] == NUM_IMAGES * 9 // 10
