"""What a download tells about hosts, and the folder in which its processes share what they know of them."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from blip_bootstrap.config import DownloadConfig, UrlList
from blip_bootstrap.progress import tell
from blip_bootstrap.schemas.closed_lists import WITHDRAWN
from blip_pipelines.fetch.courtesy import Courtesy, Shared

NUM_NAMED = 3
"""Hosts that the line names of which no row gave a picture."""


@contextmanager
def shared_folder(out: Path) -> Iterator[Path | None]:
    """A folder for what the processes of one download know of hosts; None where there is none for temporary files.

    It is new for each download, so that each asks the robots.txt of a host anew. On other machines of a cluster the
    same name is made by the first worker there (`Courtesy`).
    """
    try:
        above = Path(tempfile.gettempdir()) / f"blip-bootstrap-hosts-{os.getuid()}"
    except OSError:
        yield None
        return
    folder = above / f"{hashlib.sha256(str(out.absolute()).encode()).hexdigest()[:8]}-{uuid.uuid4().hex[:8]}"
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def tell_of_contact(config: DownloadConfig, lists: Sequence[UrlList]) -> None:
    """One line where the web is asked without a contact, by which those who run its servers could reach the user."""
    if not config.contact and not config.allow_private_addresses and not all(one.serve for one in lists):
        tell(f"  download  asks as {config.agent}; download.contact, a page or mail address, would say who that is")


def tell_of_lost(config: DownloadConfig, shared: Shared) -> None:
    """One line where there are hosts of which every row that was asked has failed."""
    count, named = Courtesy(config, shared=shared).sites.lost(NUM_NAMED) if shared.folder else (0, [])
    if not count:
        return
    told = [f"{host} ({num_rows:,} {'row' if num_rows == 1 else 'rows'}: {last})" for host, num_rows, last in named]
    told += [f"{count - len(named):,} more"] if count > len(named) else []
    where = " from this machine" if shared.machines > 1 else ""
    hosts = "1 host" if count == 1 else f"{count:,} hosts"
    tell(f"  download  every row of {hosts} failed{where}: {', '.join(told)}")


def count_hosts(rows: Iterable[Mapping[str, Any]], courtesy: Courtesy) -> None:
    """Count the rows of a part by host, for `tell_of_lost`; those that were rejected or withdrawn belong to none."""
    found: dict[str, tuple[int, int, str | None]] = {}
    for row in rows:
        host = courtesy.host_of(row["url"]) if row["status"] not in ("rejected", WITHDRAWN) else ""
        if host:
            num_rows, num_good, last = found.get(host, (0, 0, None))
            is_good = row["status"] == "success"
            found[host] = num_rows + 1, num_good + is_good, last if is_good else row["error_class"]
    courtesy.sites.count((host, *counts) for host, counts in found.items())
