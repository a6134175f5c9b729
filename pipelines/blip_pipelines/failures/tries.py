"""How often an item was begun in a process that died before its end; for processes that nobody watches.

Ray's workers are watched by the command. Where the command does an item itself, a crash ends the command, and the next
one must know which items were at work.
"""

from __future__ import annotations

from pathlib import Path

MAX_TRIES = 2
"""An item that was at work in so many processes that died is done in a process of its own (`aside.py`) from then on.
Once is not enough: a kill -9 or a power cut says nothing about the item that it met."""


def begin(item: Path) -> None:
    """Note that the file `item` is being made. A kill of this process leaves the note."""
    note = _note(item)
    note.parent.mkdir(parents=True, exist_ok=True)
    with note.open("ab") as file:
        file.write(b".")


def end(item: Path) -> None:
    """The file was made, or the process ends on its own account, as after Ctrl-C."""
    _note(item).unlink(missing_ok=True)


def is_suspect(item: Path) -> bool:
    """Whether so many processes that were making this file died that it may be what they died of."""
    note = _note(item)
    return note.exists() and note.stat().st_size >= MAX_TRIES


def _note(item: Path) -> Path:
    return item.with_name(f".{item.stem}.tries")
