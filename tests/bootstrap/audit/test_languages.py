"""Languages of a round's texts: identified once, joined to what became of them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from blip_bootstrap.audit.audits import audit
from blip_bootstrap.audit.languages import identify_languages
from blip_bootstrap.schemas import shown_tables, tables
from blip_bootstrap.storage import parquet
from blip_bootstrap.storage.run_folder import languages_path

TOLD = {
    "en": "a brown dog runs through the snow with a ball",
    "de": "ein Hund läuft mit einem Ball durch den Schnee",
    "fr": "un chien brun court dans la neige avec une balle",
}


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """The run with web texts in three languages, one after the other, and some names."""
    root = Path(shutil.copytree(finished_run, tmp_path / "run"))
    said = [*TOLD.values(), "IMG_2039.jpg"]
    for file in parquet.parquet_files(root / "round-01/pairs"):
        rows = parquet.read_parquet(file).to_pylist()
        web = [row for row in rows if row["source"] == "web" and row["caption"]]
        for at, row in enumerate(web):
            kept = at % 4 == 0
            row |= {"caption": said[at % 4], "kept": kept, "reason": None if kept else "below_threshold"}
            row["rejected"] = not kept
        parquet.write_parquet(file, parquet.rows_to_table(rows, tables.PAIRS), tables.PAIRS)
    return root


def by_language(root: Path) -> dict[str, dict[str, Any]]:
    rows = audit(root, 1, ["languages"])[0].table.to_pylist()
    return {row["language"]: row for row in rows if row["source"] == "web"}


def test_the_noise_ratio_of_each_language(run: Path) -> None:
    path = identify_languages(run, 1, size=0)
    assert path == languages_path(run, 1)
    assert parquet.read_parquet(path).schema.equals(shown_tables.LANGUAGES.schema)
    found = by_language(run)
    assert set(found) == {"en", "de", "fr", "und"}
    assert found["en"]["noise_ratio"] == 0
    assert found["de"]["noise_ratio"] == found["fr"]["noise_ratio"] == 1
    assert found["de"]["low"] < 1
    assert sum(row["share"] for row in found.values()) == pytest.approx(1)


def test_a_sample_is_even_and_repeatable(run: Path) -> None:
    whole = parquet.read_parquet(identify_languages(run, 1, size=0))
    some = parquet.read_parquet(identify_languages(run, 1, size=40))
    assert 0 < some.num_rows < whole.num_rows
    assert parquet.read_parquet(identify_languages(run, 1, size=40)).equals(some)
    keys = set(some["key"].to_pylist())
    assert some.num_rows == sum(key in keys for key in whole["key"].to_pylist()), "an image's texts come together"


def test_texts_that_were_written_anew_are_not_counted(finished_run: Path, run: Path) -> None:
    """The run's languages are those of its old texts: only the unchanged synthetic ones are left."""
    assert by_language(finished_run)
    assert by_language(run) == {}
