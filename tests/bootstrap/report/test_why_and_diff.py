"""`why KEY` and `diff`: complete, joined rightly, and in words."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from blip_bootstrap.audit.diff import DIFFS, diff, print_diff
from blip_bootstrap.errors import InputError
from blip_bootstrap.report.why import print_why, story_html, why
from blip_bootstrap.schemas import tables
from blip_bootstrap.storage import parquet

KEY = "0000000010"


@pytest.mark.parametrize("name", ["key", "uid", "sha256", "url"])
def test_an_image_is_found_by_any_of_its_names(finished_run: Path, name: str) -> None:
    value = why(finished_run, KEY).image[name]
    found = why(finished_run, value).image
    assert found[name] == value


def test_the_story_holds_every_text_of_every_round(finished_run: Path) -> None:
    story = why(finished_run, KEY)
    texts = story.texts.to_pylist()
    assert [(row["round"], row["source"]) for row in texts] == [(0, "web"), (1, "web"), (1, "synthetic")]
    assert all(row["kept"] == (row["reason"] is None) for row in texts)
    assert texts[2]["logprob"] == -3.0
    assert [row["round"] for row in story.deciders] == [0, 1]
    assert "itm_threshold" in story.deciders[1]["rule"]


def test_an_image_that_failed_tells_why(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_why(finished_run, "0000000003")
    assert "http_4xx" in capsys.readouterr().out


def test_the_page_has_the_picture_and_the_words(finished_run: Path, tmp_path: Path) -> None:
    path = print_why(finished_run, KEY, tmp_path / "why.html")
    assert path is not None
    page = path.read_text()
    assert page == story_html(why(finished_run, KEY))
    assert page.count("data:image/jpeg;base64,") == 1
    for row in why(finished_run, KEY).texts.to_pylist():
        assert row["caption"] in page


def test_an_unknown_image_is_told(finished_run: Path) -> None:
    with pytest.raises(InputError, match='no image has the key, uid, sha256 or URL "it\'s me"'):
        why(finished_run, "it's me")


def test_a_key_opens_the_part_that_it_names_and_no_other(finished_run: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(finished_run, tmp_path / "run"))
    others = [path for path in root.rglob("part-*.parquet") if path.name != "part-00000.parquet"]
    assert {path.parent.name for path in others} >= {"images", "captions", "pairs"}
    for path in others:
        path.write_bytes(b"no Parquet file")
    assert why(root, KEY).texts.num_rows == 3
    with pytest.raises(InputError, match="no image has the key, uid, sha256 or URL '9999900010'"):
        why(root, "9999900010")


def test_what_was_downloaded_comes_before_its_rejected_duplicate(finished_run: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(finished_run, tmp_path / "run"))
    path = root / "images/part-00000.parquet"
    rows = parquet.read_parquet(path).to_pylist()
    rows[0] |= {"uid": rows[10]["uid"], "status": "rejected", "error_class": "duplicate_row", "jpg": None}
    parquet.write_parquet(path, parquet.rows_to_table(rows, tables.IMAGES), tables.IMAGES)
    story = why(root, rows[10]["uid"])
    assert (story.image["key"], story.others) == (KEY, ["0000000000"])
    assert "0000000000" in story_html(story)
    with pytest.raises(InputError):
        why(root, "")


def test_hostile_words_stay_words(finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(shutil.copytree(finished_run, tmp_path / "run"))
    key, text = "k'%\"_ü\\-[b]", "\x1b[2J<script>alert(1)</script> [red]x"
    for path, at in ((root / "images/part-00000.parquet", 10), (root / "round-00/pairs/part-00000.parquet", 0)):
        table = tables.IMAGES if at else tables.PAIRS
        rows = parquet.read_parquet(path).to_pylist()
        rows[at] |= {"key": key, "caption": text}
        parquet.write_parquet(path, parquet.rows_to_table(rows, table), table)
    page = print_why(root, key, tmp_path / "why.html")
    told = capsys.readouterr().out
    assert "\x1b" not in told
    assert "\\x1b[2J<script>alert(1)</script> [red]x" in told
    assert page is not None
    assert "<script" not in page.read_text()
    assert "&lt;script&gt;alert(1)" in page.read_text()


def test_a_page_that_cannot_be_written_is_told(finished_run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"why\.html: cannot be written"):
        print_why(finished_run, KEY, tmp_path / "no" / "why.html")


def answers(root: Path, before: int, after: int, other: Path | None = None) -> dict[str, list[dict[str, Any]]]:
    return {answer.name: answer.table.to_pylist() for answer in diff(root, before, after, other)}


def test_differences_between_rounds_add_up(finished_run: Path) -> None:
    found = answers(finished_run, 0, 1)
    web = next(row for row in found["changes"] if row["source"] == "web")
    assert web["kept_after"] == web["kept_before"] + web["newly_kept"] - web["newly_dropped"]
    assert len(found["newly_dropped"]) == min(20, web["newly_dropped"])
    noise, dropped = (row for row in found["noise"] if row["source"] == "web")
    assert (noise["figure"], dropped["figure"]) == ("noise_ratio", "dropped_share")
    assert (noise["before"], noise["change"]) == (None, None), "round 0 has no filter"
    assert dropped["change"] == pytest.approx(dropped["after"] - dropped["before"])
    assert 0 < dropped["change_low"] < dropped["change"] < dropped["change_high"]
    assert [row["setting"] for row in found["settings"]] == ["captions"], "round 0 has none"


def test_a_round_does_not_differ_from_itself(finished_run: Path) -> None:
    found = answers(finished_run, 1, 1)
    assert {row["newly_kept"] + row["newly_dropped"] + row["other_text"] for row in found["changes"]} == {0}
    assert found["settings"] == found["newly_kept"] == found["newly_dropped"] == []
    assert all(row["change_low"] < 0 < row["change_high"] for row in found["noise"])


def test_runs_are_matched_by_uid(finished_run: Path, tmp_path: Path) -> None:
    """The other run has the same images under other keys, in another order, and one text fewer kept."""
    other = Path(shutil.copytree(finished_run, tmp_path / "other"))
    for name, table in (("images", tables.IMAGES), ("round-01/pairs", tables.PAIRS)):
        files = parquet.parquet_files(other / name)
        rows = [row for file in files for row in parquet.read_parquet(file).to_pylist()]
        files[1].unlink()
        (other / name / "MANIFEST.json").unlink()
        kept = [row for row in rows if row.get("kept")]
        if kept:
            kept[0] |= {"kept": False, "reason": "below_threshold"}
        changed = [row | {"key": f"9{row['key'][1:]}"} for row in reversed(rows)]
        parquet.write_parquet(files[0], parquet.rows_to_table(changed, table), table)
    found = answers(finished_run, 1, 1, other)
    assert sum(row["newly_dropped"] for row in found["changes"]) == 1
    assert sum(row["before"] for row in found["changes"]) == sum(row["after"] for row in found["changes"]) == 156


def test_a_missing_round_is_told_and_all_is_printed(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="no round 5"):
        diff(finished_run, 1, 5)
    print_diff(finished_run, 0, 1)
    shown = capsys.readouterr().out
    assert all(f"({name})" in shown for name in DIFFS)
