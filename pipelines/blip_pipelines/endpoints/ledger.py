"""What a run has asked of endpoints: an account in a folder that all its workers see, and the budget that it keeps."""

from __future__ import annotations

import os
import re
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path

from blip_bootstrap.storage.files import write_whole
from blip_bootstrap.stores.store import gone, sizes_there

STEP = 32
"""Requests that a worker notes ahead of sending them, at least, so that it does not write for each."""

SHARE = 0.002
"""What part of the requests that are left it notes ahead, where that is more."""


NAME = re.compile(r"(?P<worker>.+)\.(?P<number>\d+)\.(?P<requests>\d+)\.(?P<tokens>\d+)\.spent")
"""A note is a name alone: all of them are read by one listing of the folder, on a store too."""


@dataclass(frozen=True)
class Account:
    """Requests that were sent, or are about to be, and tokens that servers counted."""

    requests: int = 0
    tokens: int = 0

    def __add__(self, other: Account) -> Account:
        return Account(self.requests + other.requests, self.tokens + other.tokens)


class Ledger:
    """Keeps a budget over all workers of a run and all its tries.

    Each worker has a note of its own in `folder`, which may be of a run on a store, and notes requests there before it
    sends them, some at a time. Before it notes more it adds up everybody's notes: the sum of requests never passes
    `most_requests`, where a file that was written is seen by who lists the folder after. Tokens are known after an
    answer alone: `most_tokens` is passed by what all workers have in flight, at most, and by what they noted of late.
    What a killed worker had noted counts as sent, which is so but for a few. None: no limit; without a folder the
    budget is this worker's alone.
    """

    def __init__(self, folder: Path | None, most_requests: int | None = None, most_tokens: int | None = None) -> None:
        self.folder, self._most_requests, self._most_tokens = folder, most_requests, most_tokens
        self._worker = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex}"
        self._note: Path | None = None
        self._number = 0
        self._noted = 0
        self._used = Account()
        self._others = Account()
        self._in_flight, self._num_settled = 0, 0
        self._read_at = 0
        self._is_spent = False

    def take(self) -> bool:
        """Whether one more request may be sent; it counts as sent from here on. `settle` follows, whatever comes."""
        if self._is_spent:
            return False
        if self._tokens_are_close():
            self._compare()
        if self._used.requests >= self._noted:
            self._note_ahead()
        self._is_spent = self._used.requests >= self._noted or not self._has_tokens()
        if not self._is_spent:
            self._used += Account(requests=1)
            self._in_flight += 1
        return not self._is_spent

    def settle(self, tokens: int, was_sent: bool = True) -> None:
        """A request is over, and the server counted so many tokens for it; one that was not sent counts no more."""
        self._used += Account(0 if was_sent else -1, tokens)
        self._in_flight -= 1
        self._num_settled += bool(tokens)

    def write(self) -> None:
        """Note what was sent, and no more than that: a batch is over. By the next one others may have left some."""
        self._noted, self._is_spent = self._used.requests, False
        self._put()

    def spent(self) -> Account:
        """What all workers together have noted, in this try of the run and in those before it."""
        noted = noted_in(self.folder) if self.folder else {}
        self._others = sum((one for worker, one in noted.items() if worker != self._worker), Account())
        return self._others + Account(self._noted, self._used.tokens)

    def _note_ahead(self) -> None:
        left, before = self._left(self.spent()), self._noted
        more = STEP if left is None else max(0, min(left, max(STEP, int(left * SHARE))))
        if not more:
            return
        self._noted = self._used.requests + more
        self._put()
        over = -(self._left(self.spent()) or 0)
        if over > 0:  # another has noted at the same time
            self._noted = max(before, self._noted - over)
            self._put()

    def _compare(self) -> None:
        """Let others see which tokens were used here, and see theirs."""
        self._read_at = self._num_settled
        self._put()
        self.spent()

    def _left(self, spent: Account) -> int | None:
        return None if self._most_requests is None else self._most_requests - spent.requests

    def _has_tokens(self) -> bool:
        return self._most_tokens is None or self._expected_tokens() < self._most_tokens

    def _expected_tokens(self) -> float:
        """All that were counted, and what is in flight here, by the mean of the answers so far."""
        each = self._used.tokens / self._num_settled if self._num_settled else 0
        return self._others.tokens + self._used.tokens + each * self._in_flight

    def _tokens_are_close(self) -> bool:
        """Whether to see what others used: in the last tenth of the budget, after each STEP answers."""
        if self._most_tokens is None or self._num_settled < self._read_at + STEP:
            return False
        return self._expected_tokens() > 0.9 * self._most_tokens

    def _put(self) -> None:
        """Replace the note: the new one is there before the old one goes."""
        told = f"{self._noted}.{self._used.tokens}.spent"
        if self.folder is None or (self._note and self._note.name.endswith(f".{told}")):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        before, self._number = self._note, self._number + 1
        self._note = self.folder / f"{self._worker}.{self._number}.{told}"
        write_whole(self._note, "")
        if before:
            gone(before)


def noted_in(folder: Path) -> dict[str, Account]:
    """Each worker's last note: there may be two of one for a moment, and of who was killed then."""
    names = {one.name for one in folder.glob("*.spent")} | sizes_there(folder).keys()
    found = [match for match in map(NAME.fullmatch, names) if match]
    found.sort(key=lambda note: int(note["number"]))
    return {note["worker"]: Account(int(note["requests"]), int(note["tokens"])) for note in found}
