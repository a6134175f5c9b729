"""Workers whose rows are texts: a poisonous one does what it says, another comes back in capitals."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from blip_pipelines.cluster.items import RETRIES
from blip_pipelines.cluster.tally import Counts
from blip_pipelines.failures.aside import Aside, Died
from blip_pipelines.failures.limits import Limits, Watch
from tests.support.poison.acts import act

LIMITS = Limits(row_timeout_s=0.3, memory_bytes=700_000_000)
"""Hanging is found after 3 s, in the first batch of a process."""


class Plain:
    """An item is a list of texts; `log` gets a line for each that is begun."""

    def __init__(self, log: Path, *, tally: Counts) -> None:
        self._log = log

    def __call__(self, item: list[str]) -> Iterator[tuple[str, str]]:
        with Watch("test", LIMITS).watching() as watch, watch.batch(len(item)):
            with self._log.open("a") as file:
                file.write(f"{json.dumps(item)}\n")
            yield from [(text, shout(text)) for text in item]


class Careful:
    def __init__(self, log: Path, *, tally: Counts) -> None:
        self._aside, self._tally = Aside("test", shouting, LIMITS), tally

    def __call__(self, item: list[str]) -> Iterator[tuple[str, str]]:
        for batch, made in self._aside.each(item, 4):
            yield from [(batch[0], made.reason)] if isinstance(made, Died) else zip(batch, made, strict=True)
        self._tally.put(item[0], {"rows": len(item), RETRIES: self._aside.num_deaths})


def shouting() -> Callable[[list[str]], list[str]]:
    return lambda texts: [shout(text) for text in texts]


def shout(text: str) -> str:
    act(text)
    return text.upper()
