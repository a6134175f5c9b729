"""Every error of ours travels between processes as it is."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from blip_bootstrap import errors
from blip_bootstrap.errors import BlipBootstrapError, ConfigError, in_one_line


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


def test_a_file_that_duckdb_cannot_read_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "part-00000.parquet").write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    with duckdb.connect() as connection:
        with pytest.raises(duckdb.Error) as damaged:
            connection.execute(f"SELECT * FROM read_parquet('{tmp_path}/*.parquet')")
        with pytest.raises(duckdb.Error) as ours:
            connection.execute("SELECT nothing")
    told = in_one_line(damaged.value)
    assert told is not None
    assert told.endswith("which blip-bootstrap artifacts --verify names")
    assert "\n" not in told
    assert in_one_line(ours.value) is None
