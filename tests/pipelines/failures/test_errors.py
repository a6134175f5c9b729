"""What workers raise arrives as itself, whichever way the work was given to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from blip_bootstrap.config import RayConfig
from blip_bootstrap.errors import BlipBootstrapError, ConfigError, InputError, RunFailed
from blip_bootstrap.progress import Progress
from blip_pipelines.cluster.items import HERE, Pool, run_items
from blip_pipelines.cluster.tally import Counts
from blip_pipelines.failures.errors import packed, unpacked
from blip_pipelines.train.runner import Training, train

MISTAKES = ["a.b: wrong", "c.d: wrong, too"]


class OddError(Exception):
    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


class Failing:
    """A worker that doubles numbers, and raises where it is given 3."""

    def __init__(self, raises: Callable[[], Exception], *, tally: Counts) -> None:
        self._raises, self._tally = raises, tally

    def __call__(self, number: int) -> Iterator[int]:
        if number == 3:
            raise self._raises()
        self._tally.put(str(number), {"rows": 1})
        yield 2 * number


def ours() -> Exception:
    return ConfigError(MISTAKES)


def foreign() -> Exception:
    return KeyError("nothing here")


def given_back(error: Exception) -> BlipBootstrapError:
    try:
        raise error
    except Exception as caught:  # noqa: BLE001 - as a worker does
        return unpacked("test", packed(caught))


def test_ours_is_itself_with_the_workers_traceback() -> None:
    found = given_back(InputError("list.tsv: no column"))
    assert (type(found), str(found)) == (InputError, "list.tsv: no column")
    assert "raise error" in found.__notes__[0]


def test_a_foreign_one_is_the_cause_of_one_line() -> None:
    found = given_back(foreign())
    assert (type(found), str(found)) == (RunFailed, "test: KeyError: 'nothing here'; run again to go on")
    assert isinstance(found.__cause__, KeyError)


def test_one_that_cannot_be_read_back_is_told_in_words() -> None:
    found = given_back(OddError("out", "of order\nand more"))
    assert (str(found), found.__cause__) == ("test: OddError: out of order; run again to go on", None)


@pytest.mark.ray
def test_items_come_back_and_errors_as_themselves(ray_config: RayConfig) -> None:
    for pool in (HERE, Pool(2, 0.5)):
        found: list[int] = []
        with Progress("test", 4, "rows") as progress:
            run_items("test", [0, 1, 2, 4], partial(Failing, ours), pool, found.append, progress, {})
        assert (sorted(found), progress.done) == ([0, 2, 4, 8], 4)
        with Progress("test", 1, "rows") as progress, pytest.raises(ConfigError) as raised:
            run_items("test", [3, 3], partial(Failing, ours), pool, found.append, progress, {})
        assert raised.value.mistakes == MISTAKES
    with Progress("test", 1, "rows") as progress, pytest.raises(RunFailed, match=r"^test: KeyError: 'nothing") as other:
        run_items("test", [3], partial(Failing, foreign), Pool(1), found.append, progress, {})
    assert isinstance(other.value.__cause__, KeyError)


@pytest.mark.ray
@pytest.mark.parametrize("num_workers", [1, pytest.param(2, marks=pytest.mark.long)])
def test_trainings_raise_what_their_workers_raise(tmp_path: Path, ray_config: RayConfig, num_workers: int) -> None:
    """One worker is a Ray task, two are a TorchTrainer."""
    with pytest.raises(ConfigError) as raised:
        train(failing(ours, tmp_path, num_workers), ray_config)
    assert raised.value.mistakes == MISTAKES


@pytest.mark.ray
@pytest.mark.parametrize(
    ("num_workers", "told"),
    [
        (1, "KeyError: 'nothing here'; run again to go on"),
        # Another worker's death looks like an error of one's own: several workers are tried again.
        pytest.param(2, "failed 3 times in a row without a checkpoint (KeyError: 'nothing", marks=pytest.mark.long),
    ],
)
def test_trainings_tell_what_is_not_ours_in_a_line(
    tmp_path: Path, ray_config: RayConfig, num_workers: int, told: str
) -> None:
    with pytest.raises(RunFailed) as other:
        train(failing(foreign, tmp_path, num_workers), ray_config)
    assert str(other.value).startswith(f"pretrain: {told}")
    assert "\n" not in str(other.value)


def failing(raises: Callable[[], Exception], out: Path, num_workers: int) -> Training:
    def call(raises: Callable[[], Exception]) -> dict[str, Any]:
        raise raises()

    return Training("pretrain", out, 1, partial(call, raises), num_workers, threads=1, device="cpu")
