"""The download step: URL lists in, the table `images` out, one row for each row of the lists."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from blip_bootstrap.config import DownloadConfig, RayConfig, UrlList
from blip_bootstrap.errors import RunFailed
from blip_bootstrap.progress import Progress
from blip_bootstrap.storage.manifest import KnownParts
from blip_bootstrap.storage.notes import total, values
from blip_bootstrap.storage.parquet import read_parquet
from blip_bootstrap.stores.store import gone, is_there
from blip_pipelines.bring.read import is_brought
from blip_pipelines.cluster.items import HERE, RETRIES, Pool, Work, run_items
from blip_pipelines.cluster.resources import num_nodes, num_workers, works_here
from blip_pipelines.cluster.session import connect
from blip_pipelines.cluster.tally import Counts
from blip_pipelines.failures import tries
from blip_pipelines.failures.aside import Aside, Died
from blip_pipelines.failures.limits import Limits, Watch
from blip_pipelines.fetch.courtesy import Courtesy, Shared
from blip_pipelines.fetch.local_server import serve_folder
from blip_pipelines.fetch.proxies import Proxies
from blip_pipelines.ingest.accounts import settle
from blip_pipelines.ingest.brought import lists_of, with_pictures
from blip_pipelines.ingest.copies import WAITING, Row
from blip_pipelines.ingest.fetched_rows import NO_PICTURE, rows_or_word
from blip_pipelines.ingest.pictures import WebStore
from blip_pipelines.ingest.respect import shared_folder, tell_of_contact, tell_of_lost
from blip_pipelines.ingest.shard_parts import TOO_LONG, Shard, write_part
from blip_pipelines.lists.plan import plan_parts, plan_repair
from blip_pipelines.lists.url_lists import AnyList

CAREFUL_PATIENCE_S = 10.0
"""Seconds that they may wait for slow hosts in such a process, which is taken for one that hangs after some more."""

CAREFUL_ROWS = 64
"""Rows that a child process fetches together where workers have died of their shard."""

WORKER_BYTES = 1_500_000_000
"""A worker is taken to need so much until the first shard is done: 10,000 pictures, as fetched and in a table."""


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
    (`texts_too_long`), and of work that was done again after a worker's death (`retries`). Raises InputError for a list
    that cannot be read, and where there is nothing to try again, AccountingError where a row is missing or there twice.
    """
    lists = lists_of(out, urls, config, ray)
    plan = plan_repair(out, lists, config, kin) or plan_parts(out, lists, config, kin, retry)
    todo = [shard for shard in plan.shards if not (out / shard.name).exists()]
    names, known = {shard.name for shard in todo}, KnownParts()
    before = _count((out / shard.name for shard in plan.shards if shard.name not in names), known)
    with Progress("download", sum(map(known.rows, plan.shards)), unit="images") as progress:
        progress.begin(before.get("images", 0))
        retries = _run(todo, out, lists, config, ray, progress, before) if todo else 0
    return settle(out, plan) | ({RETRIES: retries} if retries else {})


def _run(
    todo: list[Path],
    out: Path,
    lists: list[AnyList],
    config: DownloadConfig,
    ray: RayConfig,
    progress: Progress,
    before: dict[str, int],
) -> int:
    """Download the shards `todo`, one worker a shard, through the proxies that this process's environment names.

    Returns how often work was done again after a death.
    """
    proxies = Proxies.of_environment() if config.use_proxies else Proxies()
    pool = _pool(ray, len(todo))
    items = [Shard(str(shard.absolute()), str((out / shard.name).absolute())) for shard in todo]

    def take(shard: Shard) -> None:
        """Nothing is read here of what a worker has made."""

    served = [one for one in lists if isinstance(one, UrlList)]
    tell_of_contact(config, served)
    with ExitStack() as stack:
        known = config, serve_lists(served, stack), proxies, limits_of(config, ray)
        shared = Shared(stack.enter_context(shared_folder(out)), 1 if pool == HERE else num_nodes())
        stack.callback(tell_of_lost, config, shared)
        carefully, work = partial(CarefulDownload, *known, shared=shared), partial(ShardDownload, *known, shared=shared)

        def run(items: Sequence[Shard], work: Work[Shard, Shard]) -> int:
            return run_items("download", items, work, pool, take, progress, before, carefully)

        def run_all(items: Sequence[Shard]) -> int:
            if pool != HERE:
                return run(items, work)
            suspects = [item for item in items if tries.is_suspect(Path(item.part))]
            retries = run([item for item in items if item not in suspects], partial(work, noted=True))
            return retries + (run(suspects, carefully) if suspects else 0)

        retries = run_all(items)
        if waiting := [item for item in items if not is_there(Path(item.part))]:
            retries += run_all([replace(item, is_last=True) for item in waiting])
    gone(out / WAITING)
    return retries


def limits_of(config: DownloadConfig, ray: RayConfig) -> Limits:
    """A row hangs after its own timeouts, those of a proxy's or a redirect's included, and the worker's beside."""
    limits = Limits.of(ray)
    return replace(limits, row_timeout_s=limits.row_timeout_s + 2 * (1 + config.num_retries) * config.timeout_s)


def _pool(ray: RayConfig, num_shards: int) -> Pool:
    """The workers for this many shards: this process, or as many workers of Ray's as its CPUs carry."""
    if works_here(ray, num_shards):
        return HERE
    connect(ray)
    return Pool(num_workers(ray, 0, cpus_each=1, at_most=num_shards)).with_memory(ray, WORKER_BYTES)


def serve_lists(lists: Sequence[UrlList], stack: ExitStack) -> frozenset[str]:
    """Start a loopback web server for each list with `serve`; returns their hosts, "127.0.0.1:PORT".

    The servers stop when `stack` closes. Ports are taken in their order: two runs that wait for each other would never
    end.
    """
    served = sorted((urls for urls in lists if urls.serve), key=lambda urls: urls.serve_port)
    return frozenset(stack.enter_context(_serve(urls)) for urls in served)


def _serve(urls: UrlList) -> AbstractContextManager[str]:
    """A web server on 127.0.0.1 for the folder of one list. Raises RunFailed where workers are on other machines."""
    if (nodes := num_nodes()) > 1:
        raise RunFailed(
            f"{urls.path}: serve reaches workers on this machine alone, the cluster has {nodes} nodes; "
            "use --ray local, or put the folder on a web server"
        )
    assert urls.serve is not None
    return serve_folder(urls.serve, urls.serve_port)


class ShardDownload:
    """What a worker runs: downloads shards one after another, writes their parts, and counts rows in a tally.

    `noted`: nobody watches this process, and a note beside each part says that it is at work (`failures/tries.py`).
    """

    def __init__(
        self,
        config: DownloadConfig,
        own_hosts: frozenset[str],
        proxies: Proxies | None = None,
        limits: Limits | None = None,
        noted: bool = False,
        shared: Shared | None = None,
        *,
        tally: Counts,
    ) -> None:
        self._config, self._own_hosts, self._proxies, self._tally = config, own_hosts, proxies, tally
        self._limits, self._noted = limits or Limits(), noted
        self._courtesy = Courtesy(config, own_hosts, proxies, shared)

    def __call__(self, shard: Shard) -> Iterator[Shard]:
        """Write the part of `shard` unless it is there: Ray repeats a finished task whose result was lost."""
        part = Path(shard.part)
        if not is_there(part):
            if self._noted:
                tries.begin(part)
            try:
                write_part(shard, self._rows, self._tally, self._courtesy)
            finally:
                if self._noted:
                    tries.end(part)
        yield shard

    def _rows(self, listed: list[Row]) -> Iterator[tuple[Row, int]]:
        """The rows of the table `images`; this process ends where one hangs."""
        with WebStore(self._config) as store, Watch("download", self._limits).watching() as watch:
            rows = all_rows(listed, self._config, self._own_hosts, store, self._proxies, self._courtesy)
            num_left = len(listed)
            while num_left:
                with watch.batch(1):
                    row = next(rows)  # None: it is alive, and waits for a host
                if row is not None:
                    num_left -= 1
                    yield row, 0


class CarefulDownload:
    """Downloads shards as ShardDownload does, in a child process that a row may kill: that one gets its reason."""

    def __init__(
        self,
        config: DownloadConfig,
        own_hosts: frozenset[str],
        proxies: Proxies | None = None,
        limits: Limits | None = None,
        shared: Shared | None = None,
        *,
        tally: Counts,
    ) -> None:
        quick = config.model_copy(update={"host_patience_s": min(config.host_patience_s, CAREFUL_PATIENCE_S)})
        self._aside = Aside("download", partial(fetching, (quick, own_hosts, proxies, shared)), limits or Limits())
        self._tally, self._courtesy = tally, Courtesy(config, own_hosts, proxies, shared)

    def __call__(self, shard: Shard) -> Iterator[Shard]:
        """Write the part of `shard` unless it is there."""
        part = Path(shard.part)
        if not is_there(part):
            write_part(shard, self._rows, self._tally, self._courtesy)
            tries.end(part)
        yield shard

    def _rows(self, listed: list[Row]) -> Iterator[tuple[Row, int]]:
        before = self._aside.num_deaths
        for batch, made in self._aside.each(listed, CAREFUL_ROWS):
            for row in [_dead(batch[0], made)] if isinstance(made, Died) else made:
                yield row, self._aside.num_deaths - before


def fetching(
    known: tuple[DownloadConfig, frozenset[str], Proxies | None, Shared | None],
) -> Callable[[list[Row]], list[Row]]:
    """In the child: the function that downloads rows of the table `shard`."""
    config, own_hosts, proxies, shared = known
    store, courtesy = WebStore(config), Courtesy(config, own_hosts, proxies, shared)
    return lambda rows: [one for one in all_rows(rows, config, own_hosts, store, proxies, courtesy) if one is not None]


def all_rows(
    rows: list[Row],
    config: DownloadConfig,
    own_hosts: frozenset[str],
    store: WebStore,
    proxies: Proxies | None,
    courtesy: Courtesy,
) -> Iterator[Row | None]:
    """Rows of the table `shard` as those of `images`, in order: fetched, or read where the picture is there already.

    None, as `rows_or_word` has it, is a word that a row is waited for.
    """
    urls = [one for one in rows if not is_brought(one)]
    return with_pictures(rows, rows_or_word(urls, config, own_hosts, store, proxies, courtesy), config)


def _dead(row: Row, died: Died) -> Row:
    """The row of the table `images` of one that kills whoever fetches it."""
    return {**NO_PICTURE, **row, "status": "failed_to_download", "error_class": died.reason, "error_message": str(died)}


def _count(parts: Iterator[Path], known: KnownParts) -> dict[str, int]:
    """The number of rows in finished parts: all (`images`), by status, and by error class."""
    found = total([note.counts if (note := known(part)) else _counts_of(part) for part in parts])
    return {name: number for name, number in found.items() if name != TOO_LONG}


def _counts_of(part: Path) -> dict[str, int]:
    table = read_parquet(part, ["status", "error_class"])
    return total([{"images": len(table)}, *map(values, table.columns)])
