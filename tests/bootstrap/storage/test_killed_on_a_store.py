"""A run on a store that is killed before each request that changes something."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from blip_bootstrap.stores.client import Store
from tests.bootstrap.storage.store_runs import URI, on_store, stub_on
from tests.support.moto_store import Bucket, environment


def run_and_die(arguments: tuple[str, str, str, int]) -> None:
    """In a child: run to round 1, and die before the change number `dies_at`; tells how many there were."""
    folder, endpoint, cache, dies_at = arguments
    os.environ.update(environment(endpoint, Path(cache)))
    changes = 0

    class Dying:
        """obstore's client, until the process dies of it."""

        def __init__(self, client: Any) -> None:
            self.get = client.get
            self._client = client

        def put(self, *given: Any, **named: Any) -> Any:
            return self._change("put", given, named)

        def delete(self, *given: Any, **named: Any) -> Any:
            return self._change("delete", given, named)

        def _change(self, name: str, given: Any, named: Any) -> Any:
            nonlocal changes
            changes += 1
            if changes > dies_at:
                os._exit(9)
            return getattr(self._client, name)(*given, **named)

    made = Store._make_writer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "_make_writer", lambda self: Dying(made(self)))
        stub_on(URI, Path(folder), patch).run(1)
    (Path(folder) / "changes").write_text(str(changes))


def in_child(*arguments: Any) -> int:
    """The exit code of `run_and_die` in a process that has no client yet, forked from one that has imported all."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.bootstrap.storage.test_killed_on_a_store"])
    child = context.Process(target=run_and_die, args=((*map(str, arguments[:3]), arguments[3]),))
    child.start()
    child.join(120)
    assert child.exitcode is not None
    return child.exitcode


def kill_at(points: Iterator[int], bucket: Bucket, folder: Path, expected: dict[str, Any]) -> None:
    for point in points:
        bucket.clear()
        assert in_child(folder, bucket.endpoint, folder / f"killed-{point}", point) == 9
        assert in_child(folder, bucket.endpoint, folder / f"next-{point}", 10**9) == 0
        assert on_store(bucket) == expected, f"killed before change {point + 1}"
        shutil.rmtree(folder / f"killed-{point}")
        shutil.rmtree(folder / f"next-{point}")


@pytest.mark.parametrize("step", [17, pytest.param(1, marks=pytest.mark.long)])
def test_killed_before_a_change_of_the_store_the_same_command_goes_on_from_an_empty_copy(
    bucket: Bucket, tmp_path: Path, step: int
) -> None:
    assert in_child(tmp_path, bucket.endpoint, tmp_path / "whole", 10**9) == 0
    changes, expected = int((tmp_path / "changes").read_text()), on_store(bucket)
    assert changes > 40
    kill_at(iter(range(0, changes, step)), bucket, tmp_path, expected)
