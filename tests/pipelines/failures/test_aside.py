from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from blip_bootstrap.errors import InputError, RunFailed
from blip_pipelines.failures.aside import Aside, Died
from blip_pipelines.failures.limits import Limits

LIMITS = Limits(row_timeout_s=30.0)


def working() -> Callable[[list[str]], list[str]]:
    return lambda texts: [did(text) for text in texts]


def did(text: str) -> str:
    if text == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if text == "wrong":
        raise InputError("list.tsv: no column")
    if text == "memory":
        raise MemoryError
    if text.startswith("/"):
        Path(text).touch()
        ctypes.PyDLL(None).sleep(120)  # with the interpreter's lock
    if text == "print":
        print("to standard output")
    return f"{text}!"


def not_working() -> Callable[[list[str]], list[str]]:
    os._exit(3)


def test_a_child_does_work_and_its_death_costs_the_row_alone() -> None:
    aside = Aside("test", working, LIMITS)
    made = list(aside.each(["a", "print", "kill", "b", "c"], 4))
    assert [batch for batch, _ in made] == [["a"], ["print"], ["kill"], ["b"], ["c"]]
    assert [answer for _, answer in made if not isinstance(answer, Died)] == [["a!"], ["print!"], ["b!"], ["c!"]]
    (died,) = [answer for _, answer in made if isinstance(answer, Died)]
    assert (died.reason, str(died)) == (
        "out_of_memory",
        "the process was killed, as Linux does where memory runs out",
    )
    assert aside.num_deaths == 3
    with pytest.raises(InputError, match="no column"):
        aside(["wrong"])
    with pytest.raises(Died, match="had no memory"):
        aside(["memory"])
    assert aside(["d"]) == ["d!"]
    (child,) = aside._held
    aside.close()
    assert not psutil.pid_exists(child.pid)


def test_a_child_that_does_not_start_is_no_rows_fault() -> None:
    with pytest.raises(RunFailed, match=r"test: a process of its own does not start: the process ended with 3; run"):
        Aside("test", not_working, LIMITS)(["a"])


def hang_in_a_child(marker: Path) -> None:
    Aside("test", working, LIMITS)([str(marker)])


def test_a_child_that_hangs_ends_with_whoever_started_it(tmp_path: Path) -> None:
    worker = multiprocessing.get_context("spawn").Process(target=hang_in_a_child, args=(tmp_path / "hangs",))
    worker.start()
    assert worker.pid
    while not (tmp_path / "hangs").exists():
        assert worker.is_alive()
        time.sleep(0.05)
    children = psutil.Process(worker.pid).children()
    worker.kill()
    worker.join()
    assert psutil.wait_procs(children, timeout=30)[1] == []
