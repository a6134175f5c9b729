from __future__ import annotations

import io
import json
import random
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import ValidationError

from blip_bootstrap.config import load_config
from blip_bootstrap.demo.settings import demo_config
from blip_bootstrap.errors import RunFailed
from blip_bootstrap.world.judge import judge
from blip_bootstrap.world.scenes import COLOURS, Scene, Thing, draw_scene, relation, sample_scene, scene_from
from blip_bootstrap.world.server import WorldServer, url_of
from blip_bootstrap.world.wording import vocabulary
from blip_bootstrap.world.world import FALSE_KINDS, World, WorldConfig, label_names, make_world, scene_labels

SMALL = WorldConfig(
    num_web=60, num_human=20, num_held_out=12, num_validation=6, num_vision=10, blank_share=0.05, duplicate_share=0.1,
    three_things_share=0.2,
)  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"), SMALL, port=18181)


def _files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_same_seed_gives_the_same_world(world: World, tmp_path: Path) -> None:
    again = make_world(tmp_path / "again", SMALL, port=18181)
    assert _files(again.folder) == _files(world.folder)
    other = make_world(tmp_path / "other", SMALL.model_copy(update={"seed": 1}), port=18181)
    assert _files(other.folder)["web.tsv"] != _files(world.folder)["web.tsv"]


def test_a_made_world_is_found_and_a_half_made_one_is_made_anew(tmp_path: Path) -> None:
    first = make_world(tmp_path, SMALL)
    (tmp_path / "web.tsv").write_text("kept", encoding="utf-8")
    assert make_world(tmp_path, SMALL) == first
    assert first.url_list.read_text(encoding="utf-8") == "kept"
    (tmp_path / "world.json").unlink()
    assert "http" in make_world(tmp_path, SMALL).url_list.read_text(encoding="utf-8")


def test_the_web_has_its_rows_bad_ones_and_the_truth_aside(world: World) -> None:
    rows = [line.split("\t") for line in world.url_list.read_text(encoding="utf-8").splitlines()]
    assert rows.pop(0) == ["url", "alt_text"]
    counts = Counter((url, text) for url, text in rows)
    assert len(rows) == 60 + 6 + 3
    assert sum(1 for url, _ in rows if not url) == 3
    assert sum(count > 1 for (url, _), count in counts.items() if url) == 6
    truth = {str(row["name"]): row for row in _rows(world.folder / "truth.jsonl")}
    assert set(truth) == {path.name for path in world.pictures.iterdir()}
    expected = {
        "full": {"true"},
        "partial": {"partial"},
        "swapped": {"true", "partial", "false"},
        "unrelated": {"false"},
    }
    for url, text in rows:
        if url and (row := truth[url.rsplit("/", 1)[1]])["kind"] in expected:
            assert judge(row["scene"], text) in expected[str(row["kind"])]  # type: ignore[arg-type]


def test_annotated_sets_are_true_and_of_their_domains(world: World) -> None:
    human, held_out = _rows(world.folder / "human.jsonl"), _rows(world.folder / "held_out.jsonl")
    assert Counter(row["domain"] for row in human) == {"in": 14, "near": 4, "out": 2}
    assert Counter(row["domain"] for row in held_out) == {"in": 4, "near": 4, "out": 4}
    for row in human + held_out:
        scene = scene_from(row["scene"])  # type: ignore[arg-type]
        assert scene.domain == row["domain"]
        assert all(judge(scene, caption) == "true" for caption in row["captions"])  # type: ignore[attr-defined]
        assert (world.folder / str(row["image"])).is_file()


def test_every_word_is_in_the_vocabulary(world: World) -> None:
    words = (world.folder / "tokenizer" / "vocab.txt").read_text(encoding="utf-8").split()
    assert words == vocabulary()
    assert len(words) == len(set(words))
    texts = [line.split("\t")[1] for line in world.url_list.read_text(encoding="utf-8").splitlines()[1:]]
    texts += [text for row in _rows(world.folder / "human.jsonl") for text in row["captions"]]  # type: ignore[attr-defined]
    pieces = {piece for text in texts for word in text.split() for piece in (list(word) if word.isdigit() else [word])}
    assert pieces - {"_"} <= set(words)


def test_vision_start_has_a_label_for_each_name(world: World) -> None:
    table = pq.read_table(world.folder / "vision_start.parquet")
    assert table.num_rows == 10
    assert {len(labels) for labels in table["labels"].to_pylist()} == {len(label_names())}
    assert Image.open(io.BytesIO(table["jpg"][0].as_py())).size == (64, 64)
    scene = Scene((Thing("red", "ring", "small", 0.5, 0.5, 0.13, 0.0),))
    said = [name for name, label in zip(label_names(), scene_labels(scene), strict=True) if label]
    assert said == ["red", "ring", "red ring", "small ring"]


@pytest.mark.parametrize("shape", ["circle", "square", "triangle", "star", "cross"])
def test_things_are_drawn_where_they_are_said_to_be(shape: str) -> None:
    picture = np.asarray(draw_scene(Scene((Thing("blue", shape, "large", 0.3, 0.7, 0.22, 0.0),)), 64), dtype=int)
    assert np.abs(picture[45, 19] - COLOURS["blue"]).max() < 50
    assert picture[10, 50].min() > 150


def test_relations_are_opposite_and_none_where_close() -> None:
    rng = random.Random(0)
    opposite = {"left": "right", "right": "left", "above": "below", "below": "above"}
    for _ in range(50):
        a, b = sample_scene(rng, 2).things
        where = relation(a, b)
        assert where is not None
        assert relation(b, a) == opposite[where]
    assert relation(a, a) is None
    with pytest.raises(ValueError, match="one to three"):
        sample_scene(rng, 4)


@pytest.fixture(scope="module")
def server(world: World) -> Iterator[WorldServer]:
    with WorldServer(world.pictures) as running:
        yield running


def _get(server: WorldServer, manner: str, name: str = "000000.jpg", timeout_s: float = 5) -> tuple[int, str, bytes]:
    try:
        with urllib.request.urlopen(url_of(server.port, manner, name), timeout=timeout_s) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read()


def test_the_server_answers_in_every_manner(server: WorldServer, world: World) -> None:
    whole = (world.pictures / "000000.jpg").read_bytes()
    assert _get(server, "ok") == (200, "image/jpeg", whole)
    assert _get(server, "slow") == (200, "image/jpeg", whole)
    assert _get(server, "missing")[0] == 404
    assert _get(server, "ok", "no-such.jpg")[0] == 404
    assert _get(server, "nonsense")[0] == 404
    assert [_get(server, "busy")[0] for _ in range(3)] == [503, 200, 200]
    assert [_get(server, "down")[0] for _ in range(2)] == [503, 503]
    assert b"<html>" in _get(server, "page")[2]
    cut = _get(server, "cut")[2]
    with pytest.raises(OSError, match="truncated"):
        Image.open(io.BytesIO(cut)).load()
    with pytest.raises(TimeoutError):
        _get(server, "stalled", timeout_s=0.5)


def test_a_taken_port_is_one_clear_line(server: WorldServer, world: World) -> None:
    with (
        pytest.raises(RunFailed, match=rf"127.0.0.1:{server.port}: cannot serve"),
        WorldServer(world.pictures, server.port),
    ):
        pass


def test_the_demo_configuration_is_valid(world: World, tmp_path: Path) -> None:
    import yaml

    path = tmp_path / "demo.yaml"
    path.write_text(yaml.safe_dump(demo_config(tmp_path, world)), encoding="utf-8")
    config = load_config(path)
    assert config.download.urls[0].path.is_file()
    assert config.human is not None
    assert config.human.path.is_file()


def _kinds(folder: Path) -> Counter[str]:
    return Counter(str(row["kind"]) for row in _rows(folder / "truth.jsonl"))


@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
def test_a_share_of_false_texts_changes_the_texts_and_no_picture(share: float, tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"num_web": 400, "num_vision": 1, "false_share": share, "picture_px": 16})
    found = _kinds(make_world(tmp_path / "noisy", config).folder)
    false = sum(found[kind] for kind in FALSE_KINDS)
    assert false == pytest.approx(share * 400, abs=40)
    if share < 1:
        assert found["partial"] > 4 * found["full"]  # 45 to 5 in kinds
    make_world(tmp_path / "plain", config.model_copy(update={"false_share": None}))
    scenes = [[row["scene"] for row in _rows(tmp_path / name / "truth.jsonl")] for name in ("noisy", "plain")]
    assert scenes[0] == scenes[1]


def test_a_world_of_before_is_still_found(tmp_path: Path) -> None:
    make_world(tmp_path, SMALL)
    assert "false_share" not in json.loads((tmp_path / "world.json").read_text())["config"]


def test_a_share_of_false_texts_needs_kinds_of_both_sorts() -> None:
    assert WorldConfig(false_share=0.0, kinds={"full": 1.0}).kind_shares() == {"full": 1.0}
    with pytest.raises(ValidationError, match="needs kinds of both sorts"):
        WorldConfig(false_share=0.3, kinds={"full": 1.0})
