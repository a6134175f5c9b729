"""The lock on a run: who works on it, so that two processes never write one root.

On a disk the system keeps the lock, and it ends with the process. On a store it is a file, `.lock`, that is made by a
put which fails where there is one, and renewed each `BEAT_S` by a put which fails where another wrote it. A holder that
was killed leaves it: one of this machine is known to be gone, and one of another counts as stale after `STALE_S`.
"""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from blip_bootstrap.errors import ConfigError, InputError, RunFailed, RunInUse
from blip_bootstrap.storage.files import make_folder
from blip_bootstrap.storage.remote import LOCK, compare, working_in
from blip_bootstrap.stores.client import Store, why
from blip_bootstrap.stores.store import store_of

BEAT_S, STALE_S = 30.0, 600.0

PATIENCE_S = 3.0
"""Seconds for a command that reads the run to have compared the working copy."""

Holder = Mapping[str, Any]

_held: set[str] = set()
"""The locks that this process has."""

_mine = threading.local()
"""The roots on disks whose lock this thread has for several commands (`roots`)."""


@contextmanager
def locked(root: Path, for_several: bool = False) -> Iterator[None]:
    """Hold the run's lock; RunFailed, on a disk RunInUse, says who has it since when, where another process does.

    The working copy of a run on a store is made equal to the store, once nobody else can write there. `for_several`, of
    a run on a disk: what this thread does in the body may ask for the lock again, as several commands under one lock.
    Raises ConfigError where `root` cannot be written.
    """
    with _locked_here(root, for_several) if (store := store_of(root)) is None else _locked_there(store):
        yield


def break_lock(root: Path) -> str:
    """Take the lock of a run on a store from its holder, who then ends before it writes a record; what was done.

    Raises InputError for a run on a disk: there the lock ends with the process that has it.
    """
    if (store := store_of(root)) is None:
        raise InputError(f"{root}: --break-lock is for runs on a store; here the lock ends with its process, stop that")
    with store.asking("read", LOCK):
        found = _read(store)
    if found is None:
        return f"{store.told}: nobody has the lock"
    store.delete([LOCK])
    return f"{store.told}: the lock of {told(found[0])} is broken"


@dataclass(frozen=True)
class Held:
    """Who has a run's lock, or had it last; `alive`: whether that process works on the run, None: not to be told."""

    user: str
    host: str
    pid: int
    since: str
    alive: bool | None


def held_by(root: Path) -> Held | None:
    """Who has the lock of a run, or had it last; None where nobody did. Nothing is changed, and nobody is kept waiting.

    Of a run on a store a process of this machine is known to live or not; another one lives if it was heard of within
    three beats. Of one on a disk the system says it, but for processes of other machines, of which some file systems
    do not tell.
    """
    if store := store_of(root):
        with store.asking("read", LOCK):
            found = _read(store)
        if found is None:
            return None
        age_s = _age_s(found[0])
        lives = True if age_s is not None and age_s < 3 * BEAT_S else None
        return _held_by(found[0], False if _is_gone(found[0]) else lives)
    try:
        with (root / LOCK).open(encoding="utf-8") as file:
            is_held = _is_held(file)
            holder = json.loads(file.read())
    except (OSError, ValueError):  # or it is being written
        return None
    is_of_here = list(holder.get("process") or [])[:1] == _process()[:1]
    return _held_by(holder, True if is_held else False if is_of_here else None)


def _is_held(file: Any) -> bool:
    """Whether another process holds a file's lock, which is asked for and given back."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(file, fcntl.LOCK_UN)
    return False


def _held_by(holder: Holder, alive: bool | None) -> Held:
    user, _, host = str(holder.get("who", "")).rpartition("@")
    return Held(user, host, int(holder.get("pid", 0)), str(holder.get("since", "")), alive)


@contextmanager
def _locked_here(root: Path, for_several: bool) -> Iterator[None]:
    roots, name = vars(_mine).setdefault("roots", set()), str(root.absolute())
    if name in roots:
        yield
        return
    with _first(root):
        roots |= {name} if for_several else set()
        try:
            yield
        finally:
            roots.discard(name)


@contextmanager
def _first(root: Path) -> Iterator[None]:
    try:
        make_folder(root)
        file = (root / LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise ConfigError([f"root: {root} cannot be written ({error.strerror})"]) from error
    with file:
        try:
            _take(file)
        except BlockingIOError as error:
            raise RunInUse(f"{root}: another run is working on it{_holder_in(file)}; wait for it or stop it") from error
        file.truncate(0)
        file.write(json.dumps(_me()) + "\n")
        file.flush()
        yield


def _take(file: Any) -> None:
    """Take the lock of a file. Raises BlockingIOError where another has it, and not only for a moment, as `held_by`."""
    tries = 3
    for left in reversed(range(tries)):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if not left:
                raise
            time.sleep(0.05)


def _holder_in(file: Any) -> str:
    file.seek(0)
    try:
        return f" ({told(json.loads(file.read()))})"
    except (ValueError, KeyError, TypeError):  # of an earlier version, or being written
        return ""


@contextmanager
def _locked_there(store: Store) -> Iterator[None]:
    with working_in(store.folder, alone=True, patience_s=PATIENCE_S) as is_free:
        if not is_free:
            with store.asking("read", LOCK):
                found = _read(store)
            raise RunFailed(_taken(store, found[0] if found else {"seen": _now(), "who": "of this machine"}))
        lock = StoreLock(store)
        lock.take()
        store.check = lock.check
        try:
            with store.asking("read"):
                compare(store)
            yield
        finally:
            store.check = lambda: None
            lock.leave()


class StoreLock:
    """This process's hold on a run on a store."""

    def __init__(self, store: Store) -> None:
        self.store, self.me, self.tag = store, _me(), ""
        self._ends, self._thread = threading.Event(), threading.Thread(target=self._beat, daemon=True)

    def take(self) -> None:
        """Take the lock, also that of a process of this machine that is gone; RunFailed where another has it."""
        from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError  # runs on stores alone need it

        try:
            try:
                self._put("create")
            except AlreadyExistsError:
                found = _read(self.store)
                if found and not _is_gone(found[0]):
                    raise RunFailed(_taken(self.store, found[0])) from None
                self._put({"e_tag": found[1]} if found else "create")
        except (AlreadyExistsError, PreconditionError) as error:  # in this moment
            raise RunFailed(f"{self.store.told}: another run has just begun to work on it") from error
        except (BaseError, OSError) as error:
            raise ConfigError([f"root: {self.store.told} cannot be written ({why(error)})"]) from error
        _held.add(str(self.me["id"]))
        self._thread.start()

    def _put(self, mode: Any) -> None:
        content = json.dumps({**self.me, "seen": _now()}).encode()
        self.tag = str(self.store.writer.put(self.store.key(LOCK), content, mode=mode)["e_tag"])

    def _beat(self) -> None:
        while not self._ends.wait(BEAT_S):
            with suppress(
                Exception
            ):  # taken from us, which `check` finds; or no answer, and the next beat may have one
                self._put({"e_tag": self.tag})

    def check(self) -> None:
        """Raise RunFailed where the lock was broken, before something is written that makes others' work count."""
        with self.store.asking("read", LOCK):
            found = _read(self.store)
        if found is None or found[0].get("id") != self.me["id"]:
            by = f"; now {told(found[0])} works on it" if found else ""
            raise RunFailed(f"{self.store.told}: the lock of this run was broken{by}; it ends, what is made is kept")

    def leave(self) -> None:
        """Give the lock back, if it is still ours; a store that does not answer leaves it to be found stale."""
        self._ends.set()
        _held.discard(str(self.me["id"]))
        if self._thread.ident:
            self._thread.join()
        with suppress(Exception):
            found = _read(self.store)
            if found and found[0].get("id") == self.me["id"]:
                self.store.delete([LOCK])


def _read(store: Store) -> tuple[dict[str, Any], str] | None:
    """Who has the lock, and the version of the file that says so; None where nobody has."""
    try:
        found = store.writer.get(store.key(LOCK))
    except FileNotFoundError:
        return None
    tag = str(found.meta["e_tag"])
    try:
        holder = json.loads(bytes(found.bytes()))
    except ValueError:
        holder = {}
    return (holder if isinstance(holder, dict) else {}), tag


def _taken(store: Store, holder: Holder) -> str:
    age_s = _age_s(holder)
    if age_s is not None and age_s < STALE_S:
        return f"{store.told}: another run is working on it ({told(holder)}); wait for it or stop it"
    seen = f"not heard of for {age_s / 60:.0f} min" if age_s is not None else "not known"
    return (
        f"{store.told}: locked by {told(holder)}, {seen}; if it is gone for sure, `--break-lock` takes the lock from it"
    )


def told(holder: Holder) -> str:
    """Who a holder is, for people."""
    return f"{holder.get('who', 'somebody')}, process {holder.get('pid', '?')}, since {holder.get('since', '?')}"


def _age_s(holder: Holder) -> float | None:
    try:
        return time.time() - datetime.fromisoformat(str(holder["seen"])).timestamp()
    except (KeyError, ValueError):
        return None


def _me() -> dict[str, Any]:
    who, now = f"{_user()}@{socket.gethostname()}", _now()
    return {"who": who, "pid": os.getpid(), "since": now, "seen": now, "id": uuid.uuid4().hex, "process": _process()}


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"uid-{os.getuid()}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _process(pid: int | None = None) -> list[str]:
    """What tells a process from any other, of any machine, container or time: boot, namespace, and when it began."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        space = str(Path("/proc/self/ns/pid").readlink())
        began = Path(f"/proc/{pid or os.getpid()}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return []
    return [boot, space, began]


def _is_gone(holder: Holder) -> bool:
    """Whether a holder is a process of this machine that is not running any more; False where one cannot know."""
    theirs, mine = holder.get("process") or [], _process()
    if not isinstance(theirs, list) or len(theirs) != 3 or not mine or theirs[:2] != mine[:2]:
        return False
    if theirs == mine:  # this process: an end without a network could not give it back
        return holder.get("id") not in _held
    return _process(int(holder.get("pid", 0)) or -1) != theirs
