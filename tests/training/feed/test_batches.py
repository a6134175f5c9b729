"""Training batches: joined, mixed, shuffled, split over workers, and the same after every restart."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from blip_bootstrap.errors import InputError
from blip_bootstrap.schemas.tables import IMAGES, PAIRS
from blip_bootstrap.storage.parquet import parquet_files, rows_to_table, write_parquet
from blip_training.data.pixels import decode_pixels, to_pixels
from blip_training.feed.batches import TrainingData, open_training_data
from blip_training.feed.counts import count_samples
from blip_training.feed.feed import Feed
from blip_training.feed.lanes import Lanes
from blip_training.feed.shards import Shard, annotated_shards, image_id_of, web_shards
from blip_training.feed.stream import WINDOW_BYTES, Stream

FEED = Feed(batch_size=16, image_size=32, seed=3)


def open_world(world: Path, /, **changes: object) -> TrainingData:
    feed = Feed(**{**vars(FEED), **changes})
    return open_training_data(world / "images", world / "pairs", world / "human", feed)


def stream_of(shards: list[Shard], seed: int, window_bytes: int = WINDOW_BYTES, lanes: Lanes | None = None) -> Stream:
    return Stream(shards, count_samples(shards), seed, lanes, window_bytes)


def rows(data: TrainingData, step: int) -> list[tuple[str, str, str]]:
    return [(s.shard.name, s.key, s.text) for s in data.samples(step)]


def kept_pairs(world: Path) -> list[tuple[str, str]]:
    tables = [pq.read_table(file).filter(pc.field("kept")) for file in parquet_files(world / "pairs")]
    return [
        (key, text) for t in tables for key, text in zip(t["key"].to_pylist(), t["caption"].to_pylist(), strict=True)
    ]


def test_an_epoch_has_every_kept_pair_once_with_its_own_picture(world: Path) -> None:
    stream = stream_of(web_shards(world / "images", world / "pairs"), seed=1)
    samples = list(stream.samples(0, stream.num_samples))
    assert sorted((s.key, s.text) for s in samples) == sorted(kept_pairs(world))
    pictures: dict[str, bytes] = {}
    for file in parquet_files(world / "images"):
        pictures |= {row["key"]: row["jpg"] for row in pq.read_table(file, columns=["key", "jpg"]).to_pylist()}
    assert all(s.encoded() == pictures[s.key] for s in samples)


def test_human_captions_are_samples_and_unreadable_pictures_are_not(world: Path) -> None:
    stream = stream_of(annotated_shards(world / "human"), seed=1)
    keys = [s.key for s in stream.samples(0, stream.num_samples)]
    assert stream.num_samples == 40
    assert "broken" not in keys


def test_each_epoch_has_another_order(world: Path) -> None:
    stream = stream_of(web_shards(world / "images", world / "pairs"), seed=1)
    first, second = (
        [(s.key, s.text) for s in stream.samples(e * stream.num_samples, stream.num_samples)] for e in (0, 1)
    )
    assert first != second
    assert sorted(first) == sorted(second)


def test_a_small_window_holds_one_row_group_and_the_next_and_loses_nothing(world: Path) -> None:
    stream = stream_of(web_shards(world / "images", world / "pairs"), 1, window_bytes=1)
    seen = []
    for sample in stream.samples(0, stream.num_samples):
        seen.append((sample.key, sample.text))
        assert stream.held.num_held <= 2
    assert sorted(seen) == sorted(kept_pairs(world))


def test_a_resumed_run_reads_nothing_of_the_windows_it_has_seen(world: Path) -> None:
    shards = web_shards(world / "images", world / "pairs")
    whole, resumed = stream_of(shards, 1, window_bytes=1), stream_of(shards, 1, window_bytes=1)
    last = stream_rows(whole, whole.num_samples - 3, 3)
    resumed.end_at(resumed.num_samples)
    assert stream_rows(resumed, resumed.num_samples - 3, 3) == last
    assert resumed.held.num_held == 1


def stream_rows(stream: Stream, start: int, count: int) -> list[tuple[str, str]]:
    return [(s.key, s.text) for s in stream.samples(start, count)]


def test_a_step_is_the_same_in_a_fresh_process_and_with_threads(world: Path) -> None:
    straight = list(open_world(world, augment="randaugment").steps(0, 6))
    later = list(open_world(world, augment="randaugment", num_threads=2).steps(4, 6))
    for one, other in zip(straight[4:], later, strict=True):
        assert one[0].texts == other[0].texts
        assert torch.equal(one[0].images, other[0].images)
        assert torch.equal(one[0].ids, other[0].ids)


def test_another_seed_gives_other_batches(world: Path) -> None:
    assert rows(open_world(world), 0) != rows(open_world(world, seed=4), 0)


@pytest.mark.parametrize(("world_size", "accumulate"), [(2, 1), (1, 4), (2, 2)])
def test_workers_and_micro_batches_share_out_one_batch(world: Path, world_size: int, accumulate: int) -> None:
    whole = open_world(world).micro_batches(5)[0]
    parts = []
    for rank in range(world_size):
        parts += open_world(world, rank=rank, world=world_size, accumulate=accumulate).micro_batches(5)
    assert len(parts) == world_size * accumulate
    assert [text for part in parts for text in part.texts] == whole.texts
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)


def test_a_batch_that_cannot_be_shared_out_is_refused() -> None:
    with pytest.raises(InputError, match=r"batch_size 16 .*num_workers 3"):
        Feed(batch_size=16, image_size=32, seed=0, world=3)


@pytest.mark.parametrize("share", [0.25, 0.3, 0.5])
def test_human_share_is_kept_over_the_steps(world: Path, share: float) -> None:
    data = open_world(world, human_share=share)
    humans = [sum(name == "human" for name, _, _ in rows(data, step)) for step in range(20)]
    assert sum(humans) == int(20 * 16 * share)
    assert max(humans) - min(humans) <= 1


def test_without_a_share_sets_are_mixed_by_their_sizes(world: Path) -> None:
    data = open_world(world)
    expected = data.human.num_samples / data.num_samples
    humans = sum(name == "human" for step in range(20) for name, _, _ in rows(data, step))
    assert humans == int(20 * 16 * expected)


def test_ids_are_of_the_image_not_of_the_text(world: Path) -> None:
    stream = stream_of(web_shards(world / "images", world / "pairs"), seed=1)
    ids: dict[str, set[int]] = {}
    for sample in stream.samples(0, stream.num_samples):
        ids.setdefault(sample.key, set()).add(sample.image_id)
    assert all(len(found) == 1 for found in ids.values())
    assert len(set.union(*ids.values())) == len(ids)


def test_texts_of_copies_have_the_id_of_the_first_row(tmp_path: Path) -> None:
    keys = ["0000000000", "0000000001", "0000100002"]
    images: list[dict[str, object]] = [{"key": key, "status": "success", "jpg": b"x", "same_as": same}
              for key, same in zip(keys, (None, "0000000000", "0000000000"), strict=True)]  # fmt: skip
    pairs = [{"key": key, "source": "web", "candidate": 0, "caption": key, "kept": True} for key in keys]
    for name, table, rows in (("images", IMAGES, images), ("pairs", PAIRS, pairs)):
        for part, some in (("part-00000.parquet", rows[:2]), ("part-00001.parquet", rows[2:])):
            write_parquet(tmp_path / name / part, rows_to_table(some, table), table)
    stream = stream_of(web_shards(tmp_path / "images", tmp_path / "pairs"), seed=1)
    samples = [*stream.samples(0, stream.num_samples)]
    assert {sample.key for sample in samples} == {*keys}
    assert len({sample.image_id for sample in samples}) == 1


def test_equal_keys_of_web_and_human_are_different_images(world: Path) -> None:
    web = next(stream_of(web_shards(world / "images", world / "pairs"), 0).samples(0, 1))
    human = next(stream_of(annotated_shards(world / "human"), 0).samples(0, 1))
    assert image_id_of(web.shard.name, web.key) != image_id_of(human.shard.name, web.key)


def test_training_and_validation_parts_are_the_whole_set_and_share_no_picture(world: Path) -> None:
    keys = {}
    for part in ("all", "train", "validation"):
        stream = stream_of(annotated_shards(world / "human", part), 0)
        keys[part] = {s.key for s in stream.samples(0, stream.num_samples)}
    assert keys["train"] | keys["validation"] == keys["all"]
    assert not keys["train"] & keys["validation"]
    assert keys["validation"]


@pytest.mark.parametrize("augment", ["none", "crop"])
def test_a_full_cache_changes_nothing(world: Path, augment: str) -> None:
    cached, bare = open_world(world, augment=augment), open_world(world, augment=augment, cache_bytes=5000)
    for step in range(6):
        assert torch.equal(cached.micro_batches(step)[0].images, bare.micro_batches(step)[0].images)


def test_grids_of_a_frozen_stem_are_computed_once_for_each_picture(world: Path) -> None:
    seen: list[int] = []

    def stem(pixels: torch.Tensor) -> torch.Tensor:
        seen.append(len(pixels))
        return pixels.float().mean((2, 3))[:, None] / 255

    data, plain = open_world(world, stem=stem), open_world(world)
    for step in range(20):
        grids, pixels = data.micro_batches(step)[0].images, plain.micro_batches(step)[0].images
        assert grids.dtype == torch.float16
        torch.testing.assert_close(grids, (pixels.float().mean((2, 3))[:, None] / 255).half())
    assert sum(seen) <= 80


def pixel_stem(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.float().flatten(2).transpose(1, 2) / 255


def test_views_of_a_picture_are_kept_and_no_text_that_names_a_side_has_a_flipped_one(world: Path) -> None:
    seen: list[int] = []

    def stem(pixels: torch.Tensor) -> torch.Tensor:
        seen.append(len(pixels))
        return pixel_stem(pixels)

    data = open_world(world, stem=stem, augment="crop", augment_views=4)
    bare = open_world(world, stem=pixel_stem, augment="crop", augment_views=4, cache_bytes=0, num_threads=2)
    shown: dict[str, set[bytes]] = {}
    for step in range(60):
        samples, grids = data.samples(step), data.micro_batches(step)[0].images
        assert torch.equal(grids, bare.micro_batches(step)[0].images)
        for sample, grid in zip(samples, grids, strict=True):
            shown.setdefault(sample.where, set()).add(grid.numpy().tobytes())
    assert max(map(len, shown.values())) == 4
    assert sum(seen) < 60 * FEED.batch_size / 2
    sided = replace(data.samples(0)[0], text="a cube on the left")
    views = {data.pictures.view_of(replace(sided, epoch=at)) for at in range(100)}
    assert views == {0, 2}


def copy(world: Path, to: Path) -> Path:
    for name in ("images", "pairs"):
        shutil.copytree(world / name, to / name)
    return to


def change(file: Path, **columns: object) -> None:
    """Overwrite columns of the file's every row."""
    table = pq.read_table(file)
    data = [row | columns for row in table.to_pylist()]
    write_parquet(file, table.from_pylist(data, schema=IMAGES.schema), IMAGES)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"jpg": b"no picture"}, r"part-00001.parquet: key 00001\d+: the picture cannot be decoded"),
        ({"jpg": None}, r"part-00001.parquet: key 00001\d+: has a training text but no picture"),
    ],
)
def test_a_bad_picture_is_named(world: Path, tmp_path: Path, columns: dict[str, object], message: str) -> None:
    copy(world, tmp_path)
    change(tmp_path / "images" / "part-00001.parquet", **columns)
    data = open_training_data(tmp_path / "images", tmp_path / "pairs", None, FEED)
    with pytest.raises(InputError, match=message):
        list(data.steps(0, 8))


def test_pairs_of_other_images_are_refused(world: Path, tmp_path: Path) -> None:
    copy(world, tmp_path)
    change(tmp_path / "images" / "part-00001.parquet", key="other")
    with pytest.raises(InputError, match=r"part-00001.parquet: key 00001\d+ is not in .*images"):
        open_training_data(tmp_path / "images", tmp_path / "pairs", None, FEED)


def test_pairs_without_their_images_are_refused(world: Path, tmp_path: Path) -> None:
    copy(world, tmp_path)
    (tmp_path / "images" / "part-00002.parquet").unlink()
    with pytest.raises(InputError, match=r"its image file .*part-00002.parquet is missing"):
        open_training_data(tmp_path / "images", tmp_path / "pairs", None, FEED)


def test_no_pairs_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no training pairs"):
        open_training_data(tmp_path, tmp_path, None, FEED)


def test_pictures_are_squashed_to_a_square() -> None:
    image = Image.new("RGB", (60, 20), "red")
    pixels = to_pixels(image, 24)
    assert pixels.shape == (3, 24, 24)
    assert pixels.dtype == torch.uint8
    assert (pixels[0] == 255).all()


def test_grey_and_transparent_pictures_become_rgb(tmp_path: Path) -> None:
    for mode in ("L", "RGBA", "P", "LA", "1"):
        Image.new(mode, (8, 8)).save(tmp_path / "picture.png")
        assert decode_pixels((tmp_path / "picture.png").read_bytes(), 8, "here").shape == (3, 8, 8)


def weighted(world: Path, folder: Path) -> Path:
    """The world's pairs, with weights from 0 to 1 that a rule gave them."""
    for part, file in enumerate(parquet_files(world / "pairs")):
        table = pq.read_table(file)
        scores = [None if at == 1 else (7 * at + part) % 21 / 20 for at in range(len(table))]
        at = table.schema.get_field_index("rule_score")
        table = table.set_column(at, table.schema.field(at), [pa.array(scores, pa.float32())])
        write_parquet(folder / file.name, table, PAIRS, {"rule": json.dumps({"weights": "rule"})})
    return folder


@pytest.mark.parametrize("window_bytes", [1, 1 << 30])
def test_a_text_is_in_such_a_share_of_the_epochs_as_its_weight(world: Path, tmp_path: Path, window_bytes: int) -> None:
    pairs, epochs = weighted(world, tmp_path / "pairs"), 400
    stream = stream_of(web_shards(world / "images", pairs), 1, window_bytes)
    tables = [pq.read_table(file).filter(pc.field("kept")).to_pylist() for file in parquet_files(pairs)]
    weights = {(row["key"], row["caption"]): row["rule_score"] or 0 for table in tables for row in table}
    assert stream.num_samples == round(sum(row["rule_score"] or 0 for table in tables for row in table))
    drawn: Counter[tuple[str, str]] = Counter()
    for epoch in range(epochs):
        some = Counter(stream_rows(stream, epoch * stream.num_samples, stream.num_samples))
        assert max(some.values()) == 1 or max(weights[key] for key, n in some.items() if n > 1) > 0.9
        drawn += some
    assert 0 in weights.values()
    assert max(weights.values()) > 0.75
    for key, weight in weights.items():
        assert drawn[key] / epochs == pytest.approx(weight, abs=0.12)
        assert (drawn[key] == 0) == (weight == 0)
    assert len({tuple(sorted(stream_rows(stream, e * stream.num_samples, stream.num_samples))) for e in range(3)}) > 1


def test_weighted_batches_are_the_same_after_a_restart_and_for_every_worker(world: Path, tmp_path: Path) -> None:
    pairs = weighted(world, tmp_path / "pairs")

    def opened(**changes: Any) -> TrainingData:
        return open_training_data(world / "images", pairs, world / "human", replace(FEED, **changes))

    straight = [rows(opened(), step) for step in range(12)]
    resumed = opened()
    assert [rows(resumed, step) for step in range(7, 12)] == straight[7:]
    parts = [opened(rank=rank, world=2).micro_batches(9)[0].texts for rank in range(2)]
    assert [text for part in parts for text in part] == [text for _, _, text in straight[9]]
    assert straight != [rows(open_world(world), step) for step in range(12)]


def test_pairs_without_any_weight_give_no_samples(world: Path, tmp_path: Path) -> None:
    file = parquet_files(world / "pairs")[0]
    write_parquet(tmp_path / file.name, pq.read_table(file), PAIRS, {"rule": json.dumps({"weights": "rule"})})
    assert stream_of(web_shards(world / "images", tmp_path), 1).num_samples == 0, "no rule score is there"


def test_half_written_pairs_are_told(world: Path, tmp_path: Path) -> None:
    file = parquet_files(world / "pairs")[0]
    (tmp_path / file.name).write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match="not a readable Parquet file"):
        stream_of(web_shards(world / "images", tmp_path), 1)
