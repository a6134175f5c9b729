"""A block that workers have died of: the rows that did it are flagged, the others are those of an undisturbed run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from blip_bootstrap.config import CaptionConfig, SamplerConfig
from blip_bootstrap.schemas.closed_lists import DEATHS, FLAGS
from blip_bootstrap.schemas.tables import IMAGES
from blip_bootstrap.storage.parquet import parquet_files, read_parquet, write_parquet
from blip_pipelines.caption.blocks import BLOCK_ROWS, Block
from blip_pipelines.caption.careful import CarefulBlocks, flagged
from blip_pipelines.caption.worker import CaptionWorker
from blip_pipelines.cluster.tally import Tally
from blip_pipelines.failures.aside import Died
from blip_pipelines.scoring.references import pick_references

POISON = Path(__file__).parents[2] / "support" / "poison"
CONFIG = CaptionConfig(device="cpu", batch_size=5, sampler=SamplerConfig(max_tokens=8))


def test_a_picture_that_crashes_its_worker_is_a_flagged_row(
    tmp_path: Path, models: tuple[Path, Path], make_images: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = make_images(tmp_path / "images", 12, 12)
    (part,) = parquet_files(images)
    whole, references = read_parquet(part), pick_references(images, CONFIG.references)
    worker = CaptionWorker(*models, CONFIG, num_threads=1, references=references)
    expected = worker(whole).to_pylist()
    rows = whole.to_pylist()
    rows[7]["jpg"] = b"segfault"
    write_parquet(part, pa.Table.from_pylist(rows, whole.schema), IMAGES)
    monkeypatch.syspath_prepend(str(POISON))  # the child has this process's path: it is poisoned, this one is not
    output = tmp_path / "blocks" / "part-00000-000000.parquet"
    block, tally = Block(str(part), 0, str(output), str(tmp_path / "part-00000.parquet"), 2 * BLOCK_ROWS), Tally()
    captioner, filter = map(str, models)
    assert list(CarefulBlocks(captioner, filter, CONFIG, 1, references, tally=tally)([block])) == [block]
    made = read_parquet(output)
    (bad,) = [row for row in made.to_pylist() if row["key"] == rows[7]["key"]]
    assert (bad["source"], bad["flags"], bad["itm_score"]) == ("web", ["crashed"], None)
    assert bad["caption"] == "a blue picture 7"
    assert tally.total()["retries"] == 3
    others = [row for row in expected if row["key"] != bad["key"]]
    scores = ("itm_score", "itc_score", "logprob")
    for found, row in zip([row for row in made.to_pylist() if row != bad], others, strict=True):
        assert found["caption"] == row["caption"]
        assert [found[name] for name in scores] == pytest.approx([row[name] for name in scores], abs=1e-5)
    metadata = {key.decode(): value.decode() for key, value in made.schema.metadata.items()}
    assert worker.metadata.items() <= metadata.items()


@pytest.mark.parametrize("reason", DEATHS)
def test_each_death_is_a_flag(reason: str) -> None:
    row = flagged({"key": "0000000000", "caption": "a\n dog"}, Died(reason, "it died"))
    assert (row.caption, row.flags, row.itm_score) == ("a dog", [reason], None)
    assert reason in FLAGS
