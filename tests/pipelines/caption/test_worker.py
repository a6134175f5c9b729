from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from blip_bootstrap.config import CaptionConfig
from blip_bootstrap.errors import CheckpointError, InputError, RunFailed
from blip_bootstrap.schemas.tables import CAPTIONS
from blip_bootstrap.storage.parquet import read_parquet
from blip_pipelines.caption.worker import CaptionWorker, seed_of
from blip_pipelines.scoring.references import Reference
from blip_pipelines.scoring.rows import CaptionRow, to_table
from blip_pipelines.scoring.scores import alike
from blip_training.checkpoint.store import load_med
from blip_training.data.pixels import decode_pixels

Models = tuple[Path, Path]
CONFIG = CaptionConfig(candidates=2, device="cpu", seed=7)
NUM_IMAGES, DAMAGED = 70, (11, 64)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, make_images: Callable[..., Path]) -> pa.Table:
    """70 rows: each tenth was not downloaded, two have bytes that are no picture."""
    folder = make_images(tmp_path_factory.mktemp("images"), NUM_IMAGES, NUM_IMAGES, damaged=DAMAGED)
    return read_parquet(folder / "part-00000.parquet")


@pytest.fixture(scope="module")
def captions(images: pa.Table, models: Models) -> pa.Table:
    """Captions of `images` at batch size 64."""
    return CaptionWorker(*models, CONFIG)(images)


def texts(table: pa.Table) -> dict[tuple[str, str, int], tuple[Any, ...]]:
    """Everything that must not depend on how the images were batched, by (image, source, candidate)."""
    return {
        (row["key"], row["source"], row["candidate"]): (row["caption"], row["seed"], row["num_tokens"], row["flags"])
        for row in table.to_pylist()
    }


def test_rows_and_their_order(images: pa.Table, captions: pa.Table) -> None:
    expected: list[tuple[str, str, int]] = []
    for i, row in enumerate(images.to_pylist()):
        if row["status"] == "success":
            expected.append((row["key"], "web", 0))
            expected += [] if i in DAMAGED else [(row["key"], "synthetic", 0), (row["key"], "synthetic", 1)]
    assert captions.schema.equals(CAPTIONS.schema)
    assert list(texts(captions)) == expected
    assert len(captions) == len(expected)
    assert len(set(captions.filter(pc.equal(captions["source"], "synthetic"))["caption"].to_pylist())) > 60


def test_one_bad_image_costs_one_row(captions: pa.Table) -> None:
    rows = {row["key"]: row for row in captions.to_pylist() if row["source"] == "web"}
    for i in DAMAGED:
        bad = rows[f"{i:010d}"]
        assert (bad["itm_score"], bad["itc_score"], bad["logprob"], bad["seed"]) == (None, None, None, None)
    scored = [row for row in rows.values() if row["itm_score"] is not None]
    assert len(scored) == len(rows) - len(DAMAGED)
    assert rows["0000000000"]["caption"] == "a the picture 0"
    assert rows["0000000000"]["num_tokens"] == 4


@pytest.mark.parametrize("batch_size", [1, 7])
def test_batch_size_changes_nothing(images: pa.Table, captions: pa.Table, models: Models, batch_size: int) -> None:
    other = CaptionWorker(*models, CONFIG.model_copy(update={"batch_size": batch_size}))(images)
    assert texts(other) == texts(captions)
    for score in ("itm_score", "itc_score", "logprob"):
        torch.testing.assert_close(numbers(other, score), numbers(captions, score), rtol=1e-4, atol=1e-4)


def numbers(table: pa.Table, column: str) -> torch.Tensor:
    return torch.tensor(table[column].drop_null().to_pylist())


def test_lanes_change_no_digit(images: pa.Table, models: Models) -> None:
    alone, aside = (CaptionWorker(*models, CONFIG, num_threads=1, num_lanes=lanes)(images) for lanes in (1, 3))
    assert aside.equals(alone)


def test_shuffled_images_give_the_same_captions(images: pa.Table, captions: pa.Table, models: Models) -> None:
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).tolist()
    assert texts(CaptionWorker(*models, CONFIG)(images.take(order))) == texts(captions)


def test_a_row_has_its_captions_under_any_key(images: pa.Table, models: Models) -> None:
    """Fetched again it has another key; a row of a set without uids is known by its key."""
    some = images.slice(0, 5).drop_columns(["uid"])
    known = some.append_column("uid", pa.array([f"{i:032x}" for i in range(5)]))
    moved = known.set_column(0, "key", pa.array([f"{i:010d}" for i in range(700_000, 700_005)]))
    here, there, without = (CaptionWorker(*models, CONFIG)(table) for table in (known, moved, some))
    assert here["key"] != there["key"]
    assert here.drop_columns(["key"]).equals(there.drop_columns(["key"]))
    seeds = {seed_of(7, f"{i:032x}", k) for i in range(1, 5) for k in (0, 1)}
    assert seeds < set(here["seed"].to_pylist())
    assert {seed_of(7, f"{i:010d}", k) for i in range(1, 5) for k in (0, 1)} < set(without["seed"].to_pylist())


def test_a_copy_gets_no_captions_and_its_text_is_scored_on_the_picture(images: pa.Table, models: Models) -> None:
    first = images.filter(pc.equal(images["status"], "success")).slice(0, 3)
    rows = first.to_pylist()
    copies = [{**row, "key": f"{at:05d}99999", "same_as": row["key"]} for at, row in enumerate(rows)]
    copies[1]["caption"] = "another text"
    both = pa.Table.from_pylist([*rows, *copies], schema=images.schema)
    references = [Reference(row["key"], row["jpg"]) for row in rows]
    config = CONFIG.model_copy(update={"references": 2, "batch_size": 4})
    found = CaptionWorker(*models, config, references=references)(both)
    alone = CaptionWorker(*models, config, references=references)(first).to_pylist()
    assert found.slice(0, len(alone)).select(["key", "source", "caption"]) == pa.Table.from_pylist(alone).select(
        ["key", "source", "caption"]
    )
    of_copies = found.slice(len(alone)).to_pylist()
    assert [(row["key"], row["source"]) for row in of_copies] == [(row["key"], "web") for row in copies]
    web = [row for row in alone if row["source"] == "web"]
    for name in ("itm_score", "itc_score", "distinctness"):
        assert [of_copies[at][name] for at in (0, 2)] == pytest.approx([web[at][name] for at in (0, 2)], abs=1e-5)
    assert of_copies[1]["itm_score"] is not None


def test_scores_are_those_of_the_filter_alone(images: pa.Table, captions: pa.Table, models: Models) -> None:
    """Each text by itself, against its own image."""
    med, tokenizer = load_med(models[1])
    jpg = dict(zip(images["key"].to_pylist(), images["jpg"].to_pylist(), strict=True))
    for row in captions.slice(0, 60).to_pylist():
        if not row["caption"] or row["itm_score"] is None:
            continue
        with torch.inference_mode():
            states = med.encode_image(decode_pixels(jpg[row["key"]], 24, "test")[None])
            ids, mask = tokenizer.encode([row["caption"]], med.config.text.max_tokens)
            itm = med.match(states, ids, mask).softmax(1)[0, 1]
            itc = (med.embed_image(states) * med.embed_text(ids, mask)).sum()
        assert row["itm_score"] == pytest.approx(itm.item(), abs=1e-5)
        assert row["itc_score"] == pytest.approx(itc.item(), abs=1e-5)


@pytest.mark.parametrize(
    ("lengths", "parts"),
    [
        ([], []),
        ([40], [[40]]),
        ([40, 9, 9, 8], [[40, 9], [9, 8]]),  # 31 tokens padded; one image more would make them 62
        ([9] * 20, [[9] * 16, [9] * 4]),
        ([60, 11, 10], [[60], [11, 10]]),
    ],
)
def test_a_long_text_pads_few_others(lengths: list[int], parts: list[list[int]]) -> None:
    made = list(alike(range(len(lengths)), lengths, "cpu"))
    assert [[lengths[image] for image in part] for part in made] == parts
    assert [image for part in made for image in part] == list(range(len(lengths)))


def test_a_shared_model_encodes_each_image_once(images: pa.Table, models: Models, captions: pa.Table) -> None:
    worker = CaptionWorker(models[0], models[0], CONFIG)
    passes: list[int] = []
    med = worker.models.captioners[0].med
    encode = med.encode_image
    med.encode_image = lambda pixels: (passes.append(len(pixels)), encode(pixels))[1]  # type: ignore[method-assign]
    shared = worker(images)
    assert sum(passes) == 70 - 7 - len(DAMAGED)
    assert worker.models.filters == worker.models.captioners
    assert texts(shared) == texts(captions)
    assert numbers(shared, "itm_score").tolist() != numbers(captions, "itm_score").tolist()


def test_the_batch_is_halved_where_memory_runs_out(images: pa.Table, captions: pa.Table, models: Models) -> None:
    worker = CaptionWorker(*models, CONFIG)
    med = worker.models.captioners[0].med
    encode = med.encode_image

    def small_memory(pixels: torch.Tensor) -> torch.Tensor:
        if len(pixels) > 5:  # fewer than are encoded at a time
            raise torch.OutOfMemoryError
        return encode(pixels)

    med.encode_image = small_memory  # type: ignore[method-assign]
    assert texts(worker(images)) == texts(captions)
    assert worker.batch_size <= 5
    med.encode_image = lambda pixels: small_memory(pixels.repeat(6, 1, 1, 1))  # type: ignore[method-assign]
    with pytest.raises(RunFailed, match="no memory for one image"):
        worker(images)


def test_batch_size_changes_no_caption_of_bfloat16(images: pa.Table, models: Models) -> None:
    one, seven, all_ = (
        texts(CaptionWorker(*models, CONFIG.model_copy(update={"dtype": "bfloat16", "batch_size": size}))(images))
        for size in (1, 7, 64)
    )
    assert one == seven == all_


def test_bfloat16_gives_nearly_the_same_scores(images: pa.Table, models: Models) -> None:
    some = images.slice(0, 5)
    exact = CaptionWorker(*models, CONFIG)(some)
    rough = CaptionWorker(*models, CONFIG.model_copy(update={"dtype": "bfloat16"}))(some)
    web = [numbers(t.filter(pc.equal(t["source"], "web")), "itm_score") for t in (exact, rough)]
    torch.testing.assert_close(web[0], web[1], rtol=0, atol=0.05)


def test_no_images(images: pa.Table, models: Models) -> None:
    for none in (images.slice(0, 0), images.filter(pc.not_equal(images["status"], "success"))):
        assert CaptionWorker(*models, CONFIG)(none).equals(CAPTIONS.schema.empty_table())


def test_the_first_of_the_next_block_are_decoded_while_the_models_work(images: pa.Table, models: Models) -> None:
    worker, rows, taken = CaptionWorker(*models, CONFIG.model_copy(update={"batch_size": 16})), images.to_pylist(), []
    blocks = [rows[:40], [], rows[40:50], [{"key": "1", "status": "failed_to_download"}], rows[50:]]

    def one_by_one() -> Iterator[list[dict[str, Any]]]:
        for number, block in enumerate(blocks):
            taken.append(number)
            yield block

    made: list[list[CaptionRow]] = [[]]
    for batch, is_last in worker.in_blocks(one_by_one()):
        made[-1] += batch
        if is_last:
            assert taken[-1] == min(len(made), len(blocks) - 1)
            made.append([])
    assert made.pop() == []
    alone = [worker(pa.Table.from_pylist(block, images.schema)).to_pylist() for block in blocks]
    assert [to_table(block).to_pylist() for block in made] == alone


def test_blank_and_very_long_texts(images: pa.Table, models: Models) -> None:
    odd = images.slice(0, 3).set_column(
        images.schema.get_field_index("caption"), "caption", pa.array([None, " \n", "dog " * 40_000])
    )
    rows = [row for row in CaptionWorker(*models, CONFIG)(odd).to_pylist() if row["source"] == "web"]
    assert [row["caption"] for row in rows[:2]] == ["", ""]
    assert [row["itm_score"] is None for row in rows] == [True, True, False]
    assert [row["num_tokens"] for row in rows] == [0, 0, 32_767]


def test_a_text_that_was_stored_cut_is_neither_counted_nor_scored(images: pa.Table, models: Models) -> None:
    """Its picture is captioned as any other; images of an earlier version do not know of such texts."""
    some = images.slice(0, 3)
    at = some.schema.get_field_index("cut_from_chars")
    cut = some.set_column(at, "cut_from_chars", pa.array([None, 5_000_000, None], pa.int64()))
    made, plain = (CaptionWorker(*models, CONFIG)(one).to_pylist() for one in (cut, some.remove_column(at)))
    web = [row for row in made if row["source"] == "web"]
    assert [(row["itm_score"] is None, row["num_tokens"] == 0, row["flags"]) for row in web] == [
        (False, False, []), (True, True, ["text_too_long"]), (False, False, []),
    ]  # fmt: skip
    others = [[row for row in rows if row["key"] != web[1]["key"]] for rows in (made, plain)]
    assert others[0] == others[1]
    captions = [[row["caption"] for row in rows if row["source"] == "synthetic"] for rows in (made, plain)]
    assert captions[0] == captions[1]


def test_a_model_without_the_needed_part_is_refused(
    models: Models, tmp_path: Path, make_model: Callable[..., Path]
) -> None:
    from blip_training.checkpoint.store import save_med

    med, tokenizer = load_med(models[0])
    med.capabilities = frozenset({"decode"})
    save_med(tmp_path / "captioner", med, tokenizer)
    with pytest.raises(CheckpointError, match="cannot match"):
        CaptionWorker(models[0], tmp_path / "captioner", CONFIG)
    with pytest.raises(CheckpointError, match="no such file"):
        CaptionWorker(tmp_path / "none", models[1], CONFIG)


def test_seeds_differ_by_each_of_their_parts() -> None:
    seeds = {seed_of(s, uid, k) for s in range(3) for uid in ("0000000001", "0000000010") for k in range(10)}
    assert len(seeds) == 60
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seed_of(0, "0000000000", 0) == seed_of(0, "0000000000", 0)


def test_cuda_without_cuda_is_one_line(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="torch sees no CUDA device"):
        CaptionWorker(*models, CaptionConfig(device="cuda"))
