"""Without Ray, asked for or for want of more than one task: the same tables, in a process that never imports Ray."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blip_bootstrap.config import CaptionConfig, RayConfig
from blip_bootstrap.errors import ConfigError
from blip_bootstrap.storage.parquet import parquet_files, read_parquet
from blip_pipelines.caption.step import caption_and_score
from blip_pipelines.train.runner import Training, train

Models = tuple[Path, Path]

HERE = RayConfig(address="none")

RUN = """
import json, sys
from pathlib import Path
from blip_bootstrap.config import load_config
from blip_bootstrap.loop.rounds import run_rounds
said = []
report = run_rounds(load_config(Path(sys.argv[1])), 1, said.append)
loaded = [name for name in ("ray", "albumentations.core") if name in sys.modules]
print(json.dumps({"report": report.exists(), "loaded": loaded}))
"""


@pytest.mark.ray
def test_captions_are_those_that_actors_make(
    tmp_path: Path, models: Models, make_images: Callable[..., Path], ray_config: RayConfig
) -> None:
    images = make_images(tmp_path / "images", 40, 25)
    config = CaptionConfig.model_validate({"batch_size": 7, "device": "cpu", "sampler": {"max_tokens": 10}})
    counts = {
        name: caption_and_score(tmp_path / name, images, *models, config, ray)
        for name, ray in (("here", HERE), ("actors", ray_config))
    }
    assert counts["here"] == counts["actors"]
    here, actors = (
        [row for file in parquet_files(tmp_path / name) for row in read_parquet(file).to_pylist()] for name in counts
    )
    assert [row["caption"] for row in here] == [row["caption"] for row in actors]
    scores = [[row["itm_score"] for row in rows] for rows in (here, actors)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


@pytest.mark.parametrize("address", ["none", "local"])
def test_a_round_runs_in_one_process_without_ray(
    tmp_path: Path, models: Models, rude_server: Any, address: str
) -> None:
    lines = [f"{rude_server.url(f'picture{i}' if i % 4 else f'missing.{i}')}\ta dog {i}\n" for i in range(20)]
    (tmp_path / "urls.tsv").write_text("url\tcaption\n" + "".join(lines))
    config = {
        "root": str(tmp_path / "run"),
        "download": {"urls": [{"path": str(tmp_path / "urls.tsv")}], "allow_private_addresses": True, "num_retries": 0},
        "captioner": {"checkpoint": str(models[0])},
        "filter": {"checkpoint": str(models[1])},
        "caption": {"device": "cpu", "sampler": {"max_tokens": 10}},
        "pretrain": {"optimizer": {"steps": 0}},
        "ray": {"address": address},
    }
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    command = [sys.executable, "-c", RUN, str(tmp_path / "config.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"report": True, "loaded": []}
    (images,) = parquet_files(tmp_path / "run" / "images")
    assert read_parquet(images, ["status"])["status"].to_pylist().count("success") == 15
    (captions,) = parquet_files(tmp_path / "run" / "round-01" / "captions")
    assert len(read_parquet(captions)) == 30


def test_a_training_runs_here_and_only_with_one_worker(tmp_path: Path) -> None:
    job = Training("a training", tmp_path, 1, lambda: {"steps": 1}, device="cpu")
    assert train(job, HERE) == {"steps": 1}
    with pytest.raises(ConfigError, match="none runs one worker, num_workers is 2"):
        train(Training("a training", tmp_path, 1, dict, num_workers=2), HERE)
