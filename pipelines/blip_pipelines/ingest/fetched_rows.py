"""Rows of the lists to rows of the table `images`: fetched host by host in turn, decoded, resized."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from blip_bootstrap.config import DownloadConfig
from blip_bootstrap.schemas.tables import IMAGES
from blip_pipelines.fetch.answers import Fetched
from blip_pipelines.fetch.courtesy import Courtesy
from blip_pipelines.fetch.directives import Said
from blip_pipelines.fetch.fetch import try_once
from blip_pipelines.fetch.kept import Connections
from blip_pipelines.fetch.proxies import Proxies
from blip_pipelines.fetch.turns import Fetching, Task, Turns
from blip_pipelines.ingest.copies import is_copy
from blip_pipelines.ingest.digests import wrong_digest
from blip_pipelines.ingest.pictures import WebStore
from blip_training.data.decode import PictureError
from blip_training.data.picture_child import Answer

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
    for done in _as_they_come(rows, config, own_hosts, store, proxies, courtesy):
        if done is not None:
            ready[done[0]] = done[1]
        if at not in ready:
            yield None
        while at in ready:
            yield ready.pop(at)
            at += 1


@dataclass(frozen=True)
class _Done:
    """A row that was fetched: `stored` has the picture's columns and bytes, or raises why it has none."""

    place: int
    row: Row
    fetched: Fetched
    stored: Future[Answer] | None = None


def _as_they_come(
    rows: list[Row],
    config: DownloadConfig,
    own_hosts: frozenset[str],
    store: WebStore,
    proxies: Proxies,
    courtesy: Courtesy,
) -> Iterator[tuple[int, Row] | None]:
    """The index of each row and its row of the table `images`, as they are done; rejected rows and copies at once.

    The thread that has fetched a picture gives it to the decoder, so that the decoder never waits for this one.
    """
    wanted = [row["status"] is None and not is_copy(row) for row in rows]
    places = range(len(rows))
    yield from ((place, {**NO_PICTURE, **rows[place]}) for place in places if not wanted[place])
    tasks = [
        Task(place, url, courtesy.host_of(url)) for place in places if wanted[place] for url in [rows[place]["url"]]
    ]

    def pass_on(place: int, fetched: Fetched, put: Callable[[_Done], None]) -> None:
        done = _Done(place, {**NO_PICTURE, **rows[place]} | _said(fetched.said), fetched)
        _store(_checked(done) if config.verify_digests else done, store, put)

    with Connections() as kept:

        def ask(task: Task) -> Fetched:
            return try_once(task.url, config, own_hosts, proxies, courtesy, None if task.tries else kept)

        with Fetching(Turns(tasks, courtesy.hosts), ask, pass_on, config) as fetching:
            yield from (None if done is None else (done.place, _finish(done)) for done in fetching.results())


def _checked(done: _Done) -> _Done:
    """The row, failed where its picture is another than the list says; with the digest of what was sent."""
    body = done.fetched.body
    if body is None:
        return done
    done.row["sha256"] = hashlib.sha256(body).hexdigest()
    if (wrong := wrong_digest(body, done.row["sha256"], done.row["extra"])) is None:
        return done
    return replace(done, fetched=replace(done.fetched, body=None, error_class="wrong_digest", error_message=wrong))


def _store(done: _Done, store: WebStore, put: Callable[[_Done], None]) -> None:
    """Give the picture of a row to the decoder; `put` takes the row when that is done."""
    body = done.fetched.body
    if body is None:
        put(done)
        return
    done.row["sha256"] = done.row["sha256"] or hashlib.sha256(body).hexdigest()
    done.row["size_bytes"] = len(body)
    stored = store.submit(body)
    whole = replace(done, fetched=replace(done.fetched, body=None), stored=stored)
    stored.add_done_callback(lambda _: put(whole))


def _finish(done: _Done) -> Row:
    """The row of the table `images`: with its picture, or with the error class and message why it has none."""
    fetched = done.fetched
    if done.stored is None:
        failure = {"error_class": fetched.error_class, "error_message": fetched.error_message}
        return _with_attempts(done.row | {"status": "failed_to_download"} | failure, fetched)
    try:
        columns, jpg = done.stored.result()
    except PictureError as error:
        message = f"{error.message} (Content-Type {fetched.content_type or 'not given'})"
        failure = {"status": "failed_to_resize", "error_class": error.error_class, "error_message": message}
        return _with_attempts(done.row | failure, fetched)
    return _with_attempts(done.row | {"status": "success"} | columns | {"jpg": jpg}, fetched)


def _said(said: Said) -> Row:
    """What a host said about a URL, as columns."""
    return {"said_at" if name == "at" else name: value for name, value in vars(said).items()}


def _with_attempts(row: Row, fetched: Fetched) -> Row:
    """The row with the tries at it after those of earlier runs; the last of them ended as the row did."""
    tries: list[Row] = [vars(one) | {"status": "failed_to_download"} for one in fetched.tries]
    for last in tries[-1:]:
        last |= {"status": row["status"], "error_class": row["error_class"]}
    return row | {"attempts": [*(row["attempts"] or []), *tries] or None}
