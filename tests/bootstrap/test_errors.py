"""Every error of ours travels between processes as it is."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import pytest

from blip_bootstrap import errors
from blip_bootstrap.errors import BlipBootstrapError, ConfigError


def every_class(of: type[BlipBootstrapError] = BlipBootstrapError) -> Iterator[type[BlipBootstrapError]]:
    yield of
    for below in of.__subclasses__():
        yield from every_class(below)


OURS = sorted({one for one in every_class() if one.__module__ == errors.__name__}, key=lambda one: one.__name__)


@pytest.mark.parametrize("kind", OURS)
def test_an_error_survives_pickle(kind: type[BlipBootstrapError]) -> None:
    said = ["caption.candidates: 0", "select: no such section"]
    error = ConfigError(said) if kind is ConfigError else kind("list.tsv: no column")
    error.add_note("raised in a worker")
    found = pickle.loads(pickle.dumps(error))
    assert type(found) is kind
    assert (str(found), found.exit_code, vars(found)) == (str(error), error.exit_code, vars(error))
    assert found.__notes__ == ["raised in a worker"]
    if isinstance(found, ConfigError):
        assert found.mistakes == said


def test_the_classes_are_all_there() -> None:
    assert len(OURS) >= 7
