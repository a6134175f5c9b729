"""What the rule does to variety: all texts beside as many kept ones, against counting in Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from blip_bootstrap.audit.audits import audit
from blip_bootstrap.schemas import tables
from blip_bootstrap.storage import parquet


def variety(root: Path) -> dict[tuple[str, str], dict[str, Any]]:
    rows = audit(root, 1, ["variety"])[0].table.to_pylist()
    return {(row["source"], row["fate"]): row for row in rows}


def write(root: Path, rows: list[dict[str, Any]], distinctness: float | None = None) -> None:
    same = {"source": "synthetic", "candidate": 0}
    for name, table in (("pairs", tables.PAIRS), ("captions", tables.CAPTIONS)):
        empty = dict.fromkeys(table.schema.names)
        some = [
            {k: v for k, v in (empty | same | row | {"distinctness": distinctness}).items() if k in empty}
            for row in rows
        ]
        folder = root / "round-01" / name
        parquet.write_parquet(folder / "part-00000.parquet", parquet.rows_to_table(some, table), table)


def text(at: int, caption: str, kept: bool = True) -> dict[str, Any]:
    return {"key": f"{at:010d}", "caption": caption, "kept": kept}


def test_it_agrees_with_counting_in_python(tmp_path: Path) -> None:
    said = ["A red dog", "a red dog", "a dog on a red mat", "two cats"]
    write(tmp_path, [text(at, one) for at, one in enumerate(said)], distinctness=0.5)
    row, kept = variety(tmp_path)["synthetic", "all"], variety(tmp_path)["synthetic", "kept"]
    assert {name: row[name] for name in row if name != "fate"} == {name: kept[name] for name in row if name != "fate"}
    assert (row["texts"], row["distinct_share"], row["most_common"]) == (4, 0.75, "a red dog")
    assert (row["most_common_share"], row["distinct_words"]) == (0.5, 7)
    assert row["distinct_2"] == pytest.approx(7 / 10), "a red, red dog, a dog, dog on, on a, red mat, two cats"
    assert row["distinct_3"] == pytest.approx(5 / 6)
    assert (row["words_per_text"], row["distinctness"], row["informativeness"]) == (3.5, 0.5, None)


def test_as_many_of_all_as_were_kept(tmp_path: Path) -> None:
    rows = [text(at, "the same text" if at % 10 == 0 else f"text {at}", kept=at % 10 == 0) for at in range(1000)]
    write(tmp_path, rows)
    found = variety(tmp_path)
    assert found["synthetic", "all"]["texts"] == found["synthetic", "kept"]["texts"] == 100
    assert found["synthetic", "kept"]["distinct_share"] == 0.01
    assert found["synthetic", "all"]["distinct_share"] > 0.8
    assert found == variety(tmp_path)


def test_where_nothing_is_kept_all_texts_stand_alone(tmp_path: Path) -> None:
    write(tmp_path, [text(at, f"text {at}", kept=False) for at in range(30)])
    found = variety(tmp_path)
    assert found.keys() == {("synthetic", "all")}
    assert found["synthetic", "all"]["texts"] == 30
