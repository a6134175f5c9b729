"""What a seed draws of files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from blip_bootstrap.config import load_config
from blip_bootstrap.errors import InputError
from blip_bootstrap.experiment.draw import draw_lines, drawn_settings, rest_path
from blip_bootstrap.experiment.file import Draw


def test_a_seed_draws_the_same_lines_in_their_order_and_the_rest_lies_beside_them(tmp_path: Path) -> None:
    path = tmp_path / "human.jsonl"
    path.write_text("".join(f"{{{number}}}\n" for number in range(20)))
    drawn = draw_lines(path, tmp_path / "a", 8, "0 human")
    assert drawn.name == "human-8.jsonl"
    taken, rest = drawn.read_text().splitlines(), rest_path(drawn).read_text().splitlines()
    assert len(taken) == 8
    assert sorted([*taken, *rest], key=lambda one: int(one[1:-1])) == path.read_text().splitlines()
    assert [int(one[1:-1]) for one in taken] == sorted(int(one[1:-1]) for one in taken)
    assert draw_lines(path, tmp_path / "b", 8, "0 human").read_text() == drawn.read_text()
    assert draw_lines(path, tmp_path / "c", 8, "1 human").read_text() != drawn.read_text()


def test_a_heading_is_no_row_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "web.tsv"
    path.write_text("url\tcaption\n" + "".join(f"http://{number}\ttext\n" for number in range(5)))
    drawn = draw_lines(path, tmp_path / "drawn", 5, "0")
    assert drawn.read_text() == path.read_text()
    assert rest_path(drawn).read_text() == "url\tcaption\n"
    with pytest.raises(InputError, match="has 5 rows, and 6 are to be drawn; draw fewer"):
        draw_lines(path, tmp_path / "drawn", 6, "0")
    with pytest.raises(InputError, match="may have rows of several lines"):
        draw_lines(tmp_path / "human.json", tmp_path / "drawn", 6, "0")


def test_settings_name_what_was_drawn_and_where_its_pictures_are(tmp_path: Path) -> None:
    (tmp_path / "human.jsonl").write_text('{"image": "a.jpg"}\n{"image": "b.jpg"}\n')
    config = load_config(None, [f"human.path={tmp_path / 'human.jsonl'}"])
    settings = drawn_settings(config, Draw(human=1), tmp_path / "root", 3)
    drawn = tmp_path / "root/drawn/human-1.jsonl"
    assert settings == [f"human.path={json.dumps(str(drawn))}", f"human.image_root={json.dumps(str(tmp_path))}"]
    assert drawn_settings(config, Draw(), tmp_path / "root", 3) == []


def test_only_a_line_feed_ends_a_line_and_blank_lines_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "human.jsonl"
    rows = [json.dumps({"image": f"{at}.jpg", "captions": ["one\u2028two\x85three\x1d"]}, ensure_ascii=False)
            for at in range(6)]  # fmt: skip
    path.write_text("\n\n".join(rows) + "\n\n", encoding="utf-8")
    drawn = draw_lines(path, tmp_path / "drawn", 4, "0")
    both = [one.read_text(encoding="utf-8").split("\n")[:-1] for one in (drawn, rest_path(drawn))]
    assert [len(one) for one in both] == [4, 2]
    assert {*both[0], *both[1]} == {*rows}
    with pytest.raises(InputError, match="has 6 rows, and 7 are to be drawn"):
        draw_lines(path, tmp_path / "drawn", 7, "0")


def test_a_csv_row_of_two_lines_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "web.csv"
    path.write_text('url,caption\nhttp://a/1,"one\nmore"\nhttp://a/2,two\n')
    with pytest.raises(InputError, match="a quoted value of several lines"):
        draw_lines(path, tmp_path / "drawn", 1, "0")
    path.write_text('url,caption\nhttp://a/1,"one, more"\nhttp://a/2,two\n')
    assert draw_lines(path, tmp_path / "drawn", 2, "0").read_text() == path.read_text()


def test_lists_of_one_name_in_several_folders_are_drawn_to_files_of_their_own(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "web.tsv").write_text(f"url\tcaption\nhttp://{name}/1\ta\nhttp://{name}/2\tb\n")
    urls = json.dumps([{"path": str(tmp_path / name / "web.tsv"), "dataset": name} for name in "ab"])
    settings = drawn_settings(load_config(None, [f"download.urls={urls}"]), Draw(web=1), tmp_path / "root", 0)
    drawn = [Path(json.loads(one.partition("=")[2])) for one in settings]
    assert [one.name for one in drawn] == ["web-1.tsv", "web-1-1.tsv"]
    assert [f"http://{name}/" in one.read_text() for name, one in zip("ab", drawn, strict=True)] == [True, True]
    assert [f"http://{name}/" in rest_path(one).read_text() for name, one in zip("ab", drawn, strict=True)] == [
        True, True,
    ]  # fmt: skip
