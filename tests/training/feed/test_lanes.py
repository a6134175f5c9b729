"""The feed over many row groups: exact epochs, equal batches at any world size, each row group read by one worker."""

from __future__ import annotations

import json
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from blip_bootstrap.errors import InputError
from blip_bootstrap.schemas.tables import ANNOTATED, IMAGES, PAIRS
from blip_bootstrap.storage.parquet import parquet_files, rows_to_table, write_parquet
from blip_bootstrap.stores import store
from blip_bootstrap.stores.client import Store
from blip_training.feed import windows
from blip_training.feed.batches import TrainingData, open_training_data
from blip_training.feed.counts import count_samples
from blip_training.feed.feed import Feed
from blip_training.feed.lanes import Lanes, num_lanes
from blip_training.feed.row_groups import read_row_group
from blip_training.feed.shards import Drawing, annotated_shards, web_shards
from blip_training.hard_texts.human_pictures import HumanPictures
from tests.support.many_groups import write_groups, write_human
from tests.support.moto_store import Bucket, environment, moto_server

FEED = Feed(batch_size=16, image_size=8, seed=3, window_bytes=4000)
"""A window of a lane has two or three row groups."""

NUM_SAMPLES = 8 * 42 * 2


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_groups(tmp_path_factory.mktemp("groups"))
    write_human(root / "human", 30)
    return root


def opened(root: Path, human: bool = False, drawing: Drawing | None = None, **changes: Any) -> TrainingData:
    feed = replace(FEED, **changes)
    return open_training_data(root / "images", root / "pairs", root / "human" if human else None, feed, drawing=drawing)


def texts_of(data: TrainingData, step: int) -> list[str]:
    return [sample.text for sample in data.own_samples(step)]


def test_lanes_divide_the_batch_and_have_row_groups_enough() -> None:
    assert [num_lanes(groups, 2880) for groups in (0, 31, 32, 800, 100_000)] == [1, 1, 2, 32, 64]
    assert [num_lanes(100_000, size) for size in (1, 30, 48, 1000, 4096)] == [1, 2, 16, 8, 64]


@pytest.mark.parametrize(("num", "parts"), [(1, 1), (1, 4), (2, 8), (8, 8)])
def test_positions_are_dealt_to_lanes_in_turn(num: int, parts: int) -> None:
    lanes = Lanes(num, parts)
    seen = [0] * num
    for position in range(5 * parts + 3):
        lane = lanes.lane(position)
        assert lanes.passed(lane, position) == seen[lane]
        assert lanes.position_of(lane, seen[lane]) == position
        seen[lane] += 1
        assert lanes.sizes(0, position + 1).tolist() == seen


def test_every_epoch_has_every_sample_once(groups: Path) -> None:
    stream = opened(groups).web
    assert stream.lanes == Lanes(4, 4)
    assert stream.num_samples == NUM_SAMPLES
    orders = []
    for epoch in range(3):
        samples = [*stream.samples(epoch * NUM_SAMPLES, NUM_SAMPLES)]
        orders.append([sample.text for sample in samples])
        assert {sample.epoch for sample in samples} == {epoch}
        assert Counter(orders[-1]).most_common(1)[0][1] == 1
        assert all(sample.text.split()[0] == sample.key == sample.encoded()[:10].decode() for sample in samples)
    assert set(orders[0]) == set(orders[1]) == set(orders[2])
    assert orders[0] != orders[1]


@pytest.mark.parametrize("human", [False, True])
@pytest.mark.parametrize("world", [2, 4, 16])
def test_batches_are_the_same_at_every_world_size(groups: Path, world: int, human: bool) -> None:
    alone = opened(groups, human)
    ranks = [opened(groups, human, rank=rank, world=world) for rank in range(world)]
    for step in range(30, 60):  # over the end of an epoch
        parts = [texts_of(data, step) for data in ranks]
        assert {len(part) for part in parts} == {16 // world}
        assert [text for part in parts for text in part] == texts_of(alone, step)


def test_a_training_goes_on_amid_an_epoch_at_another_world_size(groups: Path) -> None:
    alone = opened(groups, True)
    straight = [texts_of(alone, step) for step in range(60)]
    for start, world in ((13, 4), (47, 2)):
        ranks = [opened(groups, True, rank=rank, world=world) for rank in range(world)]
        found = [[text for data in ranks for text in texts_of(data, step)] for step in range(start, 60)]
        assert found == straight[start:]


def test_the_human_share_is_even_over_lanes(groups: Path) -> None:
    data = opened(groups, True, human_share=0.3, batch_size=32)
    for step in range(12):
        names = [sample.shard.name for sample in data.own_samples(step)]
        humans = [names[part : part + 8].count("human") for part in range(0, 32, 8)]
        assert max(humans) - min(humans) <= 1
    total = [sample.shard.name for step in range(12) for sample in data.own_samples(step)].count("human")
    assert total == int(12 * 32 * 0.3)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_a_row_group_is_read_by_one_worker_once_an_epoch(
    groups: Path, tmp_path: Path, world: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: Counter[tuple[Path, int]] = Counter()
    lock = threading.Lock()
    shutil.copytree(groups, tmp_path / "copy")

    def counted(shard: Any, number: int, *rest: Any) -> Any:
        with lock:  # what another test's feed still reads ahead is of other files
            reads[shard.images, number] += tmp_path in shard.images.parents
        return read_row_group(shard, number, *rest)

    monkeypatch.setattr(windows, "read_row_group", counted)
    num_steps = NUM_SAMPLES // 16
    for rank in range(world):
        data = opened(tmp_path / "copy", rank=rank, world=world)
        data.web.end_at(NUM_SAMPLES)
        for step in range(num_steps):
            data.own_samples(step)
            assert data.web.held.num_held <= 8 * data.web.lanes.num_lanes // world
    assert len(+reads) == 80
    assert sum(reads.values()) <= 80 + 3, "only a row group at a lane's end is read by two lanes"


def test_every_batch_has_the_lists_in_proportion(tmp_path: Path) -> None:
    write_groups(tmp_path, num_files=16, texts=1)
    data = opened(tmp_path, batch_size=320, window_bytes=1)
    assert data.web.lanes.num_lanes == 8
    shares = []
    for step in range(8):
        lists = Counter(int(sample.key[:5]) * 4 // 16 for sample in data.own_samples(step))
        shares.append(max(lists.values()) / 320 * 4)
    assert sum(shares) / 8 < 1.2, "chance alone is 1.1"


def test_a_set_of_one_row_group_serves_every_worker(groups: Path) -> None:
    feeds = [replace(FEED, rank=rank, world=4) for rank in range(4)]
    ranks = [open_training_data(None, None, groups / "human", feed) for feed in feeds]
    seen = [text for step in range(15) for data in ranks for text in texts_of(data, step)]
    assert ranks[0].human.lanes == Lanes(1, 1, backwards=True)
    assert {*Counter(seen).values()} == {4}, "16 x 15 samples are four epochs of 60"
    assert all(data.human.held.num_held == 1 for data in ranks)


def test_no_sample_has_random_numbers_of_lane_batch_or_world(world: Path) -> None:
    found: list[dict[tuple[str, int], bytes]] = []
    for size in (4, 16):
        feed = Feed(batch_size=size, image_size=32, seed=3, augment="randaugment")
        data = open_training_data(world / "images", world / "pairs", None, feed)
        steps = range(data.num_samples // size)
        both = [zip(data.own_samples(s), data.micro_batches(s)[0].images, strict=True) for s in steps]
        found.append({(s.text + s.key, s.epoch): image.numpy().tobytes() for pair in both for s, image in pair})
    assert len(found[0].keys() & found[1].keys()) > 60
    assert all(found[0][key] == found[1][key] for key in found[0].keys() & found[1].keys())


def drawn(data: TrainingData, epochs: int) -> list[Counter[str]]:
    size = data.web.num_samples
    return [Counter(s.text for s in data.web.samples(epoch * size, size)) for epoch in range(epochs)]


def test_one_text_of_each_picture_is_drawn_in_each_epoch(groups: Path) -> None:
    data = opened(groups, drawing=Drawing("one"), batch_size=1, window_bytes=1 << 20)
    assert data.num_samples == NUM_SAMPLES // 2
    epochs = drawn(data, 20)
    for some in epochs:
        assert len({text.split()[0] for text in some}) == NUM_SAMPLES // 2
    every = sum(epochs, Counter[str]())
    first = sum(count for text, count in every.items() if text.endswith(" 0"))
    assert first / every.total() == pytest.approx(0.5, abs=0.02)
    assert len(every) == NUM_SAMPLES
    again = opened(groups, drawing=Drawing("one"))
    assert drawn(again, 1)[0] == epochs[0], "by seed, epoch and picture alone"


def test_one_text_is_drawn_by_the_weights_of_sources(groups: Path) -> None:
    data = opened(groups, drawing=Drawing("one", web=0.25, synthetic=0.75), batch_size=1, window_bytes=1 << 20)
    every = sum(drawn(data, 20), Counter[str]())
    web = sum(count for text, count in every.items() if text.endswith(" 0"))
    assert web / every.total() == pytest.approx(0.25, abs=0.02)
    assert {*drawn(opened(groups, drawing=Drawing("one", web=0)), 1)[0]} == {
        text for text in every if text.endswith(" 1")
    }


def test_a_picture_whose_texts_weigh_next_to_nothing_is_drawn_all_the_same(tmp_path: Path) -> None:
    root = write_groups(tmp_path, num_files=1)
    drawing, file = Drawing("one", web=0.0, synthetic=1.0), root / "pairs" / "part-00000.parquet"
    rows = pq.read_table(file).to_pylist()
    for row in rows:
        row["rule_score"] = 1e-20 if row["key"].endswith("11") else 1.0
    write_parquet(file, rows_to_table(rows, PAIRS), PAIRS, {"rule": json.dumps({"weights": "rule"})})
    for epoch in drawn(opened(root, drawing=drawing, batch_size=1), 2):
        assert epoch == Counter({row["caption"]: 1 for row in rows if row["kept"] and row["source"] == "synthetic"})


def test_texts_that_were_taken_from_under_a_training_are_told(tmp_path: Path) -> None:
    root = write_groups(tmp_path, num_files=1)
    data = opened(root, drawing=Drawing("one"), batch_size=1)
    file = root / "pairs" / "part-00000.parquet"
    rows = [{**row, "kept": False} for row in pq.read_table(file).to_pylist()]
    pairs_of = replace(PAIRS, rows_per_group=8)
    write_parquet(file, rows_to_table(rows, pairs_of), pairs_of)
    with pytest.raises(InputError, match=r"part-00000\.parquet: changed since the training began; run again"):
        data.own_samples(0)


def test_a_source_of_less_weight_is_in_such_a_share_of_the_epochs(groups: Path) -> None:
    data = opened(groups, drawing=Drawing(web=0.3), batch_size=1, window_bytes=1 << 20)
    assert data.num_samples == round(1.3 * NUM_SAMPLES / 2)
    every = sum(drawn(data, 20), Counter[str]())
    web = sum(count for text, count in every.items() if text.endswith(" 0"))
    assert web / 20 == pytest.approx(0.3 * NUM_SAMPLES / 2, rel=0.03)
    assert len(every) == NUM_SAMPLES
    assert opened(groups, drawing=Drawing(web=0.0)).num_samples == NUM_SAMPLES // 2


def shared_out(count: int, call: Callable[[int, Callable[[Any], list[Any]]], Any]) -> list[Any]:
    """What `count` workers return of a call, each a thread, which exchange what they say."""
    said: list[Any] = [None] * count
    barrier = threading.Barrier(count)

    def worker(rank: int) -> Any:
        def exchange(mine: Any) -> list[Any]:
            said[rank] = mine
            barrier.wait()
            return said

        return call(rank, exchange)

    with ThreadPoolExecutor(count) as pool:
        return [future.exception() or future.result() for future in [pool.submit(worker, at) for at in range(count)]]


def test_workers_share_out_the_counting(groups: Path) -> None:
    shards = web_shards(groups / "images", groups / "pairs")
    alone = count_samples(shards)
    for found in shared_out(3, lambda rank, exchange: count_samples(shards, rank, 3, exchange)):
        assert all(np.array_equal(getattr(found, one.name), getattr(alone, one.name)) for one in fields(alone))


def test_what_one_worker_cannot_count_is_told_by_all(groups: Path) -> None:
    shards = web_shards(groups / "images", groups / "pairs")
    shards[1] = replace(shards[1], images=groups / "images" / "none.parquet")
    for error in shared_out(3, lambda rank, exchange: count_samples(shards, rank, 3, exchange)):
        assert isinstance(error, InputError)
        assert "its image file" in str(error)


def test_files_that_change_while_they_are_trained_on_are_told(tmp_path: Path) -> None:
    write_groups(tmp_path, num_files=1, texts=2)
    data = opened(tmp_path)
    write_groups(tmp_path, num_files=1, texts=1)
    with pytest.raises(InputError, match=r"part-00000\.parquet: (changed since|not a readable)"):
        [data.own_samples(step) for step in range(3)]


def test_equal_pictures_have_one_image_id_over_files_and_sets(tmp_path: Path) -> None:
    digests = ["a" * 64, "b" * 64, "a" * 64, None, None]
    keys = ["0000000000", "0000000001", "0000100000", "0000100001", "0000200000"]
    images: list[dict[str, object]] = [
        {"key": key, "status": "success", "jpg": b"x", "sha256": digest, "same_as": keys[3] if at == 4 else None}
        for at, (key, digest) in enumerate(zip(keys, digests, strict=True))
    ]
    for row in images:
        name = f"part-{str(row['key'])[:5]}.parquet"
        pairs: list[dict[str, object]] = [
            {"key": one["key"], "source": "web", "candidate": 0, "caption": one["key"], "kept": True}
            for one in images if str(one["key"])[:5] == str(row["key"])[:5]
        ]  # fmt: skip
        mine = [one for one in images if str(one["key"])[:5] == str(row["key"])[:5]]
        write_parquet(tmp_path / "images" / name, rows_to_table(mine, IMAGES), IMAGES)
        write_parquet(tmp_path / "pairs" / name, rows_to_table(pairs, PAIRS), PAIRS)
    human = {"captions": ["h"], "status": "success", "jpg": b"y", "sha256": "b" * 64}
    rows: list[dict[str, object]] = [{**human, "key": "1"}, {**human, "key": "2", "captions": ["k"]}]
    write_parquet(tmp_path / "human" / "part-00000.parquet", rows_to_table(rows, ANNOTATED), ANNOTATED)
    data = opened(tmp_path, human=True)
    ids = {s.text: s.image_id for stream in (data.web, data.human) for s in stream.samples(0, stream.num_samples)}
    assert ids[keys[0]] == ids[keys[2]]
    assert ids[keys[1]] == ids["h"] == ids["k"]
    assert ids[keys[3]] == ids[keys[4]]
    assert len(set(ids.values())) == 3
    pictures = HumanPictures(annotated_shards(tmp_path / "human"))
    assert pictures.captions == {ids["h"]: ["h", "k"]}
    assert [found[:2] for found in pictures._encoded(0, 1)] == [(ids["h"], b"y")]


def test_a_store_is_read_by_ranges(groups: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with moto_server() as endpoint:
        for name, value in environment(endpoint, tmp_path / "cache").items():
            monkeypatch.setenv(name, value)
        Bucket(endpoint).clear()
        copy = tmp_path / "copy"
        copy.mkdir()
        (copy / store.LISTING).write_text('{"uri": "s3://bucket/run", "files": {}}')
        store.forget_stores()
        place = Store("s3://bucket/run", copy)
        for file in (*parquet_files(groups / "images"), *parquet_files(groups / "pairs")):
            place.put(f"{file.parent.name}/{file.name}", file)
        for name in ("images", "pairs"):
            (copy / name).mkdir()
        there, here = opened(copy), opened(groups)
        assert [texts_of(there, step) for step in range(45)] == [texts_of(here, step) for step in range(45)]
        assert there.own_samples(0)[0].encoded()
        assert not [*copy.rglob("*.parquet")]
        store.forget_stores()
