"""Tells which worker of a training stands still, and ends the attempt: the others would wait for it for ever."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, Self, get_args

import torch.distributed as dist

from blip_training.runtime.agreement import from_all
from blip_training.runtime.host import this_host
from blip_training.runtime.workers import Worker

STALLED = 75
"""The exit code of a worker of an attempt that stood still: try again (EX_TEMPFAIL of sysexits.h)."""

Part = Literal["the feed", "the micro-batches", "the optimizer's step", "log and checkpoint"]
"""The parts of a step, in their order."""

SHOWN_MACHINES = 4
"""Of so many machines a line lists the ranks that have stalled."""

LOOKS = 20
"""Reports in a time-out: each rank writes a few bytes to the store of rank 0 as often."""

last_words: list[Callable[[str], None]] = []
"""What is done with the line before the process ends: the trainer on Ray leaves it for the driver."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Position:
    """Where a worker is, and for how many seconds: in a part of step number `step`, from 1."""

    step: int
    part: Part
    seconds: float

    @property
    def progress(self) -> tuple[int, int]:
        """What grows from part to part of a training."""
        return self.step, get_args(Part).index(self.part)


class StallWatch:
    """A thread beside a worker's training that notes where it is, and looks at the others when it stands still.

    A worker that stands for `timeout_s` seconds, by itself or waiting for another, says which ranks are behind all
    others, and ends its process with STALLED: neither gloo nor NCCL gives up a wait otherwise before its own, longer
    time-out, and a thread cannot raise in another. Who started the workers starts them again.
    """

    def __init__(self, worker: Worker, timeout_s: float) -> None:
        self.worker, self.timeout_s = worker, timeout_s
        self.hosts = from_all(this_host(), worker)
        self._at: tuple[int, Part, float] = (0, "the feed", time.monotonic())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stall watch", daemon=True)
        self._store = _store(worker, timeout_s)

    def __enter__(self) -> Self:
        self._at = (*self._at[:2], time.monotonic())
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def at(self, step: int, part: Part) -> None:
        """Note that the worker begins this part of a step (from 1)."""
        self._at = (step, part, time.monotonic())

    def _run(self) -> None:
        while not self._stop.wait(self.timeout_s / LOOKS):
            step, part, since = self._at
            own = Position(step, part, time.monotonic() - since)
            everyone = self._answered(own)
            if own.seconds > self.timeout_s and not self._stop.is_set():
                self._give_up(own, everyone)

    def _answered(self, own: Position) -> dict[int, Position]:
        """What `_exchanged` gives, empty where rank 0 does not answer in time.

        A store whose process is stopped, or whose machine is frozen, keeps its connections, and its clients ask
        without a time-out, whatever theirs is (torch 2.13).
        """
        found: list[dict[int, Position]] = []
        asking = threading.Thread(target=lambda: found.append(self._exchanged(own)), name="stall report", daemon=True)
        asking.start()
        asking.join(_patience_s(self.timeout_s))
        return found[0] if found else {}

    def _exchanged(self, own: Position) -> dict[int, Position]:
        """Report `own`; where it stands still, the positions of all ranks, as they last reported them.

        Empty where the machine of rank 0, which keeps them, is gone.
        """
        try:
            self._store.set(f"{self.worker.rank}", json.dumps(own.__dict__))
            if own.seconds <= self.timeout_s:
                return {}
            ranks = [rank for rank in range(self.worker.world) if self._store.check([f"{rank}"])]
            return {rank: Position(**json.loads(self._store.get(f"{rank}"))) for rank in ranks}
        except RuntimeError as error:
            log.debug("rank %d: the store of rank 0 does not answer: %s", self.worker.rank, error)
            return {}

    def _give_up(self, own: Position, everyone: Mapping[int, Position]) -> None:
        line, behind = verdict(own, everyone, self.hosts)
        speaker = min((rank for rank in everyone if rank not in behind), default=self.worker.rank)
        if self.worker.rank == speaker or self.worker.rank in behind:
            log.error("%s", line)
        for act in last_words:
            act(line)
        # Till the others have looked, too, before this one's end is an error to them; rank 0 has the store.
        time.sleep((3 if self.worker.first else 2) * max(0.5, self.timeout_s / LOOKS))
        sys.stderr.flush()
        if not self._stop.is_set():  # else it has gone on after all
            os._exit(STALLED)


def verdict(own: Position, everyone: Mapping[int, Position], hosts: Sequence[str]) -> tuple[str, Sequence[int]]:
    """What a worker that stands still, as `own` says, makes of the others' positions: a line, and the ranks it names.

    These are the ranks behind all others, for which the others wait. `hosts` are the machines of all ranks.
    """
    if not everyone:
        return f"{_named([0], hosts)} stalled: it has not answered for {own.seconds:.0f} s, nor has its machine", [0]
    if silent := [rank for rank in range(len(hosts)) if rank not in everyone]:
        return f"{_named(silent, hosts)} stalled before the first step", silent
    least, most = (one(position.progress for position in everyone.values()) for one in (min, max))
    if least == most:
        where = f"step {own.step}, in {own.part}"
        return f"all {len(hosts)} ranks stand at {where}, for {own.seconds:.0f} s: an exchange between them hangs", []
    behind = [rank for rank in sorted(everyone) if everyone[rank].progress == least]
    one = everyone[behind[0]]
    return (
        f"{_named(behind, hosts)} stalled at step {one.step}, in {one.part}, for "
        f"{max(one.seconds, own.seconds):.0f} s; the other ranks wait (optimizer.stall_timeout_s)"
    ), behind


def _named(ranks: Sequence[int], hosts: Sequence[str]) -> str:
    """Some ranks with their machines: `rank 1 of 3 (b) has`, `ranks 1, 2 (b), 3 (c) of 4 have`."""
    if len(ranks) == 1:
        return f"rank {ranks[0]} of {len(hosts)} ({hosts[ranks[0]]}) has"
    machines = list(dict.fromkeys(hosts[rank] for rank in ranks))
    told = [
        f"{', '.join(str(rank) for rank in ranks if hosts[rank] == one)} ({one})" for one in machines[:SHOWN_MACHINES]
    ]
    more = f" and those of {len(machines) - SHOWN_MACHINES} more machines" if len(machines) > SHOWN_MACHINES else ""
    return f"ranks {', '.join(told)}{more} of {len(hosts)} have"


def _patience_s(timeout_s: float) -> float:
    """How long rank 0 may take to answer."""
    return min(60.0, timeout_s)


def _store(worker: Worker, timeout_s: float) -> Any:
    """A store of keys in rank 0's process, which answers while its Python stands still."""
    first = os.environ.get("MASTER_ADDR", "localhost")  # of rank 0, by torchrun and Ray Train
    patience = timedelta(seconds=_patience_s(timeout_s))
    store, port = None, [0]
    if worker.first:
        store = dist.TCPStore(first, 0, is_master=True, wait_for_workers=False, timeout=patience)
        port = [store.port]
    dist.broadcast_object_list(port, 0, device=worker.device)
    return store or dist.TCPStore(first, port[0], is_master=False, timeout=patience)
