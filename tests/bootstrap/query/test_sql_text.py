from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import blip_bootstrap
from blip_bootstrap.query.sql_text import is_number, scan

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize("values", [(0.1, NAN, 0.9), (0.1, INF, NAN), (-INF, 0.5), (NAN, NAN), (None, NAN, 0.2)])
def test_numbers_are_told_from_nan_over_parquet_with_nulls_and_without(
    tmp_path: Path, values: tuple[float | None, ...]
) -> None:
    pq.write_table(pa.table({"score": pa.array(values, pa.float32())}), tmp_path / "scores.parquet")
    question = f"SELECT count(*) FROM {scan([tmp_path / 'scores.parquet'])} WHERE {is_number('score')}"
    ((number,),) = duckdb.execute(question).fetchall()
    assert number == sum(value is not None and value == value for value in values)


def test_no_audit_asks_by_isnan() -> None:
    """DuckDB answers NOT isnan(...) from a file's statistics, and wrongly; see `is_number`."""
    files = [*Path(blip_bootstrap.__file__).parent.rglob("*.sql")]
    assert len(files) > 20
    assert [file.name for file in files if "isnan" in file.read_text(encoding="utf-8").lower()] == []
