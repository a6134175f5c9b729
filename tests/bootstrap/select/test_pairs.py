"""Selection: every reason, alignment, accounting, restart, arms."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from blip_bootstrap.config import SelectConfig
from blip_bootstrap.errors import AccountingError, InputError
from blip_bootstrap.schemas import closed_lists, tables
from blip_bootstrap.select.pairs import select_pairs, take_web_pairs
from blip_bootstrap.storage import parquet


def text(key: str, source: str, caption: str | None, itm: float | None, **more: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "key": key, "source": source, "candidate": 0, "caption": caption, "itm_score": itm, "itc_score": 0.1,
        "logprob": None, "num_tokens": 3, "flags": [], "seed": None,
    }  # fmt: skip
    return row | more


ROWS = [
    text("a", "web", "a dog", 0.6),
    text("a", "synthetic", "A dog", 0.9),
    text("a", "synthetic", "a cat", 0.49, candidate=1),
    text("b", "web", " ", None),
    text("b", "synthetic", "dog dog dog", 0.9, flags=["repetition"]),
    text("b", "synthetic", "dog dog dog", 0.9, candidate=1),
    text("c", "web", "x y", None),
    text("c", "synthetic", "one", 0.5),
    text("d", "web", "a b c d e f", 0.7),
    text("d", "synthetic", "not a number", float("nan")),
]


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    folder = tmp_path / "captions"
    for part, rows in enumerate([ROWS, []]):
        parquet.write_parquet(
            folder / f"part-{part:05d}.parquet", parquet.rows_to_table(rows, tables.CAPTIONS), tables.CAPTIONS
        )
    return folder


def decided(out: Path) -> list[str]:
    """What became of each row: its reason, or kept."""
    rows = [row for file in parquet.parquet_files(out) for row in parquet.read_parquet(file).to_pylist()]
    assert all(row["kept"] == (row["reason"] is None) for row in rows)
    return [row["reason"] or "kept" for row in rows]


def run(captions: Path, **settings: Any) -> tuple[list[str], dict[str, int | float | str]]:
    out = captions.parent / "pairs"
    out.mkdir()
    counts = select_pairs(out, captions, config=SelectConfig(**settings))
    return decided(out), counts


def test_each_row_gets_the_first_reason_that_applies(captions: Path) -> None:
    fates, counts = run(captions, min_tokens=2, max_tokens=5)
    assert fates == [
        "kept", "duplicate_text", "below_threshold",
        "empty_text", "degenerate_text", "kept",
        "not_scored", "too_short",
        "too_long", "not_scored",
    ]  # fmt: skip
    assert counts["rows"] == 10
    assert counts["kept"] == 2 == counts["kept_web"] + counts["kept_synthetic"]  # type: ignore[operator]
    assert sum(int(n) for name, n in counts.items() if name.removeprefix("dropped_") in closed_lists.REASONS) == 8


def test_best_per_image_keeps_one_text_of_each_image(captions: Path) -> None:
    fates, _ = run(captions, strategy="best_per_image", itm_threshold=0.2)
    assert fates[:3] == ["kept", "duplicate_text", "not_selected"]


def test_every_reason_can_be_reached(captions: Path) -> None:
    fates, _ = run(captions, min_tokens=2, max_tokens=5, sources=("synthetic",))
    assert set(fates) == {"kept", *closed_lists.REASONS} - {
        *closed_lists.SET_ASIDE,
        "duplicate_text",
        "text_too_long",
        "too_common",
    }
    assert fates[0] == "not_selected"
    assert fates[1] == "kept", "a text is no repetition of one that could not be kept"


def test_a_text_that_was_too_long_is_no_pair_in_any_round(tmp_path: Path) -> None:
    """The first round reads it of the images, the others of the captions."""
    rows = [text("a", "web", "its beginning", None, flags=["text_too_long"]), text("a", "synthetic", "a dog", 0.9)]
    parquet.write_parquet(
        tmp_path / "captions" / "part-0.parquet", parquet.rows_to_table(rows, tables.CAPTIONS), tables.CAPTIONS
    )
    fates, counts = run(tmp_path / "captions", min_tokens=3)
    assert fates == ["text_too_long", "too_short"]
    assert (counts["rows"], counts["dropped_text_too_long"]) == (2, 1)
    row = dict.fromkeys(tables.IMAGES.schema.names) | {"status": "success", "jpg": b""}
    images = [
        row | {"key": "a", "caption": "its beginning", "cut_from_chars": 5_000_000},
        row | {"key": "b", "caption": "a dog"},
        row | {"key": "c", "caption": ""},
    ]
    whole = parquet.rows_to_table(images, tables.IMAGES)
    for name in ("new", "old"):
        parquet.write_parquet(tmp_path / name / "part-0.parquet", whole, tables.IMAGES)
        (tmp_path / f"{name}-pairs").mkdir()
    pq.write_table(whole.drop_columns(["cut_from_chars"]), tmp_path / "old" / "part-0.parquet")
    take_web_pairs(tmp_path / "new-pairs", tmp_path / "new")
    assert decided(tmp_path / "new-pairs") == ["text_too_long", "kept", "empty_text"]
    take_web_pairs(tmp_path / "old-pairs", tmp_path / "old")
    assert decided(tmp_path / "old-pairs") == ["kept", "kept", "empty_text"]


def test_the_threshold_itself_is_kept_in_single_precision(captions: Path) -> None:
    fates, _ = run(captions, itm_threshold=0.7)
    assert fates[8] == "kept"


def test_files_are_aligned_and_say_where_they_are_from(captions: Path) -> None:
    run(captions)
    for name, rows in (("part-00000.parquet", ROWS), ("part-00001.parquet", [])):
        made = pq.ParquetFile(captions.parent / "pairs" / name)
        assert made.schema_arrow.remove_metadata().equals(tables.PAIRS.schema.remove_metadata())
        assert made.read()["key"].to_pylist() == [row["key"] for row in rows]
        assert b'"itm_threshold": 0.5' in made.metadata.metadata[b"rule"]


def test_going_on_keeps_what_is_there(captions: Path) -> None:
    out = captions.parent / "pairs"
    out.mkdir()
    select_pairs(out, captions, config=SelectConfig())
    first, second = parquet.parquet_files(out)
    before = first.stat().st_mtime_ns
    second.unlink()
    select_pairs(out, captions, config=SelectConfig())
    assert first.stat().st_mtime_ns == before
    assert second.exists()


def test_many_rows_keep_their_order_and_repeats_are_found_as_in_python(tmp_path: Path) -> None:
    """Three files of several row groups, three texts an image out of few words."""
    rng, rows = random.Random(0), []
    for at in range(12_000):
        rows.append(text(f"{at:010d}", "web", rng.choice(["one", "two", " "]), rng.random()))
        for candidate in range(2):
            said = rng.choice(["ONE", "two", "three"])
            rows.append(text(f"{at:010d}", "synthetic", said, rng.random(), candidate=candidate))
    for part in range(3):
        some = parquet.rows_to_table(rows[part * 12_000 : (part + 1) * 12_000], tables.CAPTIONS)
        parquet.write_parquet(tmp_path / "captions" / f"part-{part:05d}.parquet", some, tables.CAPTIONS)
    fates, _ = run(tmp_path / "captions", itm_threshold=0.4)
    expected, seen = [], set()
    for row in rows:
        whole = (row["key"], row["caption"].lower())
        low = np.float32(row["itm_score"]) < np.float32(0.4)
        fate = "below_threshold" if low else "duplicate_text" if whole in seen else "kept"
        expected.append("empty_text" if row["caption"] == " " else fate)
        if not low:
            seen.add(whole)
    assert fates == expected


def test_a_lost_row_fails_the_run(captions: Path) -> None:
    out = captions.parent / "pairs"
    short = parquet.rows_to_table([], tables.PAIRS)
    parquet.write_parquet(out / "part-00000.parquet", short, tables.PAIRS)
    with pytest.raises(AccountingError, match="10 rows in, 0 rows decided"):
        select_pairs(out, captions, config=SelectConfig())


def test_an_undecided_row_fails_the_run(captions: Path) -> None:
    out = captions.parent / "pairs"
    row = {"key": "a", "source": "web", "candidate": 0, "caption": "x", "itm_score": 0.5, "kept": True, "reason": "odd"}
    parquet.write_parquet(out / "part-00000.parquet", parquet.rows_to_table([row], tables.PAIRS), tables.PAIRS)
    with pytest.raises(AccountingError, match="reason=odd"):
        select_pairs(out, captions, config=SelectConfig())


def test_no_captions_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no Parquet files"):
        select_pairs(tmp_path, tmp_path / "nothing", config=SelectConfig())


def test_an_odd_path_is_not_taken_for_a_pattern(tmp_path: Path) -> None:
    folder = tmp_path / "it's [a] run=2 *" / "captions"
    parquet.write_parquet(folder / "part-00000.parquet", parquet.rows_to_table(ROWS, tables.CAPTIONS), tables.CAPTIONS)
    fates, _ = run(folder)
    assert len(fates) == len(ROWS)


def test_round_0_takes_every_web_text(finished_run: Path, tmp_path: Path) -> None:
    counts = take_web_pairs(tmp_path, finished_run / "images")
    fates = decided(tmp_path)
    assert counts["rows"] == len(fates) == 78, "two of the 80 rows have no picture"
    assert set(fates) == {"kept", "empty_text"}
    assert [file.name for file in parquet.parquet_files(tmp_path)] == ["part-00000.parquet", "part-00001.parquet"]


def test_round_0_folds_whitespace_as_python_does(tmp_path: Path) -> None:
    odd = " a\u00a0\tdog\u2028 \u3000on\x1fa\x85 mat\n"
    row = dict.fromkeys(tables.IMAGES.schema.names) | {"key": "a", "caption": odd, "status": "success", "jpg": b""}
    parquet.write_parquet(tmp_path / "in/part-0.parquet", parquet.rows_to_table([row], tables.IMAGES), tables.IMAGES)
    take_web_pairs(tmp_path / "out", tmp_path / "in")
    assert parquet.read_parquet(tmp_path / "out/part-0.parquet")["caption"].to_pylist() == [" ".join(odd.split())]
