"""One alt text can be a whole book: audits look at its beginning, so that its length decides no time and memory."""

from __future__ import annotations

import random
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from blip_bootstrap.audit import languages as module
from blip_bootstrap.audit.audits import AUDITS, audit
from blip_bootstrap.audit.diff import diff
from blip_bootstrap.audit.languages import identify_languages
from blip_bootstrap.config import ReportConfig, SelectConfig
from blip_bootstrap.query.macros import MOST_CHARS, MOST_WORDS
from blip_bootstrap.query.questions import query
from blip_bootstrap.query.views import connect
from blip_bootstrap.report.round_page import page_html
from blip_bootstrap.schemas import tables
from blip_bootstrap.select.pairs import select_pairs
from blip_bootstrap.storage import parquet

LONG = {
    "one word": "x " * 600_000,
    "different words": " ".join(f"w{at}" for at in range(200_000)),
    "no spaces": "y" * 2_000_000,
    "letters of two bytes": "ü ö " * 150_000,
    "emoji": "👩‍👩‍👧 " * 50_000,
    "other spaces": "a\u3000b\n\t" * 100_000,
    "numbers and commas": "12,3," * 200_000,
}


def write_run(root: Path, texts: list[str]) -> None:
    """A round whose web texts are `texts`, beside short synthetic ones."""
    rng, rows = random.Random(0), []
    for at, text in enumerate(texts):
        for source, said in (("web", text), ("synthetic", f"a dog and {at % 5} cats")):
            row: dict[str, Any] = {"key": f"{at:010d}", "source": source, "candidate": 0, "caption": said, "flags": []}
            rows.append(row | {"itm_score": rng.random(), "itc_score": rng.random()})
    folder = root / "round-01/captions"
    parquet.write_parquet(folder / "part-00000.parquet", parquet.rows_to_table(rows, tables.CAPTIONS), tables.CAPTIONS)
    empty = dict.fromkeys(tables.IMAGES.schema.names) | {"status": "success", "dataset": "d"}
    images = [
        empty | {"key": f"{at:010d}", "url": f"http://h/{text[:200_000]}", "caption": text}
        for at, text in enumerate(texts)
    ]
    path = root / "images/part-00000.parquet"
    parquet.write_parquet(path, parquet.rows_to_table(images, tables.IMAGES), tables.IMAGES)
    select_pairs(root / "round-01/pairs", folder, config=SelectConfig())


@pytest.fixture(scope="module")
def long_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("long")
    write_run(root, [*LONG.values(), *(f"a short text {at}" for at in range(30))])
    return root


@pytest.mark.parametrize("name", AUDITS)
def test_every_audit_answers_about_texts_of_any_length(long_run: Path, name: str) -> None:
    (answer,) = audit(long_run, 1, [name])
    for row in answer.table.to_pylist():
        assert all(len(value) <= MOST_CHARS for value in row.values() if isinstance(value, str))


def test_a_long_text_weighs_no_more_than_its_beginning(long_run: Path) -> None:
    found = next(row for row in audit(long_run, 1, ["diversity"])[0].table.to_pylist() if row["source"] == "web")
    assert found["words_per_text"] <= MOST_WORDS
    assert found["distinct_words"] < 7 * MOST_WORDS


def test_pages_and_differences_show_the_beginning(long_run: Path) -> None:
    page = page_html(long_run, 1, ReportConfig())
    assert len(page) < 1_000_000
    assert "x x x" in page
    for answer in diff(long_run, 1, 1):
        assert answer.table.nbytes < 1_000_000


def test_the_language_of_a_long_text_is_that_of_its_beginning(
    long_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, seen = Path(shutil.copytree(long_run, tmp_path / "run")), []

    def classify(text: str) -> tuple[str, float]:
        seen.append(len(text))
        return "en", 0.9

    monkeypatch.setattr(module, "_classifier", lambda: classify)
    told = parquet.read_parquet(identify_languages(root, 1, size=0))
    assert max(seen) == MOST_CHARS
    assert told.num_rows == 74
    assert audit(root, 1, ["languages"])[0].table["texts"].to_pylist() == [37, 37]


def test_phrases_and_repetition_are_those_of_python(tmp_path: Path) -> None:
    rng = random.Random(5)
    texts = [" ".join(rng.choices(["a", "dog", "cat", "on", "mat", "red"], k=rng.randint(1, 12))) for _ in range(60)]
    texts += [" ".join(["long", *map(str, range(400))]), "one", "the the", "no no no no no no"]
    write_run(tmp_path, texts)
    split = [text.lower().split(" ")[:MOST_WORDS] for text in texts]

    def grams(words: list[str], size: int) -> list[tuple[str, ...]]:
        return [tuple(words[at : at + size]) for at in range(len(words) - size + 1)]

    row = next(row for row in audit(tmp_path, 1, ["phrases"])[0].table.to_pylist() if row["source"] == "web")
    for size in (2, 3):
        every = [gram for words in split for gram in grams(words, size)]
        assert row[f"distinct_{size}"] == pytest.approx(len(set(every)) / len(every))
    fives = [set(grams(words, 5)) for words in split]
    echoed = [any(mine & other for at, other in enumerate(fives) if at != here) for here, mine in enumerate(fives)]
    assert row["echoed"] == pytest.approx(sum(echoed) / len(texts))
    assert 0 < row["echoed"] < 1
    row = next(row for row in audit(tmp_path, 1, ["repetition"])[0].table.to_pylist() if row["source"] == "web")
    twice = [any(a == b for a, b in pairwise(words)) for words in split]
    few = [len(words) >= 6 and 3 * len(set(words)) <= 2 * len(words) for words in split]
    assert (row["word_twice"], row["few_words"]) == (sum(twice) / len(texts), sum(few) / len(texts))


def test_texts_of_usual_length_are_counted_whole(tmp_path: Path) -> None:
    write_run(tmp_path, [" ".join(f"w{at}" for at in range(MOST_WORDS)), ""])
    with connect(tmp_path) as connection:
        found = query(connection, "SELECT len(words(caption)) AS n FROM captions WHERE source = 'web' ORDER BY n DESC")
    assert found["n"].to_pylist() == [MOST_WORDS, 1]


def test_scores_that_are_no_numbers_are_in_no_audit_s_way(tmp_path: Path) -> None:
    write_run(tmp_path, [f"a text {at}" for at in range(20)])
    path = tmp_path / "round-01/captions/part-00000.parquet"
    rows = parquet.read_parquet(path).to_pylist()
    for row in rows[::3]:
        row["itm_score"] = float("nan")
    parquet.write_parquet(path, parquet.rows_to_table(rows, tables.CAPTIONS), tables.CAPTIONS)
    shutil.rmtree(tmp_path / "round-01/pairs")
    select_pairs(tmp_path / "round-01/pairs", path.parent, config=SelectConfig())
    answers = {answer.name: answer.table.to_pylist() for answer in audit(tmp_path, 1)}
    assert sum(row["texts"] for row in answers["scores"]) == sum(row["scored"] for row in answers["noise"]) == 26
    assert all(row["below_half"] == row["below_half"] for row in answers["people"])
    assert all(row["correlation"] == row["correlation"] for row in answers["agreement"])
    (changes, *_) = diff(tmp_path, 1, 1)
    assert all(0 < row["score_before"] < 1 for row in changes.table.to_pylist())
