"""Runs of the small loop in children, which are watched, killed at an operation, or given a full disk.

Children are forked from a process that has imported everything (`warmed.py`), so that each costs a third of a second.
"""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from tests.support.operations import Operation, Watch, When

KILLED = 75
"""The exit status of a child that died where it was told to."""

Guard = Literal["", "sync", "manifest last", "whole files", "sizes", "kept", "lock"]
"""A guard of the product that a negative control switches off in a child."""


@dataclass(frozen=True)
class Plan:
    """What befalls a run: it dies at an operation, or from one on there is no space left for writes."""

    at: int = -1
    when: When = "before"
    full: bool = False


@dataclass(frozen=True)
class Job:
    """One run: the folder that has `given/` and `disk/run/`, settings, rounds, what befalls it, what is kept of it.

    `given` are the inputs, where they are not the folder's own.
    """

    folder: Path
    settings: tuple[str, ...] = ()
    last: int = 1
    plan: Plan = field(default_factory=Plan)
    records: bool = False
    pages: bool = False
    off: Guard = ""
    given: Path | None = None

    @property
    def root(self) -> Path:
        return self.folder / "disk/run"


@dataclass(frozen=True)
class Outcome:
    """How a run ended: lines it said, the error in a line, where it died; operations; what it paid for."""

    code: int
    said: list[str]
    error: str
    died: str
    operations: list[Operation]
    paid: list[tuple[str, str]]

    @property
    def made(self) -> list[str]:
        """What a step was run for: `round-01/captions`."""
        told = (line.partition(": ") for line in self.said)
        return [name for name, _, what in told if name != "overview" and what.split(" ")[0].isidentifier()
                and not what.startswith(("current", "making", "done", "nothing", "kept"))]  # fmt: skip

    @property
    def goes_on(self) -> list[str]:
        """Of those, what was half-made."""
        return [line.partition(":")[0] for line in self.said if line.endswith("(going on)")]


def run_forked(job: Job) -> Outcome:
    """Run one job in a child; its outcome once it has ended."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.warmed"])
    there, here = context.Pipe(duplex=False)
    noted = job.folder / "ledger"
    noted.unlink(missing_ok=True)
    child = context.Process(target=_work, args=(job, here))
    child.start()
    here.close()
    operations: list[Operation] = []
    with suppress(EOFError):  # of a child that died
        operations = there.recv()
    child.join()
    lines = [json.loads(line) for line in noted.read_text().splitlines()] if noted.exists() else []
    # As the child noted it: the process that forks children now and then loses the status of one, and says 255.
    code = next((int(words[1]) for words in lines if words[0] == "code"), child.exitcode)
    assert code is not None
    child.close()

    def told(kind: str) -> list[str]:
        return [words[1] for words in lines if words[0] == kind]

    paid = [(words[0], words[1]) for words in lines if words[0] in ("fetch", "caption", "step")]
    return Outcome(code, told("say"), "".join(told("error")), "".join(told("died")), operations, paid)


def _work(job: Job, answer: Connection) -> None:
    """In the child: run, and end with 0, 1 for an error of one line, 3 for a fault of the program, or KILLED."""
    from blip_bootstrap.errors import BlipBootstrapError, in_one_line  # already there, by the fork
    from tests.support import small_loop

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sys.stderr = os.fdopen(os.dup(2), "w")
    note = small_loop.ledger(job.folder / "ledger")
    (job.folder / "disk").mkdir(exist_ok=True)
    _switch_off(job.off)
    _without_note()
    operations: list[Operation] = []
    Watch(job.folder / "disk", _act(job, operations, note))
    code = 0
    try:
        config = small_loop.config_of(job.root, job.given or job.folder / "given", job.settings)
        small_loop.run(config, job.last, lambda line: note("say", line), note, job.pages)
    except (BlipBootstrapError, OSError) as error:
        told = str(error) if isinstance(error, BlipBootstrapError) else in_one_line(error)
        note("error", told or traceback.format_exc())
        code = 1 if told else 3
    except BaseException:  # noqa: BLE001 - a fault is told to the test
        note("error", traceback.format_exc())
        code = 3
    note("code", code)
    answer.send(operations)
    answer.close()
    os._exit(code)


def _act(job: Job, operations: list[Operation], note: Callable[..., None]) -> Callable[[Operation, When], bool]:
    plan = job.plan

    def act(operation: Operation, when: When) -> bool:
        at_it = operation.number == plan.at
        if plan.full and operation.number >= plan.at >= 0 and when == "before":
            if operation.kind in ("create", "write", "mkdir", "symlink"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return False
        if at_it and when == plan.when and not plan.full:
            note("died", f"{when} {operation}")
            note("code", KILLED)
            os._exit(KILLED)
        if when == "after" and job.records:
            operations.append(operation)
        return at_it and plan.when == "half"

    return act


def _without_note() -> None:
    """Let no thread write the note of progress, at moments of its own: it tells, and nothing is made by it."""
    from blip_bootstrap.loop import at_work
    from tests.support.operations import replace_everywhere

    replace_everywhere(at_work.noted, lambda *step: nullcontext())


def _switch_off(guard: Guard) -> None:
    import pyarrow.parquet as pq

    from blip_bootstrap.loop import artifacts
    from blip_bootstrap.storage import files, parquet, verify
    from tests.support.operations import replace_everywhere

    if guard == "sync":
        replace_everywhere(files.sync, lambda path: None)
    elif guard == "manifest last":
        replace_everywhere(parquet.write_parquet, _with_manifest_first(parquet.write_parquet))
    elif guard == "whole files":
        replace_everywhere(files.staged_file, _in_place)
    elif guard == "sizes":
        replace_everywhere(artifacts.damaged_files, lambda folder, manifest: [])
        replace_everywhere(verify.check_input, lambda folder, manifest, reads: None)
        replace_everywhere(parquet.open_parquet, lambda path: pq.ParquetFile(path.absolute()))
    elif guard == "kept":
        replace_everywhere(artifacts.begin, _alone(artifacts.begin))
    elif guard == "lock":
        sys.modules["fcntl"].flock = lambda *_: None  # type: ignore[attr-defined]


def _with_manifest_first(write: Any) -> Any:
    """Each part of an artifact is followed by a MANIFEST, as if it were whole by then."""

    def first(path: Path, *rest: Any, **known: Any) -> None:
        from blip_bootstrap.storage.manifest import describe_files, manifest_of

        write(path, *rest, **known)
        begun = path.parent / ".recipe.json"
        if begun.exists():
            told = json.loads(begun.read_text())
            whole = manifest_of(told["name"], told["recipe"], None, {}, 0, describe_files(path.parent))
            (path.parent / "MANIFEST.json").write_text(json.dumps(whole))

    return first


def _in_place(path: Path) -> Any:
    return nullcontext(path)


def _alone(begin: Any) -> Any:
    """As the layout before had it: what a step makes takes the place of what it made before."""

    def alone(root: Path, output: Any, recipe: Any, *rest: Any) -> Any:
        import shutil

        for folder in (root / "artifacts" / recipe["step"]).glob("*"):
            told = folder / "MANIFEST.json"
            if told.exists() and json.loads(told.read_text())["name"] == output.name:
                shutil.rmtree(folder)
        return begin(root, output, recipe, *rest)

    return alone
