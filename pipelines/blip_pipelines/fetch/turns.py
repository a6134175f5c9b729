"""Fetches the URLs of a part host by host in turn, with retries, as fast as each host may be asked."""

from __future__ import annotations

import heapq
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import Generic, Self, TypeVar

from blip_bootstrap.config import DownloadConfig
from blip_pipelines.fetch.answers import Fetched, Try
from blip_pipelines.fetch.directives import utc_now
from blip_pipelines.fetch.fetch import pause_s
from blip_pipelines.fetch.hosts import GO, Hosts, Outcome

Result = TypeVar("Result")

WORD_S = 1.0
"""Seconds after which whoever takes the results hears that nothing can be asked yet."""

HOST_FAILED = ("dns", "connection", "timeout", "http_5xx")
"""Failures that speak of the host rather than of one URL."""


@dataclass(frozen=True)
class Task:
    """One URL to fetch: its place in the part, its host ("": without limits), and the tries at it so far."""

    place: int
    url: str
    host: str
    tries: tuple[Try, ...] = ()
    not_before: float = 0.0


class Turns:
    """Which URL is next: one of each host in turn, of those that may be asked now. For one caller at a time."""

    def __init__(self, tasks: Iterable[Task], hosts: Hosts) -> None:
        self._hosts = hosts
        self._waiting: dict[str, deque[Task]] = {}
        for task in tasks:
            self._waiting.setdefault(task.host, deque()).append(task)
        self._ready = deque(self._waiting)
        self._asleep: list[tuple[float, str, bool]] = []
        self._full: set[str] = set()
        self._known: set[str] = {""}
        self._asked = Counter[str]()
        self.num_asked = 0

    def next(self, now: float) -> Task | None:
        """The next URL to ask, whose host's connection is taken with it; None where none may be asked now."""
        while self._asleep and self._asleep[0][0] <= now:
            self._ready.append(heapq.heappop(self._asleep)[1])
        for _ in range(len(self._ready)):
            host = self._ready.popleft()
            if (task := self._of(host, now)) is not None:
                return task
        return None

    def _of(self, host: str, now: float) -> Task | None:
        waiting = self._waiting[host]
        if waiting[0].not_before > now:
            self._sleep(host, waiting[0].not_before, False)
            return None
        if self._asked[host] and host not in self._known:  # what its robots.txt says is not known yet
            self._full.add(host)
            return None
        turn = self._hosts.enter(host) if host else GO
        if turn.wait_s:
            if turn.is_full and self._asked[host]:
                self._full.add(host)
            else:
                self._sleep(host, now + turn.wait_s, turn.rests)
            return None
        self._asked[host] += 1
        self.num_asked += 1
        task = waiting.popleft()
        if waiting:
            self._ready.append(host)
        else:
            del self._waiting[host]
        return task

    def _sleep(self, host: str, until: float, rests: bool) -> None:
        heapq.heappush(self._asleep, (until, host, rests))

    def done(self, task: Task, outcome: Outcome, again: Task | None = None) -> None:
        """Give the host's connection of a URL back that was asked; `again` is asked later."""
        host = task.host
        if host:
            self._hosts.leave(host, outcome)
        self._known.add(host)
        self._asked[host] -= 1
        self.num_asked -= 1
        if not self._asked[host]:
            del self._asked[host]
        if host in self._full:
            self._full.remove(host)
            self._ready.append(host)
        if again is None:
            return
        if host in self._waiting:
            self._waiting[host].append(again)
        else:
            self._waiting[host] = deque([again])
            self._ready.append(host)

    @property
    def longest_pause_s(self) -> float:
        """The longest time that a host may ask to wait, before it rests."""
        return self._hosts.limits.pause_s

    @property
    def wakes_at(self) -> float | None:
        """When the first host that is waited for may be asked; None where none is."""
        return self._asleep[0][0] if self._asleep else None

    @property
    def only_rest(self) -> bool:
        """Whether all that is left are hosts that rest."""
        return not (self.num_asked or self._ready or self._full) and all(rests for _, _, rests in self._asleep)

    @property
    def num_left(self) -> int:
        """How many URLs are still to be asked."""
        return sum(map(len, self._waiting.values()))

    @property
    def is_over(self) -> bool:
        """Whether every URL was asked, and nothing is waited for."""
        return not (self._waiting or self.num_asked)

    def give_up(self) -> list[Task]:
        """Take all URLs that are left."""
        left = [task for tasks in self._waiting.values() for task in tasks]
        self._waiting.clear()
        self._ready.clear()
        self._asleep.clear()
        self._full.clear()
        return left


class Fetching(Generic[Result]):
    """The threads that fetch the URLs of a part, and what was made of them. A `with` block ends them.

    `ask` is one try at a URL. `pass_on` is called in the thread with what was fetched in the end, and puts one result
    for each URL, then or later.
    """

    def __init__(
        self,
        turns: Turns,
        ask: Callable[[Task], Fetched],
        pass_on: Callable[[int, Fetched, Callable[[Result], None]], None],
        config: DownloadConfig,
    ) -> None:
        self._turns, self._ask, self._pass_on, self._config = turns, ask, pass_on, config
        self._num_urls = turns.num_left
        self._changed = threading.Condition()
        self._room = threading.Semaphore(2 * config.num_threads)
        self._done: SimpleQueue[Result | BaseException] = SimpleQueue()
        self._closed, self._idle_s, self._idle_since = False, 0.0, 0.0
        self._num_passed_on = 0
        self._threads = [
            threading.Thread(target=self._work, name=f"fetch {number}", daemon=True)
            for number in range(min(config.num_threads, self._num_urls))
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._room.release(len(self._threads))
        for thread in self._threads:
            thread.join()

    def results(self) -> Iterator[Result | None]:
        """The results as they come; at most two for each thread are in work, or made and not taken.

        None after each second in which no URL was asked and nothing was in work. Raises what a thread raised.
        """
        num_taken = 0
        while num_taken < self._num_urls:
            try:
                result = self._done.get(timeout=WORD_S)
            except Empty:
                if not self._turns.num_asked and self._num_passed_on == num_taken:
                    yield None
                continue
            if isinstance(result, BaseException):
                raise result
            num_taken += 1
            yield result
            self._room.release()

    def _work(self) -> None:
        try:
            while self._has_room() and (task := self._take()) is not None:
                self._finish(task, self._ask(task))
        except BaseException as error:  # noqa: BLE001 - raised where the results are taken
            self._done.put(error)

    def _has_room(self) -> bool:
        self._room.acquire()
        return not self._closed

    def _take(self) -> Task | None:
        """The next URL, waited for; None where there is none any more."""
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                task = self._turns.next(now)
                if task is not None or self._turns.is_over:
                    self._idle_s, self._idle_since = self._idle_s + self._idle(now), 0.0
                    self._changed.notify_all() if task is None else self._changed.notify()
                    return task
                self._rest(now)
            return None

    def _idle(self, now: float) -> float:
        return now - self._idle_since if self._idle_since else 0.0

    def _rest(self, now: float) -> None:
        """Wait until a host may be asked; or give up what is left, where only resting hosts are, or for too long."""
        if not self._turns.num_asked and not self._idle_since:
            self._idle_since = now
        if self._turns.only_rest or self._idle_s + self._idle(now) > self._config.host_patience_s:
            for task in self._turns.give_up():
                self._num_passed_on += 1
                self._pass_on(task.place, _given_up(task), self._done.put)
            return
        wakes_at = self._turns.wakes_at
        self._changed.wait(None if wakes_at is None else max(0.001, wakes_at - now))

    def _finish(self, task: Task, fetched: Fetched) -> None:
        task = replace(task, tries=(*task.tries, Try(utc_now(), fetched.error_class, fetched.http_status)))
        again = None
        is_soon = fetched.wait_s <= self._turns.longest_pause_s  # else the host rests
        if fetched.retry and is_soon and len(task.tries) <= self._config.num_retries:
            pause = pause_s(len(task.tries) - 1, fetched.wait_s)
            again = replace(task, not_before=time.monotonic() + pause)
        with self._changed:
            self._turns.done(task, _outcome(fetched), again)
            self._num_passed_on += again is None
            self._changed.notify()
        if again is None:
            self._pass_on(task.place, replace(fetched, tries=task.tries), self._done.put)
        else:
            self._room.release()


def _outcome(fetched: Fetched) -> Outcome:
    refused = fetched.http_status if fetched.http_status in (429, 503) else 0
    failed = bool(refused) or fetched.error_class in HOST_FAILED
    return Outcome(failed, refused or 0, fetched.wait_s)


def _given_up(task: Task) -> Fetched:
    last = f", the last time with {task.tries[-1].error_class}" if task.tries else ""
    message = f"{task.host} was not asked{last}: it failed too often in a row, or is to be waited for too long"
    tries = (*task.tries, Try(utc_now(), "host_rests", None))
    return Fetched(None, "", "host_rests", message, tries=tries)
