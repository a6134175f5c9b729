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
