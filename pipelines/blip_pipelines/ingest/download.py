"""The download step: URL lists in, the table `images` out, one row for each row of the lists (Ray Data)."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pyarrow as pa

from blip_bootstrap.config import DownloadConfig, RayConfig, UrlList
from blip_bootstrap.errors import AccountingError, InputError, RunFailed
from blip_bootstrap.progress import Progress
from blip_bootstrap.storage.parquet import open_parquet, parquet_files, read_parquet, rows_to_table, write_parquet
from blip_bootstrap.storage.tables import IMAGES
from blip_pipelines.cluster.errors import errors_in_one_line
from blip_pipelines.cluster.resources import num_workers, works_here
from blip_pipelines.cluster.session import connect, quiet_data
from blip_pipelines.cluster.tally import RemoteTally, Tally, shown, start_tally
from blip_pipelines.ingest.fetch import Fetched, fetch
from blip_pipelines.ingest.local_server import serve_folder
from blip_pipelines.ingest.pictures import WebStore
from blip_pipelines.ingest.proxies import Proxies
from blip_pipelines.ingest.url_lists import write_shards
from blip_training.data.decode import PictureError

LISTS = ".lists"

TALLY_EVERY_ROWS = 25

Row = dict[str, Any]


def download_images(out: Path, *urls: Path, config: DownloadConfig, ray: RayConfig) -> dict[str, int | float | str]:
    """Fetch and resize the images of the URL lists `urls`, which are those of `config.urls` in order.

    Writes one `part-NNNNN.parquet` (table `images`) for each shard of `config.rows_per_shard` rows; parts that are in
    `out` already are kept. Returns rows, the number by status, the failed ones by error class, and texts stored cut.
    Raises InputError for lists that cannot be read, AccountingError where a row got lost.
    """
    lists = _lists(urls, config)
    shards = _cut(lists, out, config)
    todo = [shard for shard in shards if not (out / shard.name).exists()]
    before = _count(out / shard.name for shard in shards if shard not in todo)
    total = sum(_num_rows(shard) for shard in shards)
    with Progress("download", total, unit="images") as progress:
        progress.begin(before.get("images", 0))
        if todo:
            _run(todo, out, lists, config, ray, progress, before)
    counts = _check(shards, out, total)
    shutil.rmtree(out / LISTS)
    return counts


def _lists(urls: Sequence[Path], config: DownloadConfig) -> list[UrlList]:
    if not config.urls:
        raise InputError("download.urls: no URL list is given; add one with its path")
    return [known.model_copy(update={"path": path}) for known, path in zip(config.urls, urls, strict=True)]


def _cut(lists: list[UrlList], out: Path, config: DownloadConfig) -> list[Path]:
    """The shards of the lists, cut once; a folder that was not cut to its end is begun anew."""
    folder, cutting = out / LISTS, out / f"{LISTS}.tmp"
    if not folder.exists():
        shutil.rmtree(cutting, ignore_errors=True)
        cutting.mkdir(parents=True)
        if not write_shards(lists, cutting, config.rows_per_shard, config.limit, config.max_text_chars):
            raise InputError(f"{', '.join(str(urls.path) for urls in lists)}: no rows")
        cutting.rename(folder)
    return parquet_files(folder)


def _run(
    todo: list[Path],
    out: Path,
    lists: list[UrlList],
    config: DownloadConfig,
    ray_config: RayConfig,
    progress: Progress,
    before: dict[str, int],
) -> None:
    """Fetch the shards `todo`, each one Ray task; without Ray one after the other, as a single one always is.

    The proxies are those of this process's environment: a cluster's workers were started elsewhere.
    """
    proxies = Proxies.of_environment() if config.use_proxies else Proxies()
    if works_here(ray_config, len(todo)):
        _run_here(todo, out, lists, config, proxies, progress, before)
        return
    connect(ray_config)
    import ray

    quiet_data()
    tally = start_tally()
    with ExitStack() as stack:
        own_hosts = serve_lists(lists, stack)
        stack.enter_context(errors_in_one_line("download"))
        stack.enter_context(shown(progress, tally, before))
        items = [{"shard": str(shard.absolute()), "part": str((out / shard.name).absolute())} for shard in todo]
        fetched = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            partial(fetch_shards, config=config, own_hosts=own_hosts, tally=tally, proxies=proxies),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.TaskPoolStrategy(size=num_workers(ray_config, 0, cpus_each=1, at_most=len(items))),
        )
        for _ in fetched.iter_rows():
            pass


def _run_here(
    todo: list[Path], out: Path, lists: list[UrlList], config: DownloadConfig, proxies: Proxies, progress: Progress,
    before: dict[str, int],
) -> None:  # fmt: skip
    tally = Tally()
    with ExitStack() as stack:
        own_hosts = serve_lists(lists, stack)
        stack.enter_context(shown(progress, tally, before))
        for shard in todo:
            item = pa.Table.from_pylist([{"shard": str(shard), "part": str(out / shard.name)}])
            fetch_shards(item, config, own_hosts, tally, proxies)


def serve_lists(lists: Sequence[UrlList], stack: ExitStack) -> frozenset[str]:
    """Serve the folders of the lists that have one until `stack` closes; their hosts, "127.0.0.1:PORT"."""
    return frozenset(stack.enter_context(_serve(urls)) for urls in lists if urls.serve)


def _serve(urls: UrlList) -> AbstractContextManager[str]:
    """The loopback server of one list's folder. Raises RunFailed where workers are on other machines."""
    ray = sys.modules.get("ray")  # absent where the run does without it
    num_nodes = sum(node["Alive"] for node in ray.nodes()) if ray and ray.is_initialized() else 1
    if num_nodes > 1:
        raise RunFailed(
            f"{urls.path}: serve reaches workers on this machine alone, the cluster has {num_nodes} nodes; "
            "use --ray local, or put the folder on a web server"
        )
    assert urls.serve is not None
    return serve_folder(urls.serve, urls.serve_port)


def fetch_shards(
    batch: pa.Table,
    config: DownloadConfig,
    own_hosts: frozenset[str],
    tally: Tally | RemoteTally | None = None,
    proxies: Proxies | None = None,
) -> pa.Table:
    """Fetch the shards named in `batch` (columns `shard`, `part`: paths) and write their parts; returns `batch`.

    A part that is there is kept: Ray runs a finished task again where its answer was on a node that is lost.
    """
    todo = [item for item in batch.to_pylist() if not Path(item["part"]).exists()]
    if not todo:
        return batch
    with WebStore(config) as store:
        for item in todo:
            _fetch_shard(Path(item["shard"]), Path(item["part"]), config, own_hosts, store, proxies, tally)
    return batch


def _fetch_shard(
    shard: Path,
    part: Path,
    config: DownloadConfig,
    own_hosts: frozenset[str],
    store: WebStore,
    proxies: Proxies | None,
    tally: Tally | RemoteTally | None,
) -> None:
    rows: list[Row] = []
    seen: Counter[str] = Counter()
    for row in fetch_rows(read_parquet(shard).to_pylist(), config, own_hosts, store, proxies):
        rows.append(row)
        seen.update(_outcome(row["status"], row["error_class"]))
        if tally is not None and len(rows) % TALLY_EVERY_ROWS == 0:
            tally.put(str(part), dict(seen))
    write_parquet(part, rows_to_table(rows, IMAGES), IMAGES)
    if tally is not None:
        tally.put(str(part), dict(seen))


def fetch_rows(
    rows: list[Row],
    config: DownloadConfig,
    own_hosts: frozenset[str],
    store: WebStore,
    proxies: Proxies | None = None,
) -> Iterator[Row]:
    """Rows of the table `shard` as rows of the table `images`, in order.

    Threads fetch; the child process of `store` decodes and resizes meanwhile. At most twice `config.num_threads` bodies
    are held. A row that has its picture waits for those before it, so that a slow page keeps no other from being
    fetched.
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
    """The place of each row and what came of its URL, the first to come first; None where there was none to fetch."""
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
    """The row with its picture, or with why it has none."""
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


def _outcome(status: str, error_class: str | None) -> list[str]:
    """The counters that a row moves."""
    return ["images", status, *([error_class] if error_class else [])]


def _num_rows(path: Path) -> int:
    with open_parquet(path) as file:
        return int(file.metadata.num_rows)


def _count(parts: Iterator[Path]) -> dict[str, int]:
    """Rows of finished parts by outcome."""
    counts: Counter[str] = Counter()
    for part in parts:
        table = read_parquet(part, ["status", "error_class"])
        counts["images"] += len(table)
        for column in table.columns:
            counts.update({entry["values"]: entry["counts"] for entry in column.drop_null().value_counts().to_pylist()})
    return dict(counts)


def _check(shards: list[Path], out: Path, total: int) -> dict[str, int | float | str]:
    """The counts by outcome of all parts. Raises AccountingError where a part has not the rows of its shard."""
    for shard in shards:
        rows, made = _num_rows(shard), _num_rows(out / shard.name)
        if rows != made:
            raise AccountingError(f"{out / shard.name}: {made} rows for {rows} of the list; delete it and run again")
    counts = _count(out / shard.name for shard in shards)
    if counts["images"] != total:
        raise AccountingError(f"{out}: {counts['images']} rows for {total} of the lists; delete it and run again")
    found: dict[str, int | float | str] = {
        "rows": total,
        **{name: count for name, count in counts.items() if name != "images"},
    }
    if num_cut := sum(_num_cut(out / shard.name) for shard in shards):
        found["texts_too_long"] = num_cut
    return found


def _num_cut(part: Path) -> int:
    """Texts that were stored cut; a part of an earlier version has none."""
    table = read_parquet(part, ["cut_from_chars"])
    return sum(len(column) - int(column.null_count) for column in table.columns)
