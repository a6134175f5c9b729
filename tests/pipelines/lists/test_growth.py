"""Lists that grow, shrink and move: nothing is fetched twice, every row is there once."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest

from blip_bootstrap.errors import InputError
from blip_bootstrap.schemas.tables import IMAGES
from blip_bootstrap.storage.parquet import parquet_files, read_parquet
from blip_bootstrap.storage.parts import LEFT_OUT, read_left_out
from blip_pipelines.ingest import download
from tests.pipelines.lists.growing_lists import Killed, Rows, Run, Web, names, own, parts, rows_of


def test_rows_put_at_the_end_or_the_top_or_moved_are_the_only_ones_fetched(run: Run, web: Web) -> None:
    first = run(web.rows(range(10)))
    assert web.fetched() == [*range(10)]
    keys = {row["uid"]: row["key"] for row in rows_of(first, "listed")}
    longer = run(web.rows(range(13)))
    assert (web.fetched(), own(longer)) == ([10, 11, 12], parts(3))
    top = run(web.rows([20, 21, *range(13)]))
    assert (web.fetched(), own(top)) == ([20, 21], parts(4))
    moved = web.rows([20, 21, *range(13)])
    random.Random(0).shuffle(moved)
    assert (own(run(moved)), web.fetched()) == ([], [])
    assert {row["uid"]: row["key"] for row in rows_of(top, "listed")}.items() >= keys.items()
    assert own(first) == parts(0, 1, 2)  # as it was


def test_a_second_list_and_rows_that_both_have(run: Run, web: Web) -> None:
    run(web.rows(range(6)))
    web.fetched()
    both = run(web.rows(range(6)), web.rows([3, 4, 6, 7]))
    assert (web.fetched(), run.counts["duplicate_row"]) == ([6, 7], 2)
    swapped = run(web.rows([3, 4, 6, 7]), web.rows(range(6)))
    assert (web.fetched(), own(swapped)) == ([], [])
    assert {row["dataset"] for row in rows_of(both, "listed")} == {"list0", "list1"}


def test_repeated_and_blank_rows_are_counted_not_known(run: Run, web: Web) -> None:
    odd: Rows = [("", "x"), ("", "x"), ("", "y")]
    one = run([*web.rows([0, 1, 1]), *odd])
    assert run.counts == {"rows": 6, "success": 2, "rejected": 4, "blank_url": 3, "duplicate_row": 1}
    more = run([*web.rows([1, 0, 1, 1, 0]), *odd, ("", "x")])
    assert (run.counts["duplicate_row"], run.counts["blank_url"]) == (3, 4)
    assert (own(one), own(more), web.fetched()) == (parts(0, 1), parts(2), [0, 1])
    less = run(web.rows([1, 0]))
    assert (names(less), own(less), run.counts["removed"]) == (parts(0), [], 2)
    run([*web.rows([0, 1, 1]), *odd])
    assert web.fetched() == []


def test_rows_that_are_removed_stay_and_come_back(run: Run, web: Web) -> None:
    whole = web.rows(range(10))
    run(whole)
    web.fetched()
    less = run([*whole[:2], *whole[4:]])
    assert read_left_out(less) == {"part-00000.parquet": {"removed": [(2, 3)]}}
    assert (run.counts["rows"], run.counts["removed"]) == (10, 2)
    other = run(whole[:3])  # no row of the second part and the third is in the list
    assert (names(other), run.counts) == (parts(0), {"rows": 4, "success": 3, "removed": 1})
    back = run(whole)
    assert (names(back), own(back), web.fetched()) == (parts(0, 1, 2), [], [])
    assert not (back / LEFT_OUT).exists()


def test_a_limit_is_a_view_of_the_first_rows(run: Run, web: Web) -> None:
    whole = web.rows(range(14))
    small = run(whole, limit=3)
    larger = run(whole, limit=6)
    assert (web.fetched(), own(small), own(larger)) == ([*range(6)], parts(0), parts(1))
    every = run(whole)
    assert (web.fetched(), own(every)) == ([*range(6, 14)], parts(2, 3))
    cut = run(whole, limit=8)
    assert (web.fetched(), names(cut), own(cut)) == ([], parts(0, 1, 2), parts(2))
    assert [row["key"] for row in rows_of(cut, "listed")][5:] == ["0000100002", "0000200000", "0000200001"]
    assert run.counts == {"rows": 8, "success": 8}
    (rows,) = [row for row in rows_of(every, "listed") if row["key"] == "0000200001"]
    assert rows in rows_of(cut, "listed")
    again = run(whole)  # finds the whole part, not the copy of its beginning
    assert (web.fetched(), own(again), names(again)) == ([], [], parts(0, 1, 2, 3))


def test_a_limit_where_rows_were_removed_and_of_two_lists(run: Run, web: Web) -> None:
    a, b = web.rows(range(6)), web.rows([*range(10, 16), 1, 5])
    run(a, b)
    web.fetched()
    less = run([a[0], *a[2:]], b, limit=2)
    assert (web.fetched(), run.counts) == ([], {"rows": 4, "success": 4})  # 0 2, 10 11: 1 is in b, after the limit
    assert {row["caption"] for row in rows_of(less, "listed")} == {"text 0", "text 2", "text 10", "text 11"}
    gone = run([a[0], *a[2:]], [*b[:6], b[7]], limit=2)
    assert run.counts == {"rows": 5, "success": 4, "removed": 1}
    assert [row["caption"] for row in rows_of(gone, "removed")] == ["text 1"]
    run(a, b)
    assert web.fetched() == []


def test_parts_of_another_size(run: Run, web: Web) -> None:
    run(web.rows(range(10)))
    web.fetched()
    larger = run(web.rows(range(30)), rows_per_shard=9)
    assert (web.fetched(), own(larger)) == ([*range(10, 30)], parts(3, 4, 5))
    assert [len(read_parquet(part)) for part in parquet_files(larger)] == [4, 4, 2, 9, 9, 2]


def stub(row: dict[str, Any], gone: set[str], asked: Counter[str]) -> dict[str, Any]:
    """A row of images without a web: it fails where its URL is `gone`."""
    row = {**dict.fromkeys(IMAGES.schema.names), **row}
    if row["status"]:
        return row
    asked[row["url"]] += 1
    if row["url"] in gone:
        return row | {"status": "failed_to_download", "error_class": "http_4xx", "error_message": "gone"}
    return row | {"status": "success", "jpg": row["url"].encode()}


@pytest.mark.parametrize("seed", [1, 2, pytest.param(0, marks=pytest.mark.long)])
def test_any_order_of_changes(run: Run, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Lists are changed at random, with limits, retries and kills: rows are there once, and are fetched once."""
    draw, asked, gone = random.Random(seed), Counter[str](), set[str]()
    kills = [False]

    def fetch_rows(rows: list[dict[str, Any]], *_: object) -> Iterator[dict[str, Any]]:
        if kills[0] and draw.random() < 0.3:
            raise Killed
        return iter([stub(row, gone, asked) for row in rows])

    monkeypatch.setattr(download, "rows_or_word", fetch_rows)
    monkeypatch.setattr(download, "WebStore", lambda _: nullcontext())
    every = [(f"http://web/{n}", "" if n % 7 == 0 else f"t{n}") for n in range(60)] + [("", ""), ("", "x")]
    succeeded = set[str]()
    lists = [draw.choices(every[:30], k=12)]
    for step in range(12):
        lists = changed(lists, every, draw)
        gone = {url for url, _ in every if draw.random() < 0.3}
        retry = draw.choice([None, None, "failed", "failed:http_4xx"])
        settings = {"limit": draw.choice([None, None, 3, 9, 15]), "rows_per_shard": draw.choice([3, 4, 7])}
        asked.clear()
        for kills[0] in (draw.random() < 0.4, False):
            try:
                run(*lists, name=f"s{step}", retry=retry, **settings)
            except Killed:
                if draw.random() < 0.5:
                    run.kin.append(run.begin(f"s{step}"))
                    break
            except InputError:  # there is none to try again
                break
            else:
                break
        assert max(asked.values(), default=0) <= 1
        assert not asked.keys() & succeeded
        succeeded |= asked.keys() - gone


def changed(lists: list[Rows], every: Rows, draw: random.Random) -> list[Rows]:
    lists = [list(rows) for rows in lists]
    rows = draw.choice(lists)
    how = draw.randrange(6)
    if how == 0:
        rows.extend(draw.choices(every, k=5))
    elif how == 1:
        rows[:0] = draw.choices(every, k=3)
    elif how == 2:
        draw.shuffle(rows)
    elif how == 3 and len(rows) > 4:
        del rows[draw.randrange(len(rows) - 3) :][:3]
        rows.extend(draw.choices(every, k=1))
    elif how == 4 and len(lists) < 3:
        lists.append(draw.choices(every, k=4))
    elif len(lists) > 1:
        lists.pop(0)
    return lists
