"""What a run has asked of endpoints: an account in a folder that all its workers see, and the budget that it keeps."""

from __future__ import annotations

import json
import os
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path

from blip_bootstrap.errors import RunFailed
from blip_bootstrap.storage.files import write_whole

STEP = 32
"""Requests that a worker notes ahead of sending them, at least, so that it does not write for each."""

SHARE = 0.002
"""What part of the requests that are left it notes ahead, where that is more."""


@dataclass(frozen=True)
class Account:
    """Requests that were sent, or are about to be, and tokens that servers counted."""

    requests: int = 0
    tokens: int = 0

    def __add__(self, other: Account) -> Account:
        return Account(self.requests + other.requests, self.tokens + other.tokens)


class Ledger:
    """Keeps a budget over all workers of a run and all its tries.

    Each worker has a file of its own in `folder`, and notes requests there before it sends them, some at a time. Before
    it notes more it adds up everybody's files: the sum of requests never passes `most_requests`, on a file system where
    a file that was written is seen by who lists the folder after. Tokens are known after an answer alone: `most_tokens`
    is passed by what is in flight at most, with all workers, as it is judged by the mean of a worker's answers. What a
    killed worker had noted counts as sent, which is so but for a few. None: no limit.
    """

    def __init__(self, folder: Path, most_requests: int | None = None, most_tokens: int | None = None) -> None:
        self.folder, self._most_requests, self._most_tokens = folder, most_requests, most_tokens
        self._file = folder / f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex}.json"
        self._noted = 0
        self._used = Account()
        self._others = Account()
        self._in_flight, self._num_settled = 0, 0
        self._read_at = -1

    def take(self) -> bool:
        """Whether one more request may be sent; it counts as sent from here on. `settle` follows, whatever comes."""
        if self._used.requests >= self._noted or self._tokens_are_close():
            self._note_ahead()
        if self._used.requests >= self._noted or not self._has_tokens():
            return False
        self._used += Account(requests=1)
        self._in_flight += 1
        return True

    def settle(self, tokens: int, was_sent: bool = True) -> None:
        """A request is over, and the server counted so many tokens for it; one that was not sent counts no more."""
        self._used += Account(0 if was_sent else -1, tokens)
        self._in_flight -= 1
        self._num_settled += bool(tokens)

    def write(self) -> None:
        """Note what was sent, and no more than that: a batch is over."""
        self._noted = self._used.requests
        self._put()

    def spent(self) -> Account:
        """What all workers together have noted, in this try of the run and in those before it."""
        self._others = sum((account_of(one) for one in self._files()), Account())
        return self._others + Account(self._noted, self._used.tokens)

    def _note_ahead(self) -> None:
        self._read_at = self._num_settled
        left = self._left(self.spent())
        more = left if left is None else min(left, max(STEP, int(left * SHARE)))
        before = self._noted
        self._noted = max(self._used.requests, before) + (STEP if more is None else max(0, more))
        self._put()
        if self._most_requests is not None:  # another may have noted at the same time
            over = self.spent().requests - self._most_requests
            if over > 0:
                self._noted = max(before, self._noted - over)
                self._put()

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

    def _files(self) -> list[Path]:
        return [one for one in self.folder.glob("*.json") if one != self._file]

    def _put(self) -> None:
        text = json.dumps({"requests": self._noted, "tokens": self._used.tokens})
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self._file, text)


def account_of(file: Path) -> Account:
    """What one worker noted. Raises RunFailed where the file is no account: the budget cannot be kept then."""
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        return Account(int(told["requests"]), int(told["tokens"]))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunFailed(
            f"{file}: no account of requests ({error}); delete it, and what it counted is forgotten"
        ) from error
