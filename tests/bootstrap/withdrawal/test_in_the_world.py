"""The built-in world with real models: after forgetting, a run is one in which these URLs answered 404."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml

from blip_bootstrap.storage.parquet import parquet_files, read_parquet
from blip_bootstrap.storage.withdrawn import HASHES
from tests.support.small_world import blip, small_config
from tests.support.small_world_runs import rows_of, weights_of

NUM_WEB, SHARE = 120, 0.01


@pytest.mark.long
def test_captions_pairs_and_models_are_those_of_a_run_without_them(tmp_path: Path) -> None:
    config, server = small_config(tmp_path / "mine", tmp_path / "world", NUM_WEB)
    for section in ("pretrain", "captioner", "filter"):
        config[section]["optimizer"] |= {"steps": 3, "batch_size": 8, "checkpoint_every_steps": 3}
    config["controls"] = {"arms": []}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    run = ("run", "--config", tmp_path / "config.yaml", "--round", "1", "--ray", "none")
    with server:
        first = blip(*run)
        assert first.returncode == 0, first.stderr
        images = [row for row in rows_of(tmp_path / "mine", "images") if row["status"] == "success"]
        gone = [row["url"] for row in images[:: len(images) // math.ceil(SHARE * NUM_WEB)]][:2]
        told = blip("forget", "--root", tmp_path / "mine", *(word for url in gone for word in ("--url", url)))
        assert told.returncode == 0, told.stderr
        assert len((tmp_path / "mine" / HASHES).read_text().splitlines()) == len(gone)
        again = blip(*run)
        assert again.returncode == 0, again.stderr
        assert "images: current" in again.stderr
        for url in gone:
            (server.folder / url.rpartition("/")[2]).unlink()
        other = blip(*run, "--root", tmp_path / "other")
        assert other.returncode == 0, other.stderr
    for place in ("round-00/pairs", "round-01/captions", "round-01/pairs"):
        mine, others = (rows_of(tmp_path / name, place) for name in ("mine", "other"))
        assert mine == others, place
    for place in ("round-00/model", "round-01/captioner", "round-01/filter", "round-01/model"):
        assert weights_of(tmp_path / "mine", place) == weights_of(tmp_path / "other", place), place
    assert len(parquet_files(tmp_path / "mine/images")) == len(parquet_files(tmp_path / "other/images"))
    assert "withdrawn" in read_parquet(parquet_files(tmp_path / "mine/images")[0], ["status"])["status"].to_pylist()
