"""Pictures in two sets at once, found by their bytes; what training then sees, and what it leaves out."""

from __future__ import annotations

import hashlib
import json
import logging
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blip_bootstrap.config import (
    Config,
    FindSamePicturesConfig,
    FinetuneConfig,
    PretrainConfig,
    SamePicturesConfig,
    load_config,
)
from blip_bootstrap.errors import InputError
from blip_bootstrap.loop.layout import Artifact, Layout
from blip_bootstrap.loop.rounds import _left_out
from blip_bootstrap.loop.whole import digest_of_input
from blip_bootstrap.schemas.tables import ANNOTATED, IMAGES, PAIRS, SAME_PICTURES
from blip_bootstrap.storage.manifest import describe_files, manifest_of, recipe_of
from blip_bootstrap.storage.parquet import read_parquet, rows_to_table, write_parquet
from blip_pipelines.duplicates.same_pictures import find_same_pictures
from blip_pipelines.ingest.annotated import ingest_annotated
from blip_training.feed.batches import open_training_data
from blip_training.feed.feed import Feed
from blip_training.feed.left_out import LeftOut, read_left_out
from tests.support.drawn import draw

FEED = Feed(batch_size=4, image_size=32, seed=0)
EVERY = SamePicturesConfig()


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def pictures(count: int, seed: int = 0) -> list[bytes]:
    rng = random.Random(seed)
    found: list[bytes] = []
    while len(found) < count:
        body = draw(rng.choice(["red", "blue"]), rng.choice(["circle", "square"]), rng)
        found += [body] if body not in found else []
    return found


P = pictures(12)


def write_set(folder: Path, bodies: list[bytes], fetched: list[bytes] | None = None, older: bool = False) -> Path:
    """An annotated set; `fetched` are the files before they were made smaller. An older table has no such column."""
    rows: list[dict[str, Any]] = [
        {"key": f"h{at}", "name": f"{at}.jpg", "captions": [f"text {at}", f"other {at}"], "status": "success",
         "sha256": digest((fetched or bodies)[at]), "jpg": body}
        for at, body in enumerate(bodies)
    ]  # fmt: skip
    rows.append({"key": "broken", "captions": ["text"], "status": "failed_to_resize", "error_class": "other"})
    write_parquet(folder / "part-00000.parquet", rows_to_table(rows, ANNOTATED), ANNOTATED)
    if older:
        file = folder / "part-00000.parquet"
        pq.write_table(pq.read_table(file).drop_columns(["sha256"]), file)
    return folder


def write_web(root: Path, bodies: list[bytes], fetched: list[bytes] | None = None, per_file: int = 3) -> Path:
    """images/ and pairs/ of one kept and one dropped text each, in several files."""
    for start in range(0, len(bodies), per_file):
        images: list[dict[str, object]] = []
        pairs: list[dict[str, object]] = []
        for at in range(start, min(start + per_file, len(bodies))):
            sha256 = digest((fetched or bodies)[at])
            images.append({"key": f"w{at}", "status": "success", "sha256": sha256, "jpg": bodies[at]})
            pair = {"key": f"w{at}", "source": "web", "candidate": 0, "caption": f"web {at}"}
            pairs += [pair | {"kept": True}, pair | {"source": "synthetic", "kept": False, "reason": "too_short"}]
        images.append({"key": f"failed{start}", "status": "failed_to_download", "error_class": "dns"})
        name = f"part-{start:05d}.parquet"
        write_parquet(root / "images" / name, rows_to_table(images, IMAGES), IMAGES)
        write_parquet(root / "pairs" / name, rows_to_table(pairs, PAIRS), PAIRS)
    return root / "images"


def find(tmp_path: Path, images: Path, human: Path | None, held_out: Path | None, **more: Any) -> dict[str, int]:
    return find_same_pictures(tmp_path / "same", images, human, held_out, config=FindSamePicturesConfig(**more))


def rows_of(tmp_path: Path) -> set[tuple[Any, ...]]:
    table = pa.concat_tables(read_parquet(tmp_path / "same" / name) for name in ("human.parquet", "part-00000.parquet"))
    assert table.schema.names == SAME_PICTURES.schema.names
    assert table["distance"].null_count == len(table)  # by their bytes
    return {tuple(row.values()) for row in table.drop_columns(["distance"]).to_pylist()}


def test_equal_bytes_are_found_between_all_three_sets_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = write_web(tmp_path, P[:7])
    human, held_out = write_set(tmp_path / "human", P[5:9]), write_set(tmp_path / "held_out", [P[8], P[0], P[5], P[11]])
    with caplog.at_level(logging.WARNING):
        counts = find(tmp_path, images, human, held_out)
    assert counts == {
        "held_out_in_human": 2, "held_out_in_web": 2, "human_in_web": 2, "left_out_web": 3, "left_out_human": 2,
    }  # fmt: skip
    assert rows_of(tmp_path) == {
        ("human", "h0", "held_out", "h2", True), ("human", "h3", "held_out", "h0", True),
        ("web", "w0", "held_out", "h1", True), ("web", "w5", "held_out", "h2", True),
        ("web", "w5", "human", "h0", True), ("web", "w6", "human", "h1", True),
    }  # fmt: skip
    (said,) = [record.getMessage() for record in caplog.records]
    assert said == (
        "the same pictures in two sets: 2 held out in human, 2 held out in web, 2 human in web; 5 are not trained on"
    )


@pytest.mark.parametrize(
    ("web", "fetched", "human", "read", "older"),
    [
        ([P[0]], [P[1]], [P[2]], [P[1]], False),  # the same file, stored by two rules
        ([P[0]], [P[1]], [P[1]], [P[1]], True),  # an older human set that kept the file as it was
        ([P[0]], [P[1]], [P[0]], [P[2]], False),  # other metadata, the same stored bytes
        ([P[0]], [P[1]], [P[0]], [P[2]], True),
        ([P[0]], [P[1]], [P[2]], [P[0]], False),  # a stored picture that somebody annotated
    ],
)
def test_pictures_are_compared_as_fetched_and_as_stored(
    tmp_path: Path, web: list[bytes], fetched: list[bytes], human: list[bytes], read: list[bytes], older: bool
) -> None:
    images = write_web(tmp_path, web, fetched)
    assert find(tmp_path, images, write_set(tmp_path / "human", human, read, older), None)["human_in_web"] == 1


def test_what_is_not_the_same_is_not_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One more byte at the end is another file, and other stored bytes of the same size are another picture."""
    longer = [P[0] + b" ", bytes(len(P[1]))]
    images = write_web(tmp_path, longer)
    counts = find(tmp_path, images, write_set(tmp_path / "human", P[:3]), write_set(tmp_path / "held_out", P[3:5]))
    assert set(counts.values()) == {0}
    assert rows_of(tmp_path) == set()
    assert not caplog.records
    assert read_left_out(tmp_path / "same") == LeftOut()


def test_the_file_of_an_annotated_picture_is_known_by_its_bytes_as_read(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(P[0])
    source = tmp_path / "human.jsonl"
    source.write_text('{"image": "a.jpg", "captions": ["a circle"]}\n{"image": "absent.jpg", "captions": ["x"]}\n')
    config = load_config(None, [f"human={{path: {source}, image_size: 16}}"]).human
    assert config
    (tmp_path / "human").mkdir()
    ingest_annotated(tmp_path / "human", source, config=config)
    rows = read_parquet(tmp_path / "human" / "part-00000.parquet").to_pylist()
    assert [row["sha256"] for row in rows] == [digest(P[0]), None]
    assert rows[0]["jpg"] != P[0]
    assert find(tmp_path, write_web(tmp_path, [P[5]], [P[0]]), tmp_path / "human", None)["human_in_web"] == 1


def trained_on(tmp_path: Path, left_out: LeftOut) -> tuple[set[str], set[str]]:
    """Keys of web and human pictures in two epochs, whose numbers of samples must be the announced ones."""
    data = open_training_data(
        tmp_path / "images", tmp_path / "pairs", tmp_path / "human", FEED, left_out=left_out
    )  # fmt: skip
    found = []
    for stream in (data.web, data.human):
        samples = list(stream.samples(0, 2 * stream.num_samples))
        first, second = samples[: len(samples) // 2], samples[len(samples) // 2 :]
        assert sorted((s.key, s.text) for s in first) == sorted((s.key, s.text) for s in second)
        assert len({(s.key, s.text) for s in first}) == stream.num_samples
        assert all(s.encoded() for s in first)
        found.append({s.key for s in samples})
    return found[0], found[1]


@pytest.mark.parametrize(
    ("leave_out", "web", "human"),
    [
        (EVERY.leave_out, {"w1", "w2", "w3", "w4"}, {"h1", "h2"}),
        (("held_out_in_human",), {f"w{at}" for at in range(7)}, {"h1", "h2"}),
        (("held_out_in_web",), {"w1", "w2", "w3", "w4", "w6"}, {"h0", "h1", "h2", "h3"}),
        (("human_in_web",), {"w0", "w1", "w2", "w3", "w4"}, {"h0", "h1", "h2", "h3"}),
        ((), {f"w{at}" for at in range(7)}, {"h0", "h1", "h2", "h3"}),
    ],
)
def test_training_sees_what_is_left(tmp_path: Path, leave_out: tuple[str, ...], web: set[str], human: set[str]) -> None:
    images = write_web(tmp_path, P[:7])
    sets = write_set(tmp_path / "human", P[5:9]), write_set(tmp_path / "held_out", [P[8], P[0], P[5]])
    find(tmp_path, images, *sets, leave_out=leave_out)
    assert trained_on(tmp_path, read_left_out(tmp_path / "same")) == (web, human)


def test_a_file_whose_every_picture_is_left_out_is_no_shard(tmp_path: Path) -> None:
    images = write_web(tmp_path, P[:7])
    find(tmp_path, images, write_set(tmp_path / "human", P[:3]), None)
    web, human = trained_on(tmp_path, read_left_out(tmp_path / "same"))
    assert web == {"w3", "w4", "w5", "w6"}
    assert human == {"h0", "h1", "h2"}


def test_where_nothing_is_left_the_line_says_why(tmp_path: Path) -> None:
    images = write_web(tmp_path, P[:2])
    human = write_set(tmp_path / "human", P[:2])
    find(tmp_path, images, human, write_set(tmp_path / "held_out", P[:2]))
    with pytest.raises(
        InputError, match=r"no training pairs .*; 4 pictures .* are left out \(same_pictures.leave_out\)"
    ):
        trained_on(tmp_path, read_left_out(tmp_path / "same"))


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    images = write_web(tmp_path, P[:2])
    (images / "part-00009.parquet").write_bytes(b"PAR1 no table")
    with pytest.raises(InputError, match=r"part-00009\.parquet: not a readable Parquet file"):
        find(tmp_path, images, write_set(tmp_path / "human", P[:2]), None)


def config_of(*settings: str) -> Config:
    return load_config(None, ["human.path=h.jsonl", "held_out.path=o.jsonl", *settings])


def test_it_is_made_where_there_are_sets_to_compare_and_something_is_trained() -> None:
    given = ("captioner.checkpoint=a", "filter.checkpoint=b", "pretrain.optimizer.steps=0")
    assert Layout(config_of(), 1).same_pictures
    assert Layout(config_of(*given[:2]), 1).same_pictures
    assert not Layout(config_of(*given), 1).same_pictures
    assert not Layout(load_config(None, []), 0).same_pictures
    assert Layout(load_config(None, ["held_out.path=o.jsonl"]), 0).same_pictures


@pytest.mark.parametrize(
    ("counts", "of_human", "of_all"),
    [
        ({"held_out_in_web": 0, "left_out_web": 0, "left_out_human": 0}, False, False),
        ({"held_out_in_web": 3, "left_out_web": 3, "left_out_human": 0}, False, True),
        ({"held_out_in_human": 1, "left_out_web": 0, "left_out_human": 1}, True, True),
        ({"held_out_in_web": 3, "left_out_web": 0, "left_out_human": 0}, False, False),
    ],
)
def test_trainings_depend_on_it_only_where_it_leaves_out_something_of_theirs(
    tmp_path: Path, counts: dict[str, int], of_human: bool, of_all: bool
) -> None:
    """So that a run without such pictures stays current."""
    import json

    at = Layout(config_of(f"root={tmp_path}"), 1)
    assert at.same_pictures
    at.same_pictures.local.mkdir()
    (at.same_pictures.local / "MANIFEST.json").write_text(json.dumps({"counts": counts}))
    assert bool(_left_out(at.same_pictures, "human")) == of_human
    assert bool(_left_out(at.same_pictures, "human", "web")) == of_all
    assert _left_out(None, "human", "web") is None


@pytest.mark.parametrize(
    ("settings", "held_out"),
    [
        ([], False),
        (["captioner.validate_every_steps=50"], True),
        (["filter.validate_every_steps=50"], True),
        (["filter.validate_every_steps=0"], False),
        (["filter.validate_every_steps=50", "filter.checkpoint=x"], False),
        (["filter.validate_every_steps=50", "pretrain.hold_out_validation=false"], False),
        (["filter.validate_every_steps=50", "pretrain.optimizer.steps=7", "seed=4"], True),
        (["pretrain.hold_out_validation=true"], True),
    ],
)
def test_the_validation_tenth_is_kept_out_of_pretraining_where_it_is_used(settings: list[str], held_out: bool) -> None:
    config = load_config(None, settings)
    assert config.pretrain.hold_out_validation == held_out
    assert load_config(None, [f"pretrain={config.pretrain.model_dump_json()}"]).pretrain == config.pretrain
    assert ("hold_out_validation" in recipe_of("pretrain", config.pretrain, {})["config"]) == held_out


def test_sections_that_are_made_already_are_held_to_it_too() -> None:
    tuned = FinetuneConfig(validate_every_steps=5)
    assert Config(captioner=tuned).pretrain.hold_out_validation
    assert Config(captioner=tuned, pretrain=PretrainConfig(human_share=0.5)).pretrain.hold_out_validation
    own = PretrainConfig(hold_out_validation=False)
    assert not Config(captioner=tuned, pretrain=own).pretrain.hold_out_validation


def test_a_list_that_grows_is_nothing_new_to_what_trains_on_the_human_set_alone(tmp_path: Path) -> None:
    human, held_out = write_set(tmp_path / "human", P[5:9]), write_set(tmp_path / "held_out", [P[8], P[0]])
    digests = []
    for images in (write_web(tmp_path / "few", P[:2]), write_web(tmp_path / "more", P[:7])):
        folder = images.parent / "same"
        counts = find(images.parent, images, human, held_out)
        recipe = recipe_of("find_same_pictures", SamePicturesConfig(), {})
        manifest = manifest_of("same_pictures", recipe, SamePicturesConfig(), counts, 0, describe_files(folder))
        (folder / "MANIFEST.json").write_text(json.dumps(manifest))
        same = Artifact("same_pictures", folder, SamePicturesConfig())
        of_human, of_all = _left_out(same, "human"), _left_out(same, "human", "web")
        assert of_human
        assert of_all
        digests.append((digest_of_input(of_human), digest_of_input(of_all)))
    (human_before, all_before), (human_after, all_after) = digests
    assert human_before == human_after
    assert all_before != all_after
