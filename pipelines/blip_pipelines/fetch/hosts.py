"""How often hosts are asked: connections, pauses and rests of each, shared by all processes of a run on one machine.

What is shared lies in a file of fixed size, so that a million hosts take no memory. The kernel keeps the connections as
locks of ranges of another one: those of a process that dies are free at once.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import struct
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from blip_bootstrap.config import DownloadConfig
from blip_pipelines.fetch.addresses import is_private_name, is_public, literal

PUBLIC_RATE = 30.0
"""Requests a second to a public host, where `host_requests_per_s` is not set: about what one page of pictures asks."""

POLL_S = 0.05
"""Seconds until a host is tried again whose connections other processes have."""

LONGEST_REST_S = 86_400.0

PAUSE_S = 0.5
"""The first pause of a host that says 429, or 503 three times in a row, and not for how long; it doubles each time."""

NUM_RECORDS = 65_536
"""Hosts that are remembered; a host takes the record of another with the same number, which is forgotten."""

_RECORD = struct.Struct("<Qddddii")  # tag, next request, no request before, delay, rests until, failures, refusals


@dataclass(frozen=True)
class Limits:
    """Limits of each host; those of settings, divided by the machines that a run has."""

    connections: int
    rate: float | None
    failures: int
    rest_s: float
    pause_s: float
    crawl_delay_s: float

    @classmethod
    def of(cls, config: DownloadConfig, machines: int = 1) -> Limits:
        """The limits of one of `machines`; one connection and a share of the rate at least."""
        return cls(
            connections=max(1, config.host_connections // machines),
            rate=config.host_requests_per_s and config.host_requests_per_s / machines,
            failures=config.host_failures,
            rest_s=config.host_rest_s,
            pause_s=config.host_pause_s,
            crawl_delay_s=min(config.max_crawl_delay_s, LONGEST_REST_S),
        )


@dataclass(frozen=True)
class Turn:
    """Whether a host may be asked: now (`wait_s` 0), later, once a connection is free, or not while it rests."""

    wait_s: float = 0.0
    is_full: bool = False
    rests: bool = False


GO = Turn()


@dataclass(frozen=True)
class Outcome:
    """How a request ended, as far as it matters to the host: it failed; it said 429 or 503, and for how long."""

    failed: bool = False
    refused: int = 0
    asked_s: float = 0.0


@dataclass(frozen=True)
class _Record:
    tag: int
    next_at: float = 0.0
    until: float = 0.0
    delay_s: float = 0.0
    rests_until: float = 0.0
    failures: int = 0
    refusals: int = 0


class Hosts:
    """The hosts of a run: `enter` before a request, `leave` after it."""

    def __init__(self, folder: Path | None, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        """`folder` is shared with the run's other processes on this machine; None: there are none."""
        self.limits, self._clock = limits, clock
        self._held: dict[int, set[int]] = {}
        self._lock = threading.Lock()
        self._locks: int | None = None
        size = NUM_RECORDS * _RECORD.size
        if folder is None:
            self._map = mmap.mmap(-1, size)
            return
        self._locks = _opened(folder / "locks")
        weakref.finalize(self, os.close, self._locks)
        shared = _opened(folder / "hosts")
        os.truncate(shared, size)
        self._map = mmap.mmap(shared, size)
        os.close(shared)

    def enter(self, host: str) -> Turn:
        """Take one of the host's connections, and begin its next interval; or say how long to wait first."""
        tag = _tag(host)
        with self._lock, _Alone(self._locks):
            now, record = self._clock(), self._read(tag)
            if now < record.rests_until:
                return Turn(record.rests_until - now, rests=True)
            if now < max(record.until, record.next_at):
                return Turn(max(record.until, record.next_at) - now)
            if not self._take(tag):
                return Turn(POLL_S, is_full=True)
            interval = max(self._interval_s(host), record.delay_s)
            if interval:
                self._write(replace(record, next_at=now + interval))
            return GO

    def leave(self, host: str, outcome: Outcome) -> None:
        """Give the connection back; failures in a row let the host rest, 429 and 503 let it pause."""
        tag = _tag(host)
        with self._lock, _Alone(self._locks):
            self._give(tag)
            record = self._read(tag)
            after = self._after(record, outcome)
            if after != record:
                self._write(after)

    def slow_down(self, host: str, delay_s: float) -> None:
        """Keep `delay_s` between requests to a host from now on, as its robots.txt asks, up to the limit."""
        tag, delay_s = _tag(host), min(delay_s, self.limits.crawl_delay_s)
        with self._lock, _Alone(self._locks):
            record = self._read(tag)
            if record.delay_s != delay_s:
                self._write(replace(record, delay_s=delay_s, next_at=max(record.next_at, self._clock() + delay_s)))

    def _after(self, record: _Record, outcome: Outcome) -> _Record:
        now, limits = self._clock(), self.limits
        if not outcome.failed:
            return replace(record, failures=0, refusals=0, rests_until=0.0)
        failures = record.failures + 1
        refusals = record.refusals + 1 if outcome.refused else 0
        record = replace(record, failures=failures, refusals=refusals)
        if outcome.asked_s > limits.pause_s:
            return replace(record, rests_until=now + min(outcome.asked_s, LONGEST_REST_S))
        if failures >= limits.failures:  # and after its rest at its next failure again
            return replace(record, rests_until=now + limits.rest_s, failures=limits.failures - 1)
        pause_s = outcome.asked_s
        if refusals >= (1 if outcome.refused == 429 else 3):
            pause_s = max(pause_s, min(PAUSE_S * 2.0 ** min(refusals - 1, 20), limits.pause_s))
        return replace(record, until=max(record.until, now + pause_s)) if pause_s else record

    def _interval_s(self, host: str) -> float:
        rate = self.limits.rate or (None if _is_near(host) else PUBLIC_RATE)
        return 1 / rate if rate else 0.0

    def _read(self, tag: int) -> _Record:
        found = _Record(*_RECORD.unpack_from(self._map, tag % NUM_RECORDS * _RECORD.size))
        return found if found.tag == tag else _Record(tag)

    def _write(self, record: _Record) -> None:
        _RECORD.pack_into(self._map, record.tag % NUM_RECORDS * _RECORD.size, *vars(record).values())

    def _take(self, tag: int) -> bool:
        """Take one of the host's connections, where one is free in all processes."""
        held = self._held.get(tag, set())
        for number in range(self.limits.connections):
            if number not in held and (self._locks is None or _locked(self._locks, _place(tag, number))):
                self._held[tag] = held | {number}
                return True
        return False

    def _give(self, tag: int) -> None:
        held = self._held.get(tag)
        if not held:
            return
        number = held.pop()
        if self._locks is not None:
            fcntl.lockf(self._locks, fcntl.LOCK_UN, 1, _place(tag, number))
        if not held:
            del self._held[tag]


class _Alone:
    """A `with` block that one process at a time is in."""

    def __init__(self, locks: int | None) -> None:
        self._locks = locks

    def __enter__(self) -> None:
        if self._locks is not None:
            fcntl.lockf(self._locks, fcntl.LOCK_EX, 1, 0)

    def __exit__(self, *_: object) -> None:
        if self._locks is not None:
            fcntl.lockf(self._locks, fcntl.LOCK_UN, 1, 0)


@lru_cache(maxsize=4)
def hosts_in(folder: Path | None, limits: Limits) -> Hosts:
    """This process's view of the hosts that `folder` has; one for each folder, since closing a file frees its locks."""
    return Hosts(folder, limits)


def _opened(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _locked(locks: int, place: int) -> bool:
    try:
        fcntl.lockf(locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
    except OSError:
        return False
    return True


def _tag(host: str) -> int:
    return int.from_bytes(hashlib.blake2b(host.encode(), digest_size=5).digest()) + 1


def _place(tag: int, number: int) -> int:
    """The byte whose lock is connection `number` of a host; byte 0 is that of the records."""
    return tag * 1_024 + number


def _is_near(host: str) -> bool:
    """Whether a host ("name", "name:port") is one of this machine or a private network, to which no rate is meant."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    numbers = literal(name)
    return not is_public(numbers) if numbers else "." not in name or is_private_name(name)
