"""What a round gives out comes in again: the same pictures, uids, texts and scores."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from blip_bootstrap.cli.app import app
from blip_bootstrap.config import DownloadConfig, PictureSource, RayConfig
from blip_bootstrap.query.views import connect
from blip_bootstrap.storage.parquet import parquet_files, read_parquet
from blip_pipelines.ingest.download import download_images

SCORES = ("itm_score", "itc_score", "logprob")


def export(root: Path, out: Path, form: str) -> Path:
    asked = ["export", "--root", str(root), "--round", "1", "--format", form, "--out", str(out)]
    CliRunner().invoke(app, asked, catch_exceptions=False)
    return out


def known(root: Path) -> dict[str, list[dict[str, Any]]]:
    """The kept texts of round 1 by their pictures' keys."""
    found = defaultdict[str, list[dict[str, Any]]](list)
    with connect(root) as connection:
        rows = connection.execute(
            "SELECT i.jpg, i.key, i.uid, i.url, i.sha256, p.caption, p.source, c.itm_score, c.itc_score, c.logprob "
            "FROM pairs p JOIN captions c USING (round, key, source, candidate) JOIN images i ON i.key = p.key "
            "WHERE p.round = 1 AND p.kept ORDER BY i.key, p.source DESC, p.candidate"
        )
        names = [one[0] for one in rows.description]
        for row in rows.fetchall():
            found[row[1]].append(dict(zip(names, row, strict=True)))
    return found


@pytest.mark.parametrize("form", ["webdataset", "hf", "parquet", "coco-json", "blip-json"])
def test_what_goes_out_comes_in_again(finished_run: Path, tmp_path: Path, form: str) -> None:
    source = PictureSource(path=export(finished_run, tmp_path / "out", form), dataset="again")
    config = DownloadConfig(pictures=(source,))
    download_images(tmp_path / "in", source.path, config=config, ray=RayConfig(address="none"))
    found = defaultdict[str, list[dict[str, Any]]](list)
    for path in parquet_files(tmp_path / "in"):
        for row in read_parquet(path).to_pylist():
            assert row["status"] == "success", row["error_message"]
            found[Path(row["source_key"]).stem].append(row)
    there = known(finished_run)
    assert found.keys() == there.keys()
    assert any(len(texts) > 1 for texts in there.values())
    for key, texts in there.items():
        rows = found[key]
        assert {row["jpg"] for row in rows} == {texts[0]["jpg"]}
        assert sorted(row["caption"] for row in rows) == sorted(text["caption"] for text in texts)
        if form == "blip-json":
            continue  # has texts alone
        assert (rows[0]["uid"], rows[0]["source_key"]) == (texts[0]["uid"], key)
        assert {row["sha256"] for row in rows} == {texts[0]["sha256"]}
        assert {row["url"] for row in rows} == {texts[0]["url"]}
        for row, text in zip(rows, texts, strict=True):
            told = json.loads(row["extra"])
            assert (row["caption"], told["source"]) == (text["caption"], text["source"])
            for name in SCORES:
                assert (name in told) == (text[name] is not None)
                assert name not in told or np.float32(told[name]) == np.float32(text[name])
