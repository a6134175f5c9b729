"""The endpoints of one captioner: how many requests each is sent at once, when it rests, when it is given up."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

SHRINK, SHRINK_SLOW = 0.5, 0.8
"""What is left of the limit after a server said that it is asked too often, and where it has become slow."""

BACK = 8
"""After a cut, a round trip takes back one part of so many of what lacks to the limit before it, if that is more than
one, as TCP's CUBIC does: a server that says 429 for other reasons than the load is not asked little for ever."""

SLOW = 4.0
"""A server has become slow where a window of answers took this many times as long as its best one, on average. Batching
servers are slower per answer the more they are asked, and yet give more answers a second: hence not sooner."""

SOON_S = 0.01
"""A server that answers sooner is not slower for taking several times as long."""

WINDOW = 8
"""Answers in a window, at least; as many as the limit, where that is higher."""

LONGEST_REST_S = 120.0
"""The longest that a server's Retry-After is obeyed in one go; it is asked once then, and may say it again."""

UNREACHED_RESTS_S = (0.5, 30.0)
"""How long a server that is not reached rests: at first, doubled each time, and at most."""

NEVER_TAKEN = 16
"""Requests that a server may refuse as malformed before its first answer; it is the settings then, not a picture."""


@dataclass
class Endpoint:
    """One server: its limit grows while it answers, and is cut when it says that it is asked too often (AIMD).

    The limit doubles each round trip until the first cut, and grows by about one a round trip after it. `sent_at` is
    the time.monotonic() at which a request was sent: answers to those sent before a cut tell nothing about the new one.
    """

    url: str
    most: int
    """The highest limit."""
    limit: float
    timeout_s: float = 120.0
    in_flight: int = 0
    most_in_flight: int = 0
    """The most there have been, for whoever measures."""
    rests_until: float = 0.0
    broken: str | None = None
    """Why it is asked no more, in words."""
    num_answers: int = 0
    num_cuts: int = 0
    last_answer: float = 0.0
    _cut_at: float = 0.0
    _before_cut: float = 0.0
    _climbs: bool = True
    _unreached: int = 0
    _malformed: int = 0
    _best: float = float("inf")
    _window: list[float] = field(default_factory=list)
    _window_size: int = WINDOW

    def __post_init__(self) -> None:
        self._begin_window()

    def has_room(self, now: float) -> bool:
        """Whether a request may be sent now."""
        return self.broken is None and now >= self.rests_until and self.in_flight < int(self.limit)

    def answered(self, sent_at: float) -> None:
        """It gave an answer, or took the request and said what is wrong with it."""
        now = time.monotonic()
        self.num_answers, self.last_answer, self._unreached = self.num_answers + 1, now, 0
        if sent_at < self._cut_at:
            return
        if self.in_flight >= int(self.limit) - 1:  # a limit that was not used has not been tried
            step = 1.0 if self._climbs else max(1.0, (self._before_cut - self.limit) / BACK) / self.limit
            self.limit = min(self.most, self.limit + step)
        self._window.append(now - sent_at)
        if len(self._window) >= self._window_size:
            self._look_at_window(now)

    def _begin_window(self) -> None:
        """As long as the limit is now: one that climbs with each answer would never end a window that follows it."""
        self._window.clear()
        self._window_size = max(WINDOW, int(self.limit))

    def _look_at_window(self, now: float) -> None:
        mean = sum(self._window) / len(self._window)
        self._best = min(self._best, mean)
        self._begin_window()
        if mean > min(SLOW * max(self._best, SOON_S), self.timeout_s / 2):
            self._cut(SHRINK_SLOW, now)

    def overloaded(self, sent_at: float, rest_s: float | None) -> None:
        """It said that it is asked too often, or let a request time out; `rest_s`: for how long to leave it alone."""
        now = time.monotonic()
        if rest_s:
            self.rests_until = max(self.rests_until, now + min(rest_s, LONGEST_REST_S))
        if sent_at >= self._cut_at:  # one cut for all that were sent before it
            self._cut(SHRINK, now)

    def _cut(self, share: float, now: float) -> None:
        self._before_cut = self.limit
        self.limit, self._climbs, self._cut_at = max(1.0, self.limit * share), False, now
        self.num_cuts += 1
        self._begin_window()

    def unreached(self) -> None:
        """No connection could be opened: it rests, longer each time, and begins again with one request."""
        now, (first, longest) = time.monotonic(), UNREACHED_RESTS_S
        if now >= self.rests_until:  # once for all that failed together
            self.rests_until = now + min(first * 2**self._unreached, longest)
            self._unreached += 1
            self.limit, self._climbs, self._cut_at = 1.0, True, now

    def malformed(self, told: str) -> None:
        """It took a request for malformed; one that has never answered is not asked for ever."""
        self._malformed += 1
        if not self.num_answers and self._malformed >= NEVER_TAKEN:
            self.broken = f"refused each of the first {NEVER_TAKEN} requests: {told}"


class Pool:
    """Endpoints that serve the same model: each request goes to the one that has most room.

    `give_up_s`: where no endpoint answers for so long, `failed` says so. All of it belongs to one event loop.
    """

    def __init__(self, endpoints: Sequence[Endpoint], give_up_s: float) -> None:
        self.endpoints, self._give_up_s = endpoints, give_up_s
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._num_woken = 0
        self._timer: asyncio.TimerHandle | None = None
        self._began = time.monotonic()
        self._last_failure = ""

    def begin(self) -> None:
        """A batch begins: the time before it counts as no silence."""
        self._began = time.monotonic()

    @property
    def failed(self) -> str | None:
        """Why no endpoint is asked any more, in words; None while one is."""
        if all(one.broken for one in self.endpoints):
            return "; ".join(f"{one.url} {one.broken}" for one in self.endpoints)
        if not self._last_failure:
            return None
        heard = max(self._began, *(one.last_answer for one in self.endpoints))
        if time.monotonic() - heard > self._give_up_s:
            return f"no endpoint has answered for {self._give_up_s:g} s; the last failure was {self._last_failure}"
        return None

    def note_failure(self, endpoint: Endpoint, what: str) -> None:
        """What went wrong last, for the line that says why the run ends."""
        self._last_failure = f"{what} at {endpoint.url}"

    async def take(self, last: Endpoint | None) -> Endpoint | None:
        """Wait for room at an endpoint, another than `last` where there is one; None where all are given up."""
        while self.failed is None:
            found = self._roomiest(last)
            if found:
                found.in_flight += 1
                found.most_in_flight = max(found.most_in_flight, found.in_flight)
                return found
            await self._wait()
        self._wake(len(self._waiting))
        return None

    def give_back(self, endpoint: Endpoint) -> None:
        """The request is over, whatever came of it."""
        endpoint.in_flight -= 1
        self._wake_for_room()

    async def _wait(self) -> None:
        """Until there may be room: a request is over, or an endpoint has rested."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._wake_after_rest()
        try:
            await turn
        except asyncio.CancelledError:
            self._num_woken -= turn.done() and not turn.cancelled()
            self._wake_for_room()  # a turn that had been given is another's now
            raise
        self._num_woken -= 1

    def _wake_for_room(self) -> None:
        now = time.monotonic()
        ready = [one for one in self.endpoints if one.has_room(now)]
        self._wake(sum(int(one.limit) - one.in_flight for one in ready) - self._num_woken)
        self._wake_after_rest()

    def _wake(self, count: int) -> None:
        """Give so many of those that wait their turn, the longest waiting first."""
        while count > 0 and self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                self._num_woken += 1
                count -= 1

    def _wake_after_rest(self) -> None:
        """Have one timer run to the end of the first rest, while anybody waits."""
        now = time.monotonic()
        rests = [one.rests_until - now for one in self.endpoints if one.broken is None and one.rests_until > now]
        if self._timer is None and self._waiting and (rests or self.failed):
            wait_s = min(rests, default=0.0) + 0.001
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._rested)

    def _rested(self) -> None:
        self._timer = None
        if self.failed:
            self._wake(len(self._waiting))
        self._wake_for_room()

    def _roomiest(self, last: Endpoint | None) -> Endpoint | None:
        now = time.monotonic()
        free = [one for one in self.endpoints if one.has_room(now)]
        others = [one for one in free if one is not last] or free
        return min(others, key=lambda one: one.in_flight / one.limit, default=None)


def rest_of(headers: Callable[[str], str | None]) -> float | None:
    """Seconds that a server asks to be left alone, by retry-after-ms or Retry-After (seconds, or a date); None: unsaid.

    What cannot be read counts as unsaid, what lies in the past as no rest.
    """
    milliseconds, said = headers("retry-after-ms"), headers("Retry-After")
    try:
        if milliseconds:
            return _at_least_none(float(milliseconds) / 1000)
        return _at_least_none(float(said)) if said else None
    except ValueError:
        pass
    try:
        return _at_least_none(parsedate_to_datetime(said or "").timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def _at_least_none(seconds: float) -> float | None:
    return max(0.0, seconds) if seconds == seconds else None
