"""The workers of a step on Ray: who has which item, who died, and how many the memory of the nodes carries."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import ray

from blip_bootstrap.errors import RunFailed
from blip_bootstrap.progress import tell
from blip_pipelines.cluster.items import RETRIES, Pool
from blip_pipelines.failures.errors import first_line

PLAIN_TRIES = 2
"""Workers may die of an item so often before it is done carefully: one death may be a lost machine."""

MAX_TRIES = 8
"""Workers may die of an item, or before their first one, so often in all before the step gives up."""

SILENCE_S = 60.0
"""Where no worker is there for so long, a line says so."""

AGAIN_EVERY = 10
"""It is said again each time that so many times as long has passed."""

SPARE = 1.25
"""A worker is given so much more memory than the most that any one held so far: later items may be larger."""

MEMORY_SHARE = 0.8
"""Of a node's memory, workers may have so much; the rest is Ray's and the system's."""

_numbers = count(1)
"""Of the workers of this process: Ray gives no two actors one name, nor that of one that has just been killed."""

OUT_OF_MEMORY = "its machine ran out of memory"


@dataclass(frozen=True)
class Told:
    """What a worker answers: the outcomes of an item, its retries, and what it is: its memory at most, its node."""

    outcomes: list[Any]
    retries: int
    peak_bytes: int
    node: str
    node_bytes: int


@dataclass
class Try:
    """An item, pickled, and the nodes whose workers died of it."""

    item: bytes
    died_on: list[str] = field(default_factory=list)

    def num_deaths(self) -> int:
        """Workers that died of it; not those that a lost machine took along, which says nothing about the item."""
        return sum(node in alive for node in self.died_on) if self.died_on and (alive := nodes_alive()) else 0


@dataclass(eq=False)
class Hand:
    """One worker: what it asked of Ray, its item, and once it is there, its node and that one's memory."""

    actor: Any
    asked_bytes: int
    tried: Try | None = None
    node: str = ""
    node_bytes: int = 0


class Memory:
    """How much memory a worker is asked for: as assumed until one has done an item, then by the most that any held."""

    def __init__(self, pool: Pool) -> None:
        self._assumed, self._is_set, self.peak_bytes = pool.memory_bytes, pool.memory_is_set, 0

    @property
    def needed_bytes(self) -> int:
        """What the next worker asks for; 0: nothing."""
        return int(SPARE * self.peak_bytes) if self.peak_bytes and not self._is_set else self._assumed

    def note(self, told: Told) -> None:
        """A worker has done an item."""
        self.peak_bytes = max(self.peak_bytes, told.peak_bytes)

    def ran_out(self, hand: Hand) -> None:
        """A worker was ended since its node had no memory left: the next ones ask for more."""
        self.peak_bytes = max(self.peak_bytes, hand.asked_bytes)

    def leaves(self, hand: Hand, hands: Iterable[Hand]) -> bool:
        """Whether a worker without work ends, to be started anew with what is needed by now.

        That is where its node has too little memory for all that are there, and where others wait to be placed that
        could be if this one had not asked for twice as much as it needs.
        """
        if self._is_set or not self.peak_bytes:
            return False
        hands = list(hands)
        together = sum(other.node == hand.node for other in hands)
        is_short = together > 1 and together * self.needed_bytes > MEMORY_SHARE * hand.node_bytes > 0
        waits = any(not other.node for other in hands)
        return (is_short and hand.asked_bytes < self.needed_bytes) or (
            waits and hand.asked_bytes > 2 * self.needed_bytes
        )


class Crew:
    """The workers of a step: each has an item at a time; one that dies is replaced, and its item done again.

    No item is tried without end. After PLAIN_TRIES deaths it is done by the work `carefully`, which survives what an
    item does; after MAX_TRIES the step fails. `counts` is shown beside what workers count, and gets the retries.
    `kind` is Ray's class of the workers, made with `arguments`.
    """

    def __init__(self, step: str, kind: Any, arguments: tuple[Any, ...], pool: Pool, counts: dict[str, int]) -> None:
        self._step, self._kind, self._arguments, self._pool, self._counts = step, kind, arguments, pool, counts
        self._running: dict[Any, Hand] = {}
        self._idle: list[Hand] = []
        self._memory = Memory(pool)
        self._num_lost = 0
        self.num_retries, self.num_retries_in_workers = 0, 0

    def outcomes(self, items: Iterable[Any]) -> Generator[Any, None, None]:
        """What workers make of the items, as it comes: results, or a Raised. Raises RunFailed after too many deaths.

        No more items are taken at a time than there are workers.
        """
        fresh, waiting, again = (Try(pickle.dumps(item)) for item in items), deque[Try](), deque[Try]()
        try:
            while len(waiting) < self._pool.num_workers and (tried := next(fresh, None)):
                waiting.append(tried)
                self._start()
            while self._hand_out(waiting, fresh, again):
                hand, told = self._next()
                if told is None:
                    again += [hand.tried] if hand.tried else []
                    continue
                self._back(hand, told)
                yield from told.outcomes
        finally:
            for hand in self._hands():
                _kill(hand.actor)

    def _hands(self) -> list[Hand]:
        return [*self._idle, *self._running.values()]

    def _start(self) -> None:
        """Start a worker; it gets an item once it is there, which on a cluster that lost a machine may be never."""
        asked = min(self._memory.needed_bytes, largest_memory())
        name = f"{self._step} {next(_numbers)}"  # on Ray's dashboard
        actor = self._kind.options(name=name, **options_of(self._pool, asked)).remote(*self._arguments)
        self._running[actor.begin.remote()] = Hand(actor, asked)

    def _hand_out(self, waiting: deque[Try], fresh: Iterator[Try], again: deque[Try]) -> bool:
        """Give idle workers their next items: new ones first, so that what may kill workers comes last.

        Returns whether anything is left to be done.
        """
        while self._idle:
            tried = waiting.popleft() if waiting else next(fresh, None) or (again.popleft() if again else None)
            if tried is None:
                break
            hand = self._idle.pop()
            hand.tried = tried
            self._running[hand.actor.do.remote(tried.item, tried.num_deaths() >= PLAIN_TRIES)] = hand
        return bool(waiting or again or any(hand.tried for hand in self._running.values()))

    def _next(self) -> tuple[Hand, Told | None]:
        """The next worker that is there, is done or has died (then nothing is told); says where none is at work."""
        num_silent = 0
        while not (ready := ray.wait(list(self._running), num_returns=1, timeout=SILENCE_S)[0]):
            if not any(hand.node for hand in self._hands()):
                num_silent += 1
                if num_silent % AGAIN_EVERY == 1:
                    said = nobody(self._pool, self._memory.needed_bytes, SILENCE_S * num_silent)
                    tell(f"  {self._step}  {said}")
        hand = self._running.pop(ready[0])
        try:
            return hand, pickle.loads(ray.get(ready[0]))
        except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as error:
            self._died(hand, error)
            return hand, None

    def _back(self, hand: Hand, told: Told) -> None:
        """A worker is there, or has done its item: it is idle, or makes place for others."""
        self._num_lost = 0
        self.num_retries_in_workers += told.retries
        hand.node, hand.node_bytes = told.node, told.node_bytes
        self._idle.append(hand)
        if hand.tried:
            hand.tried = None
            self._memory.note(told)
            if self._memory.leaves(hand, self._hands()):
                self._idle.remove(hand)
                self._replace([hand, *(other for other in self._running.values() if not other.node)])

    def _replace(self, hands: list[Hand]) -> None:
        """Start workers anew that ask for other memory than is needed."""
        for hand in hands:
            self._running = {ref: other for ref, other in self._running.items() if other is not hand}
            _kill(hand.actor)
        for _ in hands:
            self._start()

    def _died(self, hand: Hand, error: Exception) -> None:
        """Replace a worker that died. Raises RunFailed where too many did."""
        _kill(hand.actor)
        why, tried = _why(error, hand.node), hand.tried
        if why == OUT_OF_MEMORY:
            self._memory.ran_out(hand)
        if tried:
            tried.died_on.append(hand.node)
            self.num_retries += 1
            self._counts[RETRIES] = self.num_retries
        else:
            self._num_lost += 1
        num_deaths = tried.num_deaths() if tried else self._num_lost
        if num_deaths >= MAX_TRIES:
            what = "of the same work" if tried else "before their first work"
            raise RunFailed(f"{self._step}: {num_deaths} workers died {what}, the last so: {why}; run again to go on")
        carefully = ", row by row where needed" if tried and num_deaths >= PLAIN_TRIES else ""
        tell(f"  {self._step}  a worker died ({why}); another one goes on{carefully}")
        self._start()


def options_of(pool: Pool, asked_bytes: int = 0) -> dict[str, Any]:
    """What a worker asks of Ray."""
    asked: dict[str, Any] = {"num_cpus": pool.cpus, "num_gpus": pool.gpus, "scheduling_strategy": "SPREAD"}
    asked |= {"memory": asked_bytes} if asked_bytes else {}
    return asked | {"max_restarts": 0, "max_task_retries": 0}


def nodes_alive() -> set[str]:
    """The names by which Ray knows the nodes that are alive."""
    return {str(node["NodeID"]) for node in _nodes()}


def largest_memory() -> int:
    """The most memory that a worker may ask for and still be placed somewhere: all that Ray gives out on a node."""
    return int(max((node["Resources"].get("memory", 0) for node in _nodes()), default=0))


def _nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def nobody(pool: Pool, asked_bytes: int, seconds: float) -> str:
    """The line for a step none of whose workers can be placed."""
    nodes = _nodes()
    has = {name: sum(node["Resources"].get(name, 0) for node in nodes) for name in ("CPU", "GPU")}
    wants = f"{pool.cpus:g} CPU" + (f", {pool.gpus:g} GPU" if pool.gpus else "")
    wants += f" and {asked_bytes / 1e9:.1f} GB of memory" if asked_bytes else ""
    has_now = f"{len(nodes)} node{'s' if len(nodes) != 1 else ''} with {has['CPU']:g} CPUs and {has['GPU']:g} GPUs"
    return (
        f"no worker could be started for {seconds:.0f} s: each wants {wants}, the cluster has {has_now}, or others use "
        "them; waiting for nodes: start some (`ray start --address=HEAD:6379`), or stop this (the same command goes on)"
    )


def _kill(actor: Any) -> None:
    with suppress(ray.exceptions.RayError, ValueError):
        ray.kill(actor)


def _why(error: Exception, node: str) -> str:
    """Why a worker died, as far as Ray knows, in a few words."""
    said = str(error)
    if (node and node not in nodes_alive()) or getattr(error, "preempted", False):
        return "its machine was lost"
    if isinstance(error, ray.exceptions.OutOfMemoryError) or "memory on the node" in said:
        return OUT_OF_MEMORY
    if "worker process has died" in said:
        return "its process crashed or was killed"
    return first_line(error)
