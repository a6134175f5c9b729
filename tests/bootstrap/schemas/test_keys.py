"""Keys and names of parts, with five digits and with more."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from blip_bootstrap.schemas.keys import (
    ROWS_PER_PART,
    by_number,
    is_key,
    is_part,
    key_of,
    key_of_id,
    keys_of,
    number_of,
    part_name,
    part_of,
)
from blip_bootstrap.schemas.tables import SHARD
from blip_bootstrap.storage.parquet import parquet_files, write_parquet
from blip_bootstrap.storage.parts import read_left_out, write_left_out
from blip_pipelines.lists.pool import free_number, part_names

NUMBERS = [0, 99_998, 99_999, 100_000, 100_001, 1_000_000]


@pytest.mark.parametrize(("part", "position"), [(0, 0), (3, 99_999), (99_999, 1), (100_000, 0), (123_456_789, 42)])
def test_a_key_tells_its_part(part: int, position: int) -> None:
    key = key_of(part, position)
    assert is_key(key)
    assert part_of(key) == part
    assert divmod(int(key), ROWS_PER_PART) == (part, position)
    assert key_of_id(int(key)) == key
    assert keys_of(part, [position]) == [key]


def test_no_two_rows_have_one_key() -> None:
    places = [(part, position) for part in (0, 1, 10, 10_000, 100_000, 1_000_000) for position in (0, 1, 10, 99_999)]
    assert len({key_of(*place) for place in places}) == len(places)


@pytest.mark.parametrize("text", ["", "123456789", "0123456789a", "01234567890", "https://a/1234567890"])
def test_other_texts_are_no_keys(text: str) -> None:
    assert not is_key(text)


def test_names_of_parts() -> None:
    assert part_name(3) == "part-00003.parquet"
    assert [number_of(part_name(number)) for number in NUMBERS] == NUMBERS
    assert all(is_part(part_name(number)) for number in NUMBERS)
    others = [
        "part-1.parquet",
        "part-012345.parquet",
        "part-00001.parquet.tmp",
        ".part-00001.parquet",
        "part-a.parquet",
    ]
    assert not any(map(is_part, others))


def test_parts_are_ordered_by_their_numbers_and_other_names_as_ever() -> None:
    names = [part_name(number) for number in NUMBERS]
    mixed = [names[at] for at in (3, 0, 5, 1, 4, 2)]
    assert sorted(mixed, key=by_number) == names
    assert sorted([f"rows/{name}" for name in mixed], key=by_number) == [f"rows/{name}" for name in names]
    others = [Path(one) for one in ("a/b", "a-b", "a/part-00010.parquet", "a/part-00002.parquet", "b", "10")]
    assert sorted(others, key=by_number) == sorted(others)


@pytest.mark.parametrize("number", NUMBERS)
def test_the_parts_of_a_folder_are_found_in_order(tmp_path: Path, number: int) -> None:
    for one in (number + 1, number):
        rows = pa.table({"key": [key_of(one, 0)]})
        for name in SHARD.schema.names[1:]:
            rows = rows.append_column(name, pa.nulls(1))
        write_parquet(tmp_path / part_name(one), rows, SHARD)
    wanted = [part_name(number), part_name(number + 1)]
    assert part_names(tmp_path) == [path.name for path in parquet_files(tmp_path)] == wanted
    assert free_number([tmp_path]) == number + 2
    write_left_out(tmp_path, {name: {"removed": [(0, 0)]} for name in reversed(wanted)})
    assert [*read_left_out(tmp_path)] == wanted
