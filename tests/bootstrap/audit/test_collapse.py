"""What a loop loses from round to round, against counting in Python."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from blip_bootstrap.audit.audits import Audits, audit
from blip_bootstrap.query.views import connect
from blip_bootstrap.report.figures import collapse_figures
from blip_bootstrap.report.overview_page import collapse_html
from blip_bootstrap.schemas import tables
from blip_bootstrap.storage import parquet

WEB = ["a red dog", "A dog, on a mat", "two cats", "free shipping", "a cat"]
FIRST = ["a red dog", "a dog on a mat", "two cats", "a cat on a mat", "the dog"]
SECOND = ["a dog", "a dog", "A dog", "a cat", "a dog"]


def write(root: Path, number: int, web: list[str], synthetic: list[str]) -> None:
    empty = dict.fromkeys(tables.PAIRS.schema.names)
    rows = [
        {**empty, "key": f"{at:010d}", "source": source, "candidate": 0, "caption": text, "kept": source == "synthetic"}
        for source, texts in (("web", web), ("synthetic", synthetic))
        for at, text in enumerate(texts)
    ]
    folder = root / f"round-{number:02d}" / "pairs"
    parquet.write_parquet(folder / "part-00000.parquet", parquet.rows_to_table(rows, tables.PAIRS), tables.PAIRS)


def bags(texts: list[str]) -> list[set[str]]:
    return [{word.strip(",").lower() for word in text.split()} for text in texts]


def variance(texts: list[str]) -> float:
    """1 - |the mean of the texts' vectors|^2, with weights as scikit-learn smooths inverse document frequencies."""
    df = Counter(word for bag in bags(WEB) for word in bag)
    mean: dict[str, float] = defaultdict(float)
    for bag in bags(texts):
        weights = {word: 1 + math.log((1 + len(WEB)) / (1 + df[word])) for word in bag}
        norm = math.sqrt(sum(weight**2 for weight in weights.values()))
        for word, weight in weights.items():
            mean[word] += weight / norm / len(texts)
    return 1 - sum(value**2 for value in mean.values())


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write(tmp_path, 1, WEB, FIRST)
    write(tmp_path, 2, WEB, SECOND)
    return tmp_path


def test_it_agrees_with_counting_in_python(run: Path) -> None:
    rows = audit(run, None, ["collapse"], all_rounds=True)[0].table.to_pylist()
    found = {row["round"]: row for row in rows if row["of_texts"] == "synthetic"}
    for number, texts in ((1, FIRST), (2, SECOND)):
        row = found[number]
        assert row["texts"] == 5
        assert row["distinct_words"] == len(set.union(*bags(texts)))
        assert row["variance"] == pytest.approx(variance(texts))
        kept = next(row for row in rows if row["round"] == number and row["of_texts"] == "kept")
        both = {**kept, "of_texts": "synthetic"}, dict(row)  # all of them are kept, and no web text
        first, second = (one.pop("variance") for one in both)
        assert first == pytest.approx(second)  # sums of several threads differ in the last digit
        assert both[0] == both[1]
    assert found[1]["content_words"] == 5  # one text in five has it: red, two, cats, the, cat
    assert (found[1]["common_share"], found[2]["common_share"], found[2]["most_common"]) == (1.0, 1.0, "a dog")
    assert found[2]["words_to_first"] == pytest.approx(3 / 9)
    assert found[2]["variance_to_first"] == pytest.approx(variance(SECOND) / variance(FIRST))


def test_texts_that_are_all_one_have_no_variance(tmp_path: Path) -> None:
    write(tmp_path, 1, WEB, ["a dog"] * 40)
    row: dict[str, Any] = audit(tmp_path, 1, ["collapse"])[0].table.to_pylist()[0]
    assert row["variance"] == pytest.approx(0, abs=1e-12)
    assert row["variance_to_first"] is None or row["variance_to_first"] == pytest.approx(1)
    assert row["common_share"] == 1


def test_figures_of_a_round_are_told_beside_the_first(run: Path) -> None:
    found = collapse_figures(run, 2)
    assert found["collapse_words_to_first"] == pytest.approx(3 / 9)
    assert found["collapse_kept_variance"] == pytest.approx(found["collapse_variance"])
    assert collapse_figures(run, 1)["collapse_variance_to_first"] == pytest.approx(1)


def test_it_is_drawn_once_two_rounds_have_written(run: Path) -> None:
    with connect(run, [1]) as connection, Audits(connection) as audits:
        assert collapse_html(audits) == ""
    with connect(run) as connection, Audits(connection) as audits:
        html = collapse_html(audits)
    assert html.count("<svg") == 4
    assert "share of the ten commonest texts" in html
