"""Seeds in processes of their own, several at a time; each has its log, and ends with the command."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from blip_bootstrap.ending import ended_early
from blip_bootstrap.experiment.plan import Job
from blip_bootstrap.experiment.seed import Tell, Told, run_seed
from blip_bootstrap.progress import tell as tell_line

Names = tuple[str, ...]

GOES_ON = "the same command goes on from here"


def run_seeds(job: Job, seeds: Sequence[int], names: Names, splits: Names, num_parallel: int, tell: Tell) -> None:
    """Run seeds in so many processes at a time; what becomes of their arms is told here.

    A process that dies takes the arms along that it has not told of. What a process says goes to seed-N.log.
    """
    spawn = multiprocessing.get_context("spawn")  # Ray and torch have threads, with which a fork is not safe
    waiting, running = [*seeds], dict[Connection, tuple[Any, int, set[str]]]()
    with _ended(running):
        while waiting or running:
            while waiting and len(running) < num_parallel:
                seed, (ours, theirs) = waiting.pop(0), spawn.Pipe(duplex=False)
                log = job.root / f"seed-{seed}.log"
                process = spawn.Process(target=_run, args=(job, seed, names, splits, theirs, log))
                process.start()
                theirs.close()
                running[ours] = process, seed, {*names}
            for one in wait([*running]):
                _receive(running, one, tell)  # type: ignore[arg-type]


def _receive(running: dict[Connection, tuple[Any, int, set[str]]], one: Connection, tell: Tell) -> None:
    """Tell what a process has sent; at its end, of the arms that it has said nothing of."""
    process, seed, left = running[one]
    try:
        told: Told = one.recv()
    except EOFError:
        process.join()
        del running[one]
        for name in sorted(left):
            why = f"its process ended with {process.exitcode}; see seed-{seed}.log"
            tell(Told(seed, name, "failed", text=why))
        return
    left.discard(told.arm)
    tell(told)


@contextmanager
def _ended(running: dict[Connection, tuple[Any, int, set[str]]]) -> Iterator[None]:
    """The processes end where the body does not."""
    try:
        yield
    finally:
        for process, _, _ in running.values():
            process.terminate()
        for process, _, _ in running.values():
            process.join(30)


def _run(job: Job, seed: int, names: Names, splits: Names, sent: Connection, log: Path) -> None:
    """In the process of a seed: run it, with all that is written to standard error in the log."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    log.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, sys.stderr.fileno())
    with ended_early(GOES_ON):
        run_seed(job, seed, names, splits, sent.send, tell_line)


def _end_with_parent() -> None:
    """A command that is killed leaves no process at work, which would hold the lock of its run."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)
