"""More lists beside those of an artifact: nothing that it has is read again, and the rows are those of a plan anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from blip_bootstrap.storage.parquet import parquet_files, read_parquet
from blip_pipelines.lists import growth, plan
from tests.pipelines.lists.growing_lists import Run, Web, own


def told(out: Path) -> list[tuple[Any, ...]]:
    """What the rows are, with the URL of the row that they name, in any order."""
    rows = [row for part in parquet_files(out) for row in read_parquet(part).to_pylist()]
    urls = {row["key"]: row["url"] for row in rows}
    names = ("url", "caption", "uid", "status", "error_class")
    return sorted((*(str(row[name]) for name in names), str(urls.get(row["same_as"]))) for row in rows)


def test_a_list_beside_is_cut_alone(run: Run, web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = web.rows(range(10)), [*web.rows([3, 20, 21, 20]), (web.rows([4])[0][0], "another text"), (" ", "")]
    whole = run(first)
    web.fetched()
    with monkeypatch.context() as patch:
        for module, name in ((plan, "fill_pool"), (plan, "Growing"), (growth, "write_known")):
            patch.setattr(module, name, None)  # what reads the rows that are there
        grown = run(first, second)
    counts = dict(run.counts)
    assert [path.is_symlink() for path in parquet_files(grown)] == [True] * 3 + [False] * 2
    assert {one.name for one in (grown / "rows").iterdir() if one.is_symlink()} == {*own(whole)}
    anew = Run(run.folder / "anew")
    anew.folder.mkdir()
    assert told(anew(first, second)) == told(grown)
    assert dict(anew.counts) == counts


def test_a_third_list_follows(run: Run, web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    lists = [web.rows(range(6)), web.rows(range(4, 9)), web.rows(range(8, 12))]
    run(lists[0])
    run(lists[0], lists[1])
    monkeypatch.setattr(plan, "Growing", None)
    grown = run(*lists)
    assert run.counts["duplicate_row"] == 3
    assert len([path for path in parquet_files(grown) if not path.is_symlink()]) == 1


def test_a_list_that_goes_and_comes_back_is_planned_by_rows(run: Run, web: Web) -> None:
    first, second = web.rows(range(6)), web.rows(range(6, 9))
    run(first, second)
    run(first)
    web.fetched()
    run(first, web.rows(range(6, 10)))
    assert web.fetched() == [9]
