"""A driver whose workers note what they begin: `noting_driver.py caption|download OUT SETTINGS`.

SETTINGS is JSON. OUT.log gets a line for each block or shard that a worker begins, with its node. With `lose_node` it
runs on two Ray nodes of this machine, and the second is killed once both have begun and the first file is whole.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

os.environ |= {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_health_check_initial_delay_ms": "500",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_failure_threshold": "3",
}
sys.path[:0] = [str(Path(__file__).parents[2] / part) for part in (".", "pipelines", "training")]

import ray  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

from blip_bootstrap.config import CaptionConfig, DownloadConfig, RayConfig  # noqa: E402
from blip_bootstrap.storage.parquet import parquet_files  # noqa: E402
from blip_pipelines.caption import blocks, step  # noqa: E402
from blip_pipelines.ingest import download  # noqa: E402
from blip_pipelines.ingest.shard_parts import Shard  # noqa: E402

NODE: dict[str, Any] = {"num_cpus": 2, "object_store_memory": 100_000_000}


def log_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.log")


def note(log: Path, path: str) -> None:
    with log.open("a") as file:
        file.write(f"{Path(path).name} {ray.get_runtime_context().get_node_id()}\n")


class Noting:
    """CaptionBlocks as the workers import it, which is not replaced there."""

    def __init__(self, log: Path, *arguments: Any, **known: Any) -> None:
        from blip_pipelines.caption.blocks import CaptionBlocks

        self._blocks = CaptionBlocks(*arguments, **known)
        caption_block = self._blocks._caption

        def noted(block: blocks.Block, batches: Iterator[Any]) -> None:
            note(log, block.output)
            caption_block(block, batches)

        self._blocks._caption = noted  # type: ignore[method-assign]

    def __call__(self, task: list[blocks.Block]) -> Iterator[blocks.Block]:
        return self._blocks(task)


class NotingDownload:
    """ShardDownload as the workers import it."""

    def __init__(self, log: Path, *arguments: Any, **known: Any) -> None:
        from blip_pipelines.ingest.download import ShardDownload

        self._log, self._download = log, ShardDownload(*arguments, **known)

    def __call__(self, shard: Shard) -> Iterator[Shard]:
        note(self._log, shard.part)
        return self._download(shard)


def run_caption(out: Path, settings: dict[str, Any], ray_config: RayConfig) -> None:
    class Here(Noting):
        def __init__(self, *arguments: Any, **known: Any) -> None:
            super().__init__(log_of(out), *arguments, **known)

    step.CaptionBlocks = Here  # type: ignore[attr-defined, assignment]
    config = CaptionConfig.model_validate(settings["config"])
    models = settings["captioner"], settings["filter"]
    step.caption_and_score(out, Path(settings["images"]), *models, config, ray_config)


def run_download(out: Path, settings: dict[str, Any], ray_config: RayConfig) -> None:
    download.ShardDownload = partial(NotingDownload, log_of(out))  # type: ignore[assignment, misc]
    config = DownloadConfig.model_validate(settings)
    download.download_images(out, *(urls.path for urls in config.urls), config=config, ray=ray_config)


def nodes_in(log: Path) -> set[str]:
    return {line.split()[1] for line in log.read_text().splitlines()} if log.exists() else set()


def lose_when_both_work(cluster: Cluster, node: Any, out: Path) -> None:
    while not (parquet_files(out) and len(nodes_in(log_of(out))) == 2):
        time.sleep(0.01)
    cluster.remove_node(node, allow_graceful=False)


@contextmanager
def two_nodes(out: Path) -> Iterator[RayConfig]:
    """The driver leaves before the cluster: one whose raylet ends first is ended by Ray, with status 1."""
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    second = cluster.add_node(**NODE)
    cluster.wait_for_nodes()
    threading.Thread(target=lose_when_both_work, args=(cluster, second, out), daemon=True).start()
    yield RayConfig(address=cluster.address)
    ray.shutdown()
    cluster.shutdown()


def main() -> None:
    what, out, settings = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    run = {"caption": run_caption, "download": run_download}[what]
    if not settings.pop("lose_node", False):
        run(out, settings, RayConfig(object_store_bytes=100_000_000))
        return
    with two_nodes(out) as ray_config:
        run(out, settings, ray_config)


if __name__ == "__main__":
    main()
