"""The download step: URL lists in, the table `images` out, one row for each row of the lists."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from blip_bootstrap.config import DownloadConfig, RayConfig, UrlList
from blip_bootstrap.errors import InputError, RunFailed
from blip_bootstrap.progress import Progress
from blip_bootstrap.storage.parquet import read_parquet, rows_to_table, write_parquet
from blip_bootstrap.storage.store import fetched, is_there
from blip_bootstrap.storage.tables import IMAGES
from blip_pipelines.bring.index import INDEX, PictureRows
from blip_pipelines.bring.read import bring_rows, is_brought
from blip_pipelines.cluster.items import HERE, Pool, run_items
from blip_pipelines.cluster.resources import num_nodes, num_workers, works_here
from blip_pipelines.cluster.session import connect
from blip_pipelines.cluster.tally import Counts
from blip_pipelines.fetch.fetch import Fetched, fetch
from blip_pipelines.fetch.local_server import serve_folder
from blip_pipelines.fetch.proxies import Proxies
from blip_pipelines.ingest.accounts import settle
from blip_pipelines.ingest.pictures import BroughtStore, WebStore
from blip_pipelines.ingest.plan import plan_parts, plan_repair
from blip_pipelines.ingest.url_lists import AnyList, num_rows
from blip_training.data.decode import PictureError

TALLY_EVERY_ROWS = 25

Row = dict[str, Any]


def download_images(
    out: Path,
    *urls: Path,
    config: DownloadConfig,
    ray: RayConfig,
    kin: Sequence[Path] = (),
    retry: str | None = None,
) -> dict[str, int | float | str]:
    """Download and resize the images of the URL lists `urls`: the paths of `config.urls`, in their order.

    Writes one `part-NNNNN.parquet` (table `images`) for each shard of `config.rows_per_shard` rows, and the rows of the
    lists that it is of to `rows/part-NNNNN.parquet` (table `shard`). Rows are known by their uids: those that are in
    parts of `out` or of `kin`, other artifacts of this step, are not fetched again, and these parts become parts of
    `out`, as links. `retry` names rows to be fetched again in new parts all the same, `failed` or `failed:CLASS`. Where
    `out` is whole but for some parts, these alone are fetched, under their keys.

    What of the parts is no row of the lists, or no more than an earlier try at one, is noted in `left_out.json`.
    Returns counts of the rows of the lists and those that were in them once, each once (`rows`), of those that no list
    has any more (`removed`), and, of the others, of each status, of each error class and of the texts that were cut
    (`texts_too_long`). Raises InputError for a list that cannot be read, and where there is nothing to try again,
    AccountingError where a row is missing or there twice.
    """
    lists = _lists(out, urls, config, ray)
    plan = plan_repair(out, lists, config, kin) or plan_parts(out, lists, config, kin, retry)
    todo = [shard for shard in plan.shards if not (out / shard.name).exists()]
    before = _count(out / shard.name for shard in plan.shards if shard not in todo)
    with Progress("download", sum(map(num_rows, plan.shards)), unit="images") as progress:
        progress.begin(before.get("images", 0))
        if todo:
            _run(todo, out, lists, config, ray, progress, before)
    return settle(out, plan)


def _lists(out: Path, paths: Sequence[Path], config: DownloadConfig, ray: RayConfig) -> list[AnyList]:
    """What rows come from, pictures that are there before what is to be fetched, so that it is not fetched."""
    if not config.urls and not config.pictures:
        raise InputError("download.urls: no URL list is given; add one with its path")
    urls, pictures = paths[: len(config.urls)], paths[len(config.urls) :]
    lists = [known.model_copy(update={"path": path}) for known, path in zip(config.urls, urls, strict=True)]
    found = [one.model_copy(update={"path": path}) for one, path in zip(config.pictures, pictures, strict=True)]
    return [*(PictureRows(one, out / INDEX, ray) for one in found), *lists]


def _run(
    todo: list[Path],
    out: Path,
    lists: list[AnyList],
    config: DownloadConfig,
    ray: RayConfig,
    progress: Progress,
    before: dict[str, int],
) -> None:
    """Download the shards `todo`, one worker a shard, through the proxies that this process's environment names."""
    proxies = Proxies.of_environment() if config.use_proxies else Proxies()
    pool = _pool(ray, len(todo))
    items = [Shard(str(shard.absolute()), str((out / shard.name).absolute())) for shard in todo]

    def take(shard: Shard) -> None:
        fetched(Path(shard.part))  # of a run on a store, what another machine has made

    with ExitStack() as stack:
        served = [one for one in lists if isinstance(one, UrlList)]
        work = partial(ShardDownload, config, serve_lists(served, stack), proxies)
        run_items("download", items, work, pool, take, progress, before)


def _pool(ray: RayConfig, num_shards: int) -> Pool:
    """The workers for this many shards: this process, or as many workers of Ray's as its CPUs carry."""
    if works_here(ray, num_shards):
        return HERE
    connect(ray)
    return Pool(num_workers(ray, 0, cpus_each=1, at_most=num_shards))


def serve_lists(lists: Sequence[UrlList], stack: ExitStack) -> frozenset[str]:
    """Start a loopback web server for each list with `serve`; returns their hosts, "127.0.0.1:PORT".

    The servers stop when `stack` closes.
    """
    return frozenset(stack.enter_context(_serve(urls)) for urls in lists if urls.serve)


def _serve(urls: UrlList) -> AbstractContextManager[str]:
    """A web server on 127.0.0.1 for the folder of one list. Raises RunFailed where workers are on other machines."""
    if (nodes := num_nodes()) > 1:
        raise RunFailed(
            f"{urls.path}: serve reaches workers on this machine alone, the cluster has {nodes} nodes; "
            "use --ray local, or put the folder on a web server"
        )
    assert urls.serve is not None
    return serve_folder(urls.serve, urls.serve_port)


@dataclass(frozen=True)
class Shard:
    """One item of the download: the path of a file of URLs (`rows`), and of the file of their images (`part`)."""

    rows: str
    part: str


class ShardDownload:
    """What a worker runs: downloads shards one after another, writes their parts, and counts rows in a tally."""

    def __init__(
        self, config: DownloadConfig, own_hosts: frozenset[str], proxies: Proxies | None = None, *, tally: Counts
    ) -> None:
        self._config, self._own_hosts, self._proxies, self._tally = config, own_hosts, proxies, tally

    def __call__(self, shard: Shard) -> Iterator[Shard]:
        """Write the part of `shard` unless it is there: Ray repeats a finished task whose result was lost."""
        part = Path(shard.part)
        if not is_there(part):
            with WebStore(self._config) as store:
                self._fetch(read_parquet(Path(shard.rows)).to_pylist(), part, store)
        yield shard

    def _fetch(self, listed: list[Row], part: Path, store: WebStore) -> None:
        rows: list[Row] = []
        seen: Counter[str] = Counter()
        fetched = fetch_rows(
            [one for one in listed if not is_brought(one)], self._config, self._own_hosts, store, self._proxies
        )
        for row in with_pictures(listed, fetched, self._config):
            rows.append(row)
            seen.update(["images", row["status"], *([row["error_class"]] if row["error_class"] else [])])
            if len(rows) % TALLY_EVERY_ROWS == 0:
                self._tally.put(str(part), dict(seen))
        write_parquet(part, rows_to_table(rows, IMAGES), IMAGES)
        self._tally.put(str(part), dict(seen))


def with_pictures(listed: list[Row], fetched: Iterator[Row], config: DownloadConfig) -> Iterator[Row]:
    """Rows of the table `images` in the order of the shard's: those that are `fetched`, and pictures that are there."""
    there = [one for one in listed if is_brought(one)]
    if not there:
        yield from fetched
        return
    with BroughtStore(config) as store:
        brought = bring_rows(there, config.pictures, store, config.max_bytes)
        for one in listed:
            yield next(brought if is_brought(one) else fetched)


def fetch_rows(
    rows: list[Row],
    config: DownloadConfig,
    own_hosts: frozenset[str],
    store: WebStore,
    proxies: Proxies | None = None,
) -> Iterator[Row]:
    """Download rows of the table `shard`; yields rows of the table `images`, in the same order.

    `config.num_threads` threads fetch while the child process of `store` decodes and resizes. At most twice as many
    rows are fetched ahead of being resized, which bounds memory. A row that is done waits for those before it: a slow
    server holds back the output, not the other downloads.
    """
    ready, at = dict[int, Row](), 0
    with ThreadPoolExecutor(config.num_threads, thread_name_prefix="fetch") as pool:
        for place, fetched in _as_they_come(rows, pool, config, own_hosts, proxies):
            row = rows[place]
            ready[place] = _finish(row, fetched, store) if fetched else {**_EMPTY, **row}
            while at in ready:
                yield ready.pop(at)
                at += 1


def _as_they_come(
    rows: list[Row],
    pool: ThreadPoolExecutor,
    config: DownloadConfig,
    own_hosts: frozenset[str],
    proxies: Proxies | None,
) -> Iterator[tuple[int, Fetched | None]]:
    """The index of each row and what was fetched, as downloads end; None for a row rejected before any fetch."""
    done: SimpleQueue[Future[tuple[int, Fetched]]] = SimpleQueue()

    def fetch_one(place: int) -> tuple[int, Fetched]:
        return place, fetch(rows[place]["url"], config, own_hosts, proxies)

    num_held = 0
    for place, row in enumerate(rows):
        if row["status"] is not None:
            yield place, None
            continue
        if num_held == 2 * config.num_threads:
            yield done.get().result()
            num_held -= 1
        pool.submit(fetch_one, place).add_done_callback(done.put)
        num_held += 1
    for _ in range(num_held):
        yield done.get().result()


_EMPTY: Row = dict.fromkeys(IMAGES.schema.names)


def _finish(row: Row, fetched: Fetched, store: WebStore) -> Row:
    """The row of the table `images`: with its picture, or with the error class and message why it has none."""
    row = {**_EMPTY, **row}
    if fetched.body is None:
        failure = {"error_class": fetched.error_class, "error_message": fetched.error_message}
        return row | {"status": "failed_to_download"} | failure
    row["sha256"] = hashlib.sha256(fetched.body).hexdigest()
    try:
        columns, jpg = store(fetched.body)
    except PictureError as error:
        message = f"{error.message} (Content-Type {fetched.content_type or 'not given'})"
        return row | {"status": "failed_to_resize", "error_class": error.error_class, "error_message": message}
    return row | {"status": "success"} | columns | {"jpg": jpg}


def _count(parts: Iterator[Path]) -> dict[str, int]:
    """The number of rows in finished parts: all (`images`), by status, and by error class."""
    counts: Counter[str] = Counter()
    for part in parts:
        table = read_parquet(part, ["status", "error_class"])
        counts["images"] += len(table)
        for column in table.columns:
            counts.update({entry["values"]: entry["counts"] for entry in column.drop_null().value_counts().to_pylist()})
    return dict(counts)
