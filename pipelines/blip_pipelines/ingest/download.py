"""The download step: URL lists in, the table `images` out, one row for each row of the lists."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
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
from blip_pipelines.cluster.items import HERE, Pool, run_items
from blip_pipelines.cluster.resources import num_nodes, num_workers, works_here
from blip_pipelines.cluster.session import connect
from blip_pipelines.cluster.tally import Counts
from blip_pipelines.fetch.fetch import Fetched, fetch
from blip_pipelines.fetch.kept import Connections
from blip_pipelines.fetch.local_server import serve_folder
from blip_pipelines.fetch.proxies import Proxies
from blip_pipelines.ingest.accounts import settle
from blip_pipelines.ingest.pictures import WebStore
from blip_pipelines.ingest.plan import plan_parts, plan_repair
from blip_pipelines.ingest.stats import write_stats
from blip_pipelines.ingest.url_lists import num_rows
from blip_training.data.decode import PictureError
from blip_training.data.picture_processes import Answer

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
    lists = _lists(urls, config)
    plan = plan_repair(out, lists, config, kin) or plan_parts(out, lists, config, kin, retry)
    todo = [shard for shard in plan.shards if not (out / shard.name).exists()]
    before = _count(out / shard.name for shard in plan.shards if shard not in todo)
    with Progress("download", sum(map(num_rows, plan.shards)), unit="images") as progress:
        progress.begin(before.get("images", 0))
        if todo:
            _run(todo, out, lists, config, ray, progress, before)
    return settle(out, plan)


def _lists(urls: Sequence[Path], config: DownloadConfig) -> list[UrlList]:
    if not config.urls:
        raise InputError("download.urls: no URL list is given; add one with its path")
    return [known.model_copy(update={"path": path}) for known, path in zip(config.urls, urls, strict=True)]


def _run(
    todo: list[Path],
    out: Path,
    lists: list[UrlList],
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
        work = partial(ShardDownload, config, serve_lists(lists, stack), proxies)
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
        started = time.time()
        for row in fetch_rows(listed, self._config, self._own_hosts, store, self._proxies):
            rows.append(row)
            seen.update(["images", row["status"], *([row["error_class"]] if row["error_class"] else [])])
            if len(rows) % TALLY_EVERY_ROWS == 0:
                self._tally.put(str(part), dict(seen))
        write_parquet(part, rows_to_table(rows, IMAGES), IMAGES)
        write_stats(part, seen, started, time.time())
        self._tally.put(str(part), dict(seen))


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
    with Connections() as kept, ThreadPoolExecutor(config.num_threads, thread_name_prefix="fetch") as pool:
        ask = partial(fetch, config=config, own_hosts=own_hosts, proxies=proxies, kept=kept)
        for place, row in _as_they_come(rows, pool, ask, store, 2 * config.num_threads):
            ready[place] = row
            while at in ready:
                yield ready.pop(at)
                at += 1


@dataclass(frozen=True)
class _Done:
    """A row that was fetched: `stored` has the picture's columns and bytes, or raises why it has none."""

    place: int
    row: Row
    content_type: str = ""
    stored: Future[Answer] | None = None


def _as_they_come(
    rows: list[Row], pool: ThreadPoolExecutor, ask: Callable[[str], Fetched], store: WebStore, most: int
) -> Iterator[tuple[int, Row]]:
    """The index of each row and its row of the table `images`, as they are done; a rejected row is not fetched.

    At most `most` are in work, or done and not taken. The thread that has fetched a picture gives it to the decoder,
    so that the decoder never waits for this one.
    """
    done: SimpleQueue[_Done | BaseException] = SimpleQueue()

    def work(place: int) -> None:
        try:
            _fetch_row(place, {**_EMPTY, **rows[place]}, ask, store, done.put)
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            done.put(error)

    num_held = 0
    for place, row in enumerate(rows):
        if row["status"] is not None:
            yield place, {**_EMPTY, **row}
            continue
        if num_held == most:
            yield _finish(done.get())
            num_held -= 1
        pool.submit(work, place)
        num_held += 1
    for _ in range(num_held):
        yield _finish(done.get())


_EMPTY: Row = dict.fromkeys(IMAGES.schema.names)


def _fetch_row(
    place: int, row: Row, ask: Callable[[str], Fetched], store: WebStore, put: Callable[[_Done], None]
) -> None:
    """Fetch a row and give its picture to the decoder; `put` takes it when that is done."""
    fetched = ask(row["url"])
    if fetched.body is None:
        failure = {"error_class": fetched.error_class, "error_message": fetched.error_message}
        put(_Done(place, row | {"status": "failed_to_download"} | failure))
        return
    row["sha256"] = hashlib.sha256(fetched.body).hexdigest()
    stored = store.submit(fetched.body)
    stored.add_done_callback(lambda _: put(_Done(place, row, fetched.content_type, stored)))


def _finish(done: _Done | BaseException) -> tuple[int, Row]:
    """The row of the table `images`: with its picture, or with the error class and message why it has none."""
    if isinstance(done, BaseException):
        raise done
    if done.stored is None:
        return done.place, done.row
    try:
        columns, jpg = done.stored.result()
    except PictureError as error:
        message = f"{error.message} (Content-Type {done.content_type or 'not given'})"
        failure = {"status": "failed_to_resize", "error_class": error.error_class, "error_message": message}
        return done.place, done.row | failure
    return done.place, done.row | {"status": "success"} | columns | {"jpg": jpg}


def _count(parts: Iterator[Path]) -> dict[str, int]:
    """The number of rows in finished parts: all (`images`), by status, and by error class."""
    counts: Counter[str] = Counter()
    for part in parts:
        table = read_parquet(part, ["status", "error_class"])
        counts["images"] += len(table)
        for column in table.columns:
            counts.update({entry["values"]: entry["counts"] for entry in column.drop_null().value_counts().to_pylist()})
    return dict(counts)
