"""Rows that failed and are tried again, also where the command is killed at it."""

from __future__ import annotations

import pytest

from blip_bootstrap.errors import InputError
from blip_bootstrap.storage.parts import read_left_out
from tests.pipelines.lists.growing_lists import Killed, Run, Web, kill_after, own, parts, rows_of


def test_failed_rows_are_tried_again(run: Run, web: Web, capsys: pytest.CaptureFixture[str]) -> None:
    whole = web.rows(range(10))
    web.gone = {"/2": 404, "/3": 500, "/7": 404}
    first = run(whole)
    web.fetched()
    web.gone = {"/2": 404}
    second = run(whole, name="d0-2", retry="failed:http_4xx")
    assert (web.fetched(), own(second)) == ([2, 7], parts(3))
    assert "0 new rows, 2 failed rows tried again" in capsys.readouterr().err
    assert run.counts == {"rows": 10, "success": 8, "failed_to_download": 2, "http_5xx": 1, "http_4xx": 1}
    assert read_left_out(second) == {
        "part-00000.parquet": {"retried": [(2, 2)]},
        "part-00001.parquet": {"retried": [(3, 3)]},
    }
    tried = {row["url"][-2:]: row["attempts"] for row in rows_of(second, "listed")}
    known = [(one["status"], one["error_class"], one["http_status"]) for one in tried["/7"]]
    assert known == [("failed_to_download", "http_4xx", 404), ("success", None, 200)]
    assert [len(tried[row]) for row in ("/1", "/2", "/3")] == [1, 2, 1]
    third = run(whole, name="d0-3", retry="failed")
    assert (web.fetched(), run.counts["success"]) == ([2, 3], 9)
    grown = run(web.rows(range(12)))
    assert (web.fetched(), own(grown), run.counts["success"]) == ([10, 11], parts(5), 11)
    both = run(web.rows(range(13)), retry="failed")
    assert (web.fetched(), own(both)) == ([2, 12], parts(6))
    assert own(first) == parts(0, 1, 2)
    assert {row["uid"] for row in rows_of(third, "listed")} == {row["uid"] for row in rows_of(first, "listed")}


def test_where_there_is_nothing_to_try_again(run: Run, web: Web) -> None:
    whole = web.rows(range(5))
    web.gone = {"/2": 404}
    run(whole)
    with pytest.raises(InputError, match=r"failed:CLASS with one of unsupported_scheme, private_address, .*dns"):
        run(whole, name="new", retry="failed:time_out")
    with pytest.raises(InputError, match="no row of the lists has failed with timeout; there is none to try again"):
        run(whole, name="new", retry="failed:timeout")
    assert [*run.begin("new").iterdir()] == []
    run(web.rows([0, 1, 3, 4, 5]), retry="failed:timeout")  # there is a new row
    with pytest.raises(InputError, match="no row of the lists has failed; "):  # the one that has is not listed
        run(web.rows([0, 1, 3, 4, 5]), name="another", retry="failed")


def test_new_rows_and_rows_tried_again_copy_the_picture_of_their_url(run: Run, web: Web) -> None:
    whole = web.rows(range(6))
    web.gone = {"/3": 404}
    run(whole)
    web.fetched()
    edited = [*whole[:5], (whole[5][0], "another"), (whole[2][0], "a second"), (whole[3][0], "of none")]
    out = run(edited)
    rows = {row["caption"]: row for row in rows_of(out, "listed")}
    assert web.fetched() == [5]  # the row that had it is in no list any more
    assert rows["another"]["same_as"] is None
    assert rows["a second"]["same_as"] == rows["text 2"]["key"]
    assert rows["a second"]["jpg"] == rows["text 2"]["jpg"]
    assert rows["of none"]["error_message"] == f"the row {rows['text 3']['key']} with this URL failed"
    web.gone = {}
    out = run(edited, retry="failed")
    rows = {row["caption"]: row for row in rows_of(out, "listed")}
    assert web.fetched() == [3]
    assert rows["of none"]["same_as"] == rows["text 3"]["key"]
    assert rows["of none"]["status"] == rows["text 3"]["status"] == "success"


def test_a_retry_that_was_killed_goes_on(run: Run, web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = web.rows(range(12))
    web.gone = {f"/{n}": 404 for n in range(11)}
    run(whole)
    web.fetched()
    web.gone = {"/0": 404, "/8": 404}
    live = kill_after(monkeypatch, 1)
    with pytest.raises(Killed):
        run(whole, name="again", retry="failed")
    live()
    assert web.fetched() == [0, 1, 2, 3]
    again = run(whole, name="again", retry="failed")
    assert web.fetched() == [*range(4, 11)]  # 0, which failed again, had its try
    assert (own(again), run.counts["success"]) == (parts(3, 4, 5), 10)


def test_a_retry_is_gone_on_with_after_its_parts_went_elsewhere(
    run: Run, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed, the list grows out of what it had, and then it is asked for again."""
    whole = web.rows(range(12))
    web.gone = {f"/{n}": 404 for n in range(11)}
    run(whole)
    web.fetched()
    web.gone = {"/0": 404}
    live = kill_after(monkeypatch, 1)
    with pytest.raises(Killed):
        run(whole, name="again", retry="failed")
    live()
    run.kin.append(run.begin("again"))
    web.fetched()
    grown = run(web.rows(range(14)))
    assert (web.fetched(), own(grown), run.counts["success"]) == ([12, 13], parts(6), 6)
    again = run(whole, name="again", retry="failed")
    assert (web.fetched(), own(again)) == ([*range(4, 11)], parts(3, 4, 5))
