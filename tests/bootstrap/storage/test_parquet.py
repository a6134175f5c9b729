from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blip_bootstrap.errors import InputError
from blip_bootstrap.schemas.tables import PAIRS
from blip_bootstrap.storage.parquet import parquet_files, read_parquet, rows_to_table, write_parquet

ROW = {"key": "k", "source": "web", "candidate": 0, "caption": "a dog", "itm_score": None, "kept": True, "reason": None,
       "rejected": None, "rule_score": None, "informativeness": None}  # fmt: skip


@pytest.mark.parametrize("rows", [[], [ROW]])
def test_the_declared_schema_is_written_also_for_no_rows_and_all_null_columns(tmp_path: Path, rows: list[Any]) -> None:
    path = tmp_path / "part-00000.parquet"
    write_parquet(path, rows_to_table(rows, PAIRS), PAIRS, {"model": "m1"})
    stored = pq.ParquetFile(path)
    assert stored.schema_arrow.equals(PAIRS.schema)
    assert stored.read().to_pylist() == rows
    assert stored.schema_arrow.metadata[b"model"] == b"m1"
    assert stored.schema_arrow.field("kept").metadata[b"meaning"]


def test_a_column_too_many_or_too_few_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="reason"):
        write_parquet(tmp_path / "a.parquet", rows_to_table([ROW], PAIRS).drop(["reason"]), PAIRS)
    more = rows_to_table([ROW], PAIRS).append_column("extra", pa.array([1]))
    with pytest.raises(ValueError, match="extra"):
        write_parquet(tmp_path / "a.parquet", more, PAIRS)
    assert list(tmp_path.iterdir()) == []


def test_a_half_written_file_is_named_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "part-00000.parquet"
    write_parquet(path, rows_to_table([ROW] * 100, PAIRS), PAIRS)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"part-00000\.parquet: not a readable Parquet file") as caught:
        read_parquet(path)
    assert "\n" not in str(caught.value)


def test_staged_files_are_not_data(tmp_path: Path) -> None:
    for name in ("part-00001.parquet", "part-00000.parquet", ".part-00002.parquet.7.tmp", ".part-00003.parquet"):
        (tmp_path / name).touch()
    assert [p.name for p in parquet_files(tmp_path)] == ["part-00000.parquet", "part-00001.parquet"]


def test_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    """As where a host that is thought lost writes the block that another has been given; they may have one pid."""
    path = tmp_path / "part-00000.parquet"
    tables = [rows_to_table([ROW | {"candidate": writer}] * 10, PAIRS) for writer in range(8)]
    with ThreadPoolExecutor(len(tables)) as pool:
        for _ in range(10):
            list(pool.map(lambda table: write_parquet(path, table, PAIRS), tables))
            assert len(set(read_parquet(path)["candidate"].to_pylist())) == 1
    assert list(tmp_path.iterdir()) == [path]
