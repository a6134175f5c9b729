"""kill -9 while an endpoint judges: what was answered and written is not asked again."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from blip_bootstrap.config import CaptionConfig, JudgeConfig, RayConfig
from blip_bootstrap.storage.parquet import parquet_files, read_parquet
from blip_pipelines.caption.answers import KeptScores
from blip_pipelines.caption.blocks import BLOCKS
from blip_pipelines.caption.judged import Asked
from blip_pipelines.caption.step import caption_and_score
from blip_pipelines.scoring.rows import CaptionRow
from tests.support.chat_server import ChatServer
from tests.support.judges import Plain

REPO = Path(__file__).parents[3]

BATCH, NUM_IMAGES = 8, 40

CODE = """
import json, sys
from pathlib import Path
from blip_bootstrap.config import CaptionConfig, RayConfig
from blip_pipelines.caption.step import caption_and_score
out, images, captioner, filter, before, config = sys.argv[1:]
config = CaptionConfig.model_validate(json.loads(config))
scored = {one.name: one for one in Path(before).glob("part-*.parquet")} if before else {}
models = Path(captioner), Path(filter)
caption_and_score(Path(out), Path(images), *models, config, RayConfig(address="none"), scored=scored)
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, make_images: Callable[..., Path]) -> Path:
    return make_images(tmp_path_factory.mktemp("images"), NUM_IMAGES, NUM_IMAGES)


def settings(server: ChatServer | None) -> dict[str, Any]:
    known: dict[str, Any] = {"batch_size": BATCH, "device": "cpu", "references": 0, "sampler": {"max_tokens": 8}}
    if server:
        options = {"urls": [server.url], "model": "tiny", "max_in_flight": 4, "start_in_flight": 4}
        known["judges"] = [{"name": "chat", "kind": "endpoint_vqa_score", "options": options}]
    return known


@pytest.mark.parametrize("comes_later", [True, False])
def test_a_killed_run_asks_nothing_again_but_for_one_batch(
    tmp_path: Path, images: Path, models: tuple[Path, Path], comes_later: bool
) -> None:
    """A judge that comes to captions that are there, and one that scores them as they are made."""
    here, before = RayConfig(address="none"), tmp_path / "before"
    caption_and_score(before, images, *models, CaptionConfig.model_validate(settings(None)), here)
    rows = [row for part in parquet_files(before) for row in read_parquet(part).to_pylist()]
    wanted = sum(bool(row["caption"]) for row in rows)
    with ChatServer(latency_s=0.1, yes=0.6) as server:
        config, given = settings(server), str(before) if comes_later else ""
        arguments = [str(tmp_path / "out"), str(images), *map(str, models), given, json.dumps(config)]
        with subprocess.Popen([sys.executable, "-c", CODE, *arguments], cwd=REPO) as process:
            end = time.monotonic() + 400
            while sum(server.counts()["answered"].values()) < 2.5 * 2 * BATCH:
                assert process.poll() is None, "it was over before it could be killed"
                assert time.monotonic() < end
                time.sleep(0.01)
            process.kill()
        assert [*(tmp_path / "out" / BLOCKS).glob(".scores-*")]
        asked_before = sum(server.counts()["asked"].values())
        server.be(latency_s=0, yes=0.6)
        scored = {one.name: one for one in parquet_files(before)} if comes_later else {}
        caption_and_score(tmp_path / "out", images, *models, CaptionConfig.model_validate(config), here, scored=scored)
        asked_then = sum(server.counts()["asked"].values())
    made = [row for part in parquet_files(tmp_path / "out") for row in read_parquet(part).to_pylist()]
    assert [dict(row["scores"] or {}) for row in made] == [
        {"chat": pytest.approx(0.6 / (0.6 + 0.35))} if row["caption"] else {} for row in rows
    ]
    assert [row["caption"] for row in made] == [row["caption"] for row in rows]
    assert wanted <= asked_before + asked_then <= wanted + 2 * BATCH  # of one batch, two texts a picture
    assert asked_then <= wanted - 2 * BATCH
    assert not (tmp_path / "out" / BLOCKS).exists()


@pytest.mark.usefixtures("registered")
def test_what_is_kept_is_of_the_text_that_was_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Plain, "varies_with", "server")
    calls, block = tmp_path / "calls", tmp_path / "part-00000-000000.parquet"
    options = {"calls": str(calls), "fails": {"lost": "timeout"}}
    judge = JudgeConfig(name="a", kind="plain", options=options)

    def ask(*texts: str) -> list[CaptionRow]:
        rows = [CaptionRow(f"{at}", "web", 0, text, 3) for at, text in enumerate(texts)]
        pairs = [(Image.new("RGB", (8, 8)), text) for text in texts]
        Asked(judge).set_scores(rows, pairs, "cpu", "float32", KeptScores(block))
        return rows

    first = ask("one", "two", "lost")
    again = ask("one", "other", "lost")
    assert [int(line) for line in calls.read_text().split()] == [3, 2]  # another text, and one without a score
    assert again[0].scores == first[0].scores
    assert again[2].scores_lacking == [("a_first", "timeout"), ("a_second", "timeout")]
    KeptScores(block).drop()
    assert not [*tmp_path.glob(".scores-*")]
