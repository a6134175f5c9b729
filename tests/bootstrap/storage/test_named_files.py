"""A run is what its manifests name: copies of folders and files beside it count nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from blip_bootstrap.config import SelectConfig
from blip_bootstrap.errors import InputError
from blip_bootstrap.labels.truth import judged_pairs, load_truth
from blip_bootstrap.query.questions import query
from blip_bootstrap.query.views import connect
from blip_bootstrap.report.figures import round_metrics
from blip_bootstrap.select.pairs import select_pairs
from blip_bootstrap.storage import parquet, run_folder
from blip_training.feed.shards import web_shards
from tests.support.finished_run import make_run

COUNTS = """
SELECT (SELECT count(*) FROM images) AS images, (SELECT count(*) FROM captions) AS captions,
    (SELECT count(*) FROM pairs) AS pairs, (SELECT count(*) FROM runs) AS runs, (SELECT count(*) FROM rounds) AS rounds
"""


def counts(root: Path) -> dict[str, int]:
    with connect(root) as connection:
        (row,) = query(connection, COUNTS).to_pylist()
    return dict(row)


@pytest.fixture
def littered(tmp_path: Path) -> tuple[Path, dict[str, int]]:
    """A run with what people leave beside its parts, and its counts before."""
    root = tmp_path / "run"
    make_run(root)
    before = counts(root)
    (root / "round-1").mkdir()
    (root / "round-٢").mkdir()
    for copy in ("round-001", "round-1.bak", "round-01 copy"):
        shutil.copytree(root / "round-01", root / copy)
    shutil.copytree(root / "images", root / "images copy")
    for folder in ("images", "round-01/captions", "round-01/pairs", "round-00/pairs"):
        for copy in ("part-00000 copy.parquet", "part-00000(1).parquet", "old.parquet", "part-00009.parquet"):
            shutil.copy(root / folder / "part-00000.parquet", root / folder / copy)
    shutil.copytree(root / "round-01/controls/human_only", root / "round-01/controls/human_only copy")
    return root, before


def test_litter_counts_nothing_anywhere(littered: tuple[Path, dict[str, int]], tmp_path: Path) -> None:
    root, before = littered
    assert counts(root) == before
    assert run_folder.round_numbers(root) == run_folder.rounds_with_pairs(root) == [0, 1]
    figures = round_metrics(root, 1, root / "truth.tsv")
    assert figures["urls"] == before["images"] == 80
    assert figures["web_captions"] + figures["synthetic_captions"] == before["captions"]
    assert not [name for name in figures if "copy" in name]
    judged = judged_pairs(load_truth(root / "truth.tsv"), root / "images", root / "round-01/pairs")
    assert judged.num_rows == before["captions"]
    assert [shard.images.name for shard in web_shards(root / "images", root / "round-01/pairs")] == [
        "part-00000.parquet", "part-00001.parquet",
    ]  # fmt: skip
    assert (
        select_pairs(tmp_path / "out", root / "round-01/captions", config=SelectConfig())["rows"] == before["captions"]
    )


def test_a_part_that_is_named_and_gone_is_told(tmp_path: Path) -> None:
    make_run(tmp_path)
    (tmp_path / "round-01/pairs/part-00001.parquet").unlink()
    with pytest.raises(InputError, match=r"part-00001\.parquet: its MANIFEST names it, and it is not there"):
        connect(tmp_path)


def test_without_a_manifest_every_file_counts_but_hidden_ones(tmp_path: Path) -> None:
    for name in ("part-00001.parquet", "part-00000.parquet", ".part-00000.parquet.1.tmp", ".x.parquet", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in parquet.parquet_files(tmp_path)] == ["part-00000.parquet", "part-00001.parquet"]
    (tmp_path / "MANIFEST.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        parquet.parquet_files(tmp_path)
