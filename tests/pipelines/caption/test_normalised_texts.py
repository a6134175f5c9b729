"""What a given BLIP filter is shown, and that the tables keep texts as they were written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from blip_bootstrap.config import CaptionConfig
from blip_bootstrap.storage.parquet import read_parquet
from blip_pipelines.caption.worker import CaptionWorker
from blip_training.checkpoint.store import load_med, save_filter
from blip_training.evaluate.pair_scores import score_pairs

Models = tuple[Path, Path]
WRITTEN, SEEN = '"A Dog".  (IMG:12)! ' + "w " * 40, "a dog img 12 " + "w " * 26
CONFIG = CaptionConfig.model_validate({"device": "cpu", "sampler": {"max_tokens": 8}})


@pytest.fixture(scope="module")
def filters(tmp_path_factory: pytest.TempPathFactory, models: Models) -> Models:
    """The same filter as this package saves it, and as one that somebody else trained."""
    folder = tmp_path_factory.mktemp("filters")
    med, tokenizer = load_med(models[1])
    for name in ("own", "given"):
        save_filter(folder / name, med, tokenizer)
    (folder / "given" / "med.json").unlink()
    return folder / "own", folder / "given"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, make_images: Callable[..., Path]) -> pa.Table:
    folder = make_images(tmp_path_factory.mktemp("images"), 2, 2)
    return read_parquet(folder / "part-00000.parquet")


def web_rows(
    images: pa.Table, models: Models, filter: Path, text: str, normalise: str
) -> tuple[list[tuple[str, float, float]], CaptionWorker]:
    at = images.schema.get_field_index("caption")
    texts = pa.array([text] * len(images), images.schema.field(at).type)
    worker = CaptionWorker(models[0], filter, CONFIG.model_copy(update={"normalise": normalise}))
    rows = worker(images.set_column(at, images.schema.field(at), texts)).to_pylist()
    return [(row["caption"], row["itm_score"], row["itc_score"]) for row in rows if row["source"] == "web"], worker


@pytest.mark.parametrize(
    ("which", "normalise", "normalised"),
    [(1, "auto", True), (1, "none", False), (1, "blip", True), (0, "auto", False), (0, "blip", True)],
)
def test_scores_are_of_the_text_as_seen_and_the_row_has_it_as_written(
    images: pa.Table, models: Models, filters: Models, which: int, normalise: str, normalised: bool
) -> None:
    written, worker = web_rows(images, models, filters[which], WRITTEN, normalise)
    seen, _ = web_rows(images, models, filters[0], SEEN, "none")
    assert {caption for caption, _, _ in written} == {" ".join(WRITTEN.split())}
    same = [mine[1:] == pytest.approx(other[1:], abs=1e-6) for mine, other in zip(written, seen, strict=True)]
    assert same == [normalised] * len(images)
    assert worker.metadata.get("normalise") == ("blip" if normalised else None)


def test_pairs_that_calibrate_are_seen_likewise(images: pa.Table, filters: Models) -> None:
    jpgs = [row["jpg"] for row in images.to_pylist()][:1]
    (seen,) = score_pairs(filters[0], jpgs, [[SEEN]])
    for filter, how, same in ((filters[1], "auto", True), (filters[1], "none", False), (filters[0], "blip", True)):
        (found,) = score_pairs(filter, jpgs, [[WRITTEN]], how)  # type: ignore[arg-type]
        assert (found == pytest.approx(seen, abs=1e-6)) is same
