"""`blip-bootstrap demo`: make the built-in world, serve its web, and run the loop on it."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml

from blip_bootstrap.config import VisionConfig, load_config
from blip_bootstrap.demo.settings import VISION_START, demo_config
from blip_bootstrap.loop.rounds import run_download, run_rounds
from blip_bootstrap.progress import Say
from blip_bootstrap.storage.files import write_whole
from blip_bootstrap.storage.remote import opened
from blip_bootstrap.stores.store import store_of
from blip_bootstrap.world.server import WorldServer
from blip_bootstrap.world.world import World, WorldConfig, make_world


def run_demo(
    root: Path, number: int, settings: Sequence[str], ray: str | None, say: Say,
    world_config: WorldConfig | None = None, remake: Sequence[int] = (),
) -> Path | None:  # fmt: skip
    """Run the rounds up to `number` on the built-in world under `root`; the path of the last round's page.

    The configuration is written to `world/demo.yaml`, to be copied and changed; `settings` override it. Rounds in
    `remake` are made by the settings, too, where they were made before (`run_rounds`).
    """
    root = opened(root, make=True)
    say("world: drawing pictures, writing the web's texts")
    world = _world(root, world_config)
    start = vision_start_folder(world)
    path = world.folder / "demo.yaml"
    write_whole(path, yaml.safe_dump(demo_config(root, world, start), sort_keys=False))
    config = load_config(path, list(settings), ray__address=ray)
    with WorldServer(world.pictures, world.port):
        with beside(lambda: make_vision_start(world, start, say)):
            run_download(config, say)
        return run_rounds(config, number, say, remake)


def _world(root: Path, config: WorldConfig | None) -> World:
    """The world, with the port of before where it is drawn anew: on a store it is not kept, and URLs name the port."""
    kept = root / "world.port"
    made = make_world(root / "world", config, int(kept.read_text()) if kept.is_file() else 0)
    if store_of(root) and not kept.is_file():
        write_whole(kept, str(made.port))
    return made


@contextmanager
def beside(work: Callable[[], None]) -> Iterator[None]:
    """Do `work` in a thread while the body runs, then wait for it; an error of `work` is raised here.

    After Ctrl-C nothing waits: the thread ends with the process.
    """
    failures: list[Exception] = []

    def caught() -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - handed to the thread that waits
            failures.append(error)

    thread = threading.Thread(target=caught, daemon=True)
    thread.start()
    yield
    thread.join()
    if failures:
        raise failures[0]


def vision_start_folder(world: World) -> Path:
    """The folder of the vision start for this model, trained in this way."""
    vision = _vision(world)
    made_by = hashlib.sha256(f"{vision.model_dump_json()} {VISION_START}".encode()).hexdigest()[:8]
    return world.folder / f"vision_start_{made_by}"


def make_vision_start(world: World, folder: Path, say: Say) -> None:
    """Train the ViT that all models of the demo start from, on labelled drawings, unless `folder` has it.

    It stands for the ImageNet ViT that BLIP starts from (section 4.1): it learns classes and sees no text.
    """
    if (folder / "config.json").is_file():
        say("vision start: current")
        return
    from blip_training.train.vision_start import train_vision_start  # it loads torch

    say("vision start: training the ViT on labelled drawings, without text")
    counts = train_vision_start(folder, world.folder / "vision_start.parquet", _vision(world), **VISION_START)
    say(f"vision start: {counts['labels_right']:.2%} of the labels of new drawings right")


def _vision(world: World) -> VisionConfig:
    return VisionConfig.model_validate(demo_config(world.folder, world)["pretrain"]["model"]["vision"])
