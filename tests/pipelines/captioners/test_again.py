"""`run --retry captions`, over a whole run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from blip_bootstrap.config import Config, load_config
from blip_bootstrap.errors import ConfigError
from blip_bootstrap.loop.rounds import run_rounds
from blip_bootstrap.schemas.closed_lists import NO_ANSWERS
from blip_bootstrap.storage.parquet import read_parquet
from tests.support.tiny_pipeline import RudeServer, serving

pytestmark = pytest.mark.usefixtures("registered")


def configured(folder: Path, models: tuple[Path, Path], **options: Any) -> Config:
    writer = {"name": "one", "kind": "sure", "prompts": {"short": "a"}, "candidates": 3, "options": options}
    settings = {
        "download.urls": [{"path": str(folder / "urls.tsv")}], "download.allow_private_addresses": True,
        "download.min_image_size": 8, "captioner.checkpoint": str(models[0]), "filter.checkpoint": str(models[1]),
        "caption.own_writer": False, "caption.references": 0, "caption.device": "cpu", "caption.writers": [writer],
        "pretrain.optimizer.steps": 0, "select.itm_threshold": 0, "ray.address": "none",
    }  # fmt: skip
    return load_config(None, [f"{name}={json.dumps(value)}" for name, value in settings.items()], root=folder / "run")


def manifest(root: Path, place: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / "round-01" / place / "MANIFEST.json").read_text())
    return found


def test_texts_that_lack_are_asked_for_again_in_another_version(tmp_path: Path, models: tuple[Path, Path]) -> None:
    # By the seed, which the URL makes, whose port is another each time: of 40 pictures some fail in each way.
    fails, mended = dict.fromkeys("0123", "rate_limited") | dict.fromkeys("456", "refused"), tmp_path / "mended"
    config = configured(tmp_path, models, fails=fails, mended=str(mended))
    said: list[str] = []
    with serving(RudeServer()) as server:
        lines = "".join(f"{server.url(f'{number}.jpg')}\ta picture {number}\n" for number in range(40))
        (tmp_path / "urls.tsv").write_text("url\tcaption\n" + lines)
        run_rounds(config, 1, said.append)
    first = (config.root / "round-01" / "captions").resolve()
    before, counts = read_parquet(first / "part-00000.parquet").to_pylist(), manifest(config.root, "captions")["counts"]
    assert counts["rate_limited"] > 0 < counts["refused"]
    assert manifest(config.root, "pairs")["counts"]["dropped_empty_text"] == counts["rate_limited"] + counts["refused"]

    run_rounds(config, 1, said.append)
    assert said.count("round-01/captions: current") == 1  # what lacks is not asked for by itself

    mended.touch()
    run_rounds(config, 1, said.append, retry="captions:rate_limited")
    second = (config.root / "round-01" / "captions").resolve()
    after, made = read_parquet(second / "part-00000.parquet").to_pylist(), manifest(config.root, "captions")
    assert second != first
    assert first.is_dir()
    assert (made["version_of_recipe"], made["retry"]) == (2, "captions:rate_limited")
    assert "rate_limited" not in made["counts"]
    assert [(row["key"], row["candidate"]) for row in after] == [(row["key"], row["candidate"]) for row in before]
    assert manifest(config.root, "pairs")["counts"]["rows"] == len(after)

    run_rounds(config, 1, said.append, retry="captions:rate_limited")
    assert "round-01/captions: no text lacks for rate_limited, so that there is none to try again" in said


@pytest.mark.parametrize(
    ("retry", "told"),
    [
        ("captions:rate_limit", "did you mean captions:rate_limited?"),
        ("captions:x", f"REASON is one of {NO_ANSWERS[0]}"),
    ],
)
def test_a_reason_that_is_none_is_told(tmp_path: Path, models: tuple[Path, Path], retry: str, told: str) -> None:
    (tmp_path / "urls.tsv").write_text("url\tcaption\nx\ty\n")
    with pytest.raises(ConfigError, match="--retry captions:") as raised:
        run_rounds(configured(tmp_path, models), 1, lambda _: None, retry=retry)
    assert told in str(raised.value)
