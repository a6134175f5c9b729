"""The built-in world on disk: a noisy web, a small human set, two held-out sets, and drawings for the vision start."""

from __future__ import annotations

import io
import json
import random
import shutil
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, model_validator

from blip_bootstrap.config import Count, Fraction, NonNegative, Section
from blip_bootstrap.storage.files import write_whole
from blip_bootstrap.world.judge import judge
from blip_bootstrap.world.scenes import COLOURS, DOMAINS, SHAPES, SIZES, Domain, Scene, draw_scene, sample_scene
from blip_bootstrap.world.server import HOST, url_of
from blip_bootstrap.world.wording import Kind, alt_text, describe, vocabulary

VERSION = 1
"""Increased when the same configuration gives another world, so that worlds on disk are made anew."""

FALSE_KINDS: tuple[Kind, ...] = ("swapped", "unrelated", "damaged")
"""Kinds of alt text that say nothing right of the picture, or little; see `wording.alt_text`."""


class WorldConfig(Section):
    """How large the world is, and how noisy its web is."""

    seed: int = 0
    picture_px: Count = Field(default=64, description="side of the pictures on disk")
    num_web: Count = Field(default=3000, description="pictures of the web")
    num_human: Count = Field(default=130, description="pictures that people have described")
    num_held_out: Count = Field(default=600, description="pictures that the figures are measured on")
    num_validation: Count = Field(default=300, description="pictures that settings are chosen on")
    num_vision: NonNegative = Field(default=7500, description="labelled drawings for the vision start")
    two_things_share: Fraction = Field(default=0.35, description="share of scenes of two things; the rest have one")
    three_things_share: Fraction = 0.0
    human_captions: Count = Field(default=2, description="captions of each human picture")
    held_out_captions: Count = Field(default=5, description="captions of each held-out picture")
    human_domains: dict[Domain, float] = Field(default={"in": 0.70, "near": 0.22, "out": 0.08}, description="shares")
    held_out_domains: dict[Domain, float] = Field(default={"in": 0.34, "near": 0.33, "out": 0.33}, description="shares")
    kinds: dict[Kind, float] = Field(
        {"full": 0.05, "partial": 0.45, "swapped": 0.25, "unrelated": 0.22, "damaged": 0.03},
        description="shares of the alt texts' kinds; see wording.alt_text",
    )
    false_share: Fraction | None = Field(
        default=None,
        description="share of the alt texts that are swapped, unrelated or damaged; of these and of the others each "
        "kind has its part as in kinds. null: as in kinds",
    )
    manners: dict[str, float] = Field(
        {"missing": 0.012, "busy": 0.01, "down": 0.002, "page": 0.006, "cut": 0.006, "slow": 0.004, "stalled": 0.001},
        description="shares of the URLs that do not simply answer; see server.MANNERS",
    )
    blank_share: Fraction = Field(default=0.002, description="rows added whose URL is blank")
    duplicate_share: Fraction = Field(default=0.005, description="rows added that repeat another row")

    def kind_shares(self) -> dict[Kind, float]:
        """The shares of the kinds, with `false_share` of those that are false."""
        if self.false_share is None:
            return self.kinds
        wanted = {True: self.false_share, False: 1 - self.false_share}
        have = {is_false: self._share_of(is_false) for is_false in wanted}
        return {
            kind: share / have[kind in FALSE_KINDS] * wanted[kind in FALSE_KINDS]
            for kind, share in self.kinds.items()
            if share
        }

    def _share_of(self, is_false: bool) -> float:
        """The share of the kinds that are false, or of the others, as `kinds` has them."""
        return sum(share for kind, share in self.kinds.items() if (kind in FALSE_KINDS) == is_false)

    @model_validator(mode="after")
    def _has_both(self) -> WorldConfig:
        share = self.false_share
        if share is not None and (
            (share > 0 and not self._share_of(True)) or (share < 1 and not self._share_of(False))
        ):
            raise ValueError(f"false_share {share} needs kinds of both sorts; {', '.join(FALSE_KINDS)} are false")
        return self

    def described(self) -> dict[str, Any]:
        """The configuration as world.json has it; settings that are null are left out, as worlds on disk lack them."""
        return self.model_dump(mode="json", exclude_none=True)


class World(Section):
    """A world on disk: where its files lie, and the port in its URLs."""

    folder: Path
    port: int
    config: WorldConfig

    @property
    def url_list(self) -> Path:
        """The URL list of the web: `url` and `alt_text`, separated by tabs."""
        return self.folder / "web.tsv"

    @property
    def pictures(self) -> Path:
        """The folder of pictures that the server serves."""
        return self.folder / "images"


def make_world(folder: Path, config: WorldConfig | None = None, port: int = 0) -> World:
    """Make the world under `folder`, unless it is there, made by the same configuration; `port` 0 takes a free one.

    Its files: `images/` and `web.tsv`; `human.jsonl`, `held_out.jsonl`, `validation.jsonl` beside a folder of pictures
    each; `truth.jsonl` with the kind of every alt text and the scene of every web picture; `tokenizer/vocab.txt`;
    `vision_start.parquet` (`jpg`, and `labels`: one 0 or 1 for each of `label_names()`); `world.json`, written last.
    """
    config = config or WorldConfig()
    made = _read_world(folder, config)
    if made is not None:
        return made
    folder.mkdir(parents=True, exist_ok=True)
    for stale in (folder / "world.json", *folder.glob("*images"), *folder.glob("vision_start_*")):
        shutil.rmtree(stale) if stale.is_dir() else stale.unlink(missing_ok=True)
    world = World(folder=folder, port=port or _free_port(), config=config)
    _write_web(world)
    for name, count, captions, domains in (
        ("human", config.num_human, config.human_captions, config.human_domains),
        ("held_out", config.num_held_out, config.held_out_captions, config.held_out_domains),
        ("validation", config.num_validation, config.held_out_captions, config.held_out_domains),
    ):
        _write_annotated(world, name, count, captions, domains)
    (folder / "tokenizer").mkdir(exist_ok=True)
    (folder / "tokenizer" / "vocab.txt").write_text("\n".join(vocabulary()) + "\n", encoding="utf-8")
    _write_vision_start(world)
    described = {"version": VERSION, "port": world.port, "config": config.described()}
    write_whole(folder / "world.json", json.dumps(described, indent=1))
    return world


def label_names() -> list[str]:
    """The class of each number in `labels` of vision_start.parquet; 1 where such a thing is in the drawing."""
    pairs = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    return [*COLOURS, *SHAPES, *pairs, *[f"{size} {shape}" for size in SIZES for shape in SHAPES]]


def scene_labels(scene: Scene) -> list[int]:
    """For each of `label_names()`, 1 where the scene has such a thing, else 0."""
    said: set[str] = set()
    for thing in scene.things:
        said |= {thing.colour, thing.shape, f"{thing.colour} {thing.shape}", f"{thing.size} {thing.shape}"}
    return [int(name in said) for name in label_names()]


def _read_world(folder: Path, config: WorldConfig) -> World | None:
    """The world that lies whole in `folder` and was made by this configuration, else None."""
    path = folder / "world.json"
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    if found.get("version") != VERSION or found.get("config") != config.described():
        return None
    return World(folder=folder, port=found["port"], config=config)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _write_web(world: World) -> None:
    """Write the pictures, the URL list with its bad rows, and the truth file."""
    config = world.config
    world.pictures.mkdir(exist_ok=True)
    rows, truth, kinds = [], [], config.kind_shares()
    for number in range(config.num_web):
        rng = random.Random(f"{config.seed} web {number}")
        scene, name = _sample_scene(rng, config, None), f"{number:06d}.jpg"
        (world.pictures / name).write_bytes(_jpeg(scene, config.picture_px))
        kind = _draw(rng, kinds)
        manner = _draw(rng, {**config.manners, "ok": 1 - sum(config.manners.values())})
        text = alt_text(kind, scene, _other_scene(rng, config, scene), rng)
        rows.append((url_of(world.port, manner, name), text))
        truth.append({"name": name, "kind": kind, "scene": scene.as_dict()})
    rng = random.Random(f"{config.seed} bad rows")
    bad = rng.sample(rows, round(config.duplicate_share * len(rows)))
    bad += [("", text) for _, text in rng.sample(rows, round(config.blank_share * len(rows)))]
    for row in bad:
        rows.insert(rng.randrange(len(rows)), row)
    lines = ["url\talt_text", *[f"{url}\t{text}" for url, text in rows]]
    world.url_list.write_text("\n".join(lines) + "\n", encoding="utf-8")
    _write_json_lines(world.folder / "truth.jsonl", truth)


def _other_scene(rng: random.Random, config: WorldConfig, scene: Scene) -> Scene:
    """A scene whose captions are not true of `scene`."""
    while True:
        other = _sample_scene(rng, config, None)
        if judge(scene, describe(other, random.Random(0))) == "false":
            return other


def _write_annotated(world: World, name: str, count: int, num_captions: int, domains: Mapping[Domain, float]) -> None:
    """Write an annotated set: `name`.jsonl with image, captions, domain and scene, and its pictures."""
    pictures = world.folder / f"{name}_images"
    pictures.mkdir(exist_ok=True)
    rows = []
    for number, domain in enumerate(_apportion(count, domains)):
        rng = random.Random(f"{world.config.seed} {name} {number}")
        scene = _sample_scene(rng, world.config, domain)
        (pictures / f"{number:05d}.jpg").write_bytes(_jpeg(scene, world.config.picture_px))
        captions = _captions(scene, num_captions, rng)
        image = f"{pictures.name}/{number:05d}.jpg"
        rows.append({"image": image, "captions": captions, "domain": domain, "scene": scene.as_dict()})
    random.Random(f"{world.config.seed} {name}").shuffle(rows)
    _write_json_lines(world.folder / f"{name}.jsonl", rows)


def _captions(scene: Scene, count: int, rng: random.Random) -> list[str]:
    """`count` captions, all different where there are enough wordings."""
    captions = list(dict.fromkeys(describe(scene, rng) for _ in range(4 * count)))
    return (captions * count)[:count]


def _write_vision_start(world: World) -> None:
    """Write drawings of other scenes with the classes of their things, without any text."""
    scenes = [
        _sample_scene(random.Random(f"{world.config.seed} vision {number}"), world.config, None)
        for number in range(world.config.num_vision)
    ]
    table = pa.table(
        {
            "jpg": pa.array([_jpeg(scene, world.config.picture_px) for scene in scenes], pa.binary()),
            "labels": pa.array([scene_labels(scene) for scene in scenes], pa.list_(pa.int8())),
        }
    )
    pq.write_table(table, (world.folder / "vision_start.parquet").absolute())  # absolute as in write_parquet


def _sample_scene(rng: random.Random, config: WorldConfig, domain: Domain | None) -> Scene:
    shares = {3: config.three_things_share, 2: config.two_things_share}
    shares[1] = 1 - sum(shares.values())
    return sample_scene(rng, _draw(rng, shares), domain)


def _draw(rng: random.Random, shares: Mapping[Any, float]) -> Any:
    return rng.choices(list(shares), list(shares.values()))[0]


def _apportion(count: int, domains: Mapping[Domain, float]) -> Iterator[Domain]:
    """`count` domains in the given shares, rounded so that they add up to `count`."""
    total, done, reached = sum(domains.values()), 0, 0.0
    for domain in DOMAINS:
        reached += domains.get(domain, 0.0)
        upto = round(count * reached / total)
        yield from [domain] * (upto - done)
        done = upto


def _jpeg(scene: Scene, size_px: int) -> bytes:
    buffer = io.BytesIO()
    draw_scene(scene, size_px).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def _write_json_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
