"""Rows of the lists to rows of the table `images`: fetched host by host in turn, decoded, resized."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from blip_bootstrap.config import DownloadConfig
from blip_bootstrap.storage.tables import IMAGES
from blip_pipelines.fetch.courtesy import Courtesy
from blip_pipelines.fetch.directives import Said
from blip_pipelines.fetch.fetch import Fetched, try_once
from blip_pipelines.fetch.proxies import Proxies
from blip_pipelines.fetch.turns import Fetching, Task, Turns
from blip_pipelines.ingest.copies import is_copy
from blip_pipelines.ingest.pictures import WebStore
from blip_training.data.decode import PictureError

Row = dict[str, Any]

NO_PICTURE: Row = dict.fromkeys(IMAGES.schema.names)
"""A row of the table `images` of nulls."""


def fetch_rows(
    rows: list[Row],
    config: DownloadConfig,
    own_hosts: frozenset[str],
    store: WebStore,
    proxies: Proxies | None = None,
    courtesy: Courtesy | None = None,
) -> Iterator[Row]:
    """Download rows of the table `shard`; yields rows of the table `images`, in the same order.

    `config.num_threads` threads fetch, host by host in turn, as fast as `courtesy` lets them, while the child process
    of `store` decodes and resizes. At most twice as many rows are fetched ahead of being resized, which bounds memory.
    A row that is done waits for those before it: a slow server holds back the output, not the other downloads. Rows
    that name another in `same_as` come as they are, to be copied (`copies.py`).
    """
    found = rows_or_word(rows, config, own_hosts, store, proxies, courtesy)
    return (row for row in found if row is not None)


def rows_or_word(
    rows: list[Row],
    config: DownloadConfig,
    own_hosts: frozenset[str],
    store: WebStore,
    proxies: Proxies | None = None,
    courtesy: Courtesy | None = None,
) -> Iterator[Row | None]:
    """As `fetch_rows`, and None each time that a row was done which waits for others, or a second was waited for hosts.

    So whoever takes the rows can tell waiting from a row that hangs.
    """
    if proxies is None:
        proxies = Proxies.of_environment() if config.use_proxies else Proxies()
    courtesy = courtesy or Courtesy(config, own_hosts, proxies)
    ready, at = dict[int, Row](), 0
    for done in _as_they_come(rows, config, own_hosts, proxies, courtesy):
        if done is not None:
            place, result = done
            ready[place] = _finish(rows[place], result, store) if result else {**NO_PICTURE, **rows[place]}
        if at not in ready:
            yield None
        while at in ready:
            yield ready.pop(at)
            at += 1


def _as_they_come(
    rows: list[Row], config: DownloadConfig, own_hosts: frozenset[str], proxies: Proxies, courtesy: Courtesy
) -> Iterator[tuple[int, Fetched | None] | None]:
    """The index of each row and what was fetched, as downloads end; no result for a row rejected before any fetch."""
    wanted = [row["status"] is None and not is_copy(row) for row in rows]
    yield from ((place, None) for place, is_wanted in enumerate(wanted) if not is_wanted)
    urls = [(place, row["url"]) for place, row in enumerate(rows) if wanted[place]]
    tasks = (Task(place, url, courtesy.host_of(url)) for place, url in urls)

    def ask(task: Task) -> Fetched:
        return try_once(task.url, config, own_hosts, proxies, courtesy)

    threads, turns = min(config.num_threads, len(urls)), Turns(tasks, courtesy.hosts)
    with Fetching(turns, ask, threads, config.num_retries, config.host_patience_s) as fetching:
        yield from fetching.results()


def _finish(row: Row, fetched: Fetched, store: WebStore) -> Row:
    """The row of the table `images`: with its picture, or with the error class and message why it has none."""
    row = {**NO_PICTURE, **row} | _said(fetched.said)
    if fetched.body is None:
        failure = {"error_class": fetched.error_class, "error_message": fetched.error_message}
        return _with_attempts(row | {"status": "failed_to_download"} | failure, fetched)
    row["sha256"] = hashlib.sha256(fetched.body).hexdigest()
    try:
        columns, jpg = store(fetched.body)
    except PictureError as error:
        message = f"{error.message} (Content-Type {fetched.content_type or 'not given'})"
        failure = {"error_class": error.error_class, "error_message": message}
        return _with_attempts(row | {"status": "failed_to_resize"} | failure, fetched)
    return _with_attempts(row | {"status": "success"} | columns | {"jpg": jpg}, fetched)


def _said(said: Said) -> Row:
    """What a host said about a URL, as columns."""
    return {"said_at" if name == "at" else name: value for name, value in vars(said).items()}


def _with_attempts(row: Row, fetched: Fetched) -> Row:
    """The row with the tries at it after those of earlier runs; the last of them ended as the row did."""
    tries: list[Row] = [vars(one) | {"status": "failed_to_download"} for one in fetched.tries]
    for last in tries[-1:]:
        last |= {"status": row["status"], "error_class": row["error_class"]}
    return row | {"attempts": [*(row["attempts"] or []), *tries] or None}
