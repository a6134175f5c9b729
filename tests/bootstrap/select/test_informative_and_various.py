"""Informativeness of texts, ranking by it, and texts that are said too often."""

from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from blip_bootstrap.schemas import tables
from blip_bootstrap.select.informative import MOST_WORDS
from blip_bootstrap.storage import parquet
from tests.support.scored_texts import scored, selected

WORDS = ["a", "the", "dog", "cat", "red", "blue", "sits", "runs", "on", "grass", "éclair", "2nd"]


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    size = len(rows) // 2
    for part, some in enumerate((rows[:size], rows[size:])):
        table = parquet.rows_to_table(some, tables.CAPTIONS)
        parquet.write_parquet(folder / f"part-{part:05d}.parquet", table, tables.CAPTIONS)
    return folder


def worded(number: int, candidates: int = 3) -> list[dict[str, Any]]:
    rng, rows = random.Random(6), scored(number, candidates)
    for row in rows:
        row["caption"] = ", ".join(["A", *rng.choices(WORDS, range(len(WORDS), 0, -1), k=rng.randint(1, 11))])
        row["distinctness"] = rng.random() if row["source"] == "web" else None
    return rows


def informativeness(rows: list[dict[str, Any]]) -> list[float]:
    """Of the texts of one source, by counting words in Python."""
    words = [set(re.findall(r"[^\W_]+", row["caption"].lower())) for row in rows]
    counts = Counter(word for each in words for word in each)
    commonest = sorted(counts, key=lambda word: (-counts[word], word))[:25]
    stopwords = {word for word in commonest if counts[word] >= 0.2 * len(rows)}
    found = []
    for row, each in zip(rows, words, strict=True):
        content = each - stopwords
        rarity = sum(1 - counts[word] / len(rows) for word in content) / max(1, len(content))
        parts = [rarity, min(1.0, len(content) / MOST_WORDS)]
        found.append((sum(parts) + (row["distinctness"] or 0)) / (2 if row["distinctness"] is None else 3))
    return found


def test_informativeness_is_that_of_its_definition(tmp_path: Path) -> None:
    rows = worded(300)
    captions = write(tmp_path / "captions", rows)
    rule = {"strategy": "best_per_image", "itm_threshold": 0.0}
    pairs, _ = selected(captions, **rule, informative_weight=0.5)
    assert [(row["key"], row["source"], row["candidate"]) for row in pairs] == [
        (row["key"], row["source"], row["candidate"]) for row in rows
    ]
    for source in ("web", "synthetic"):
        expected = informativeness([row for row in rows if row["source"] == source])
        assert [row["informativeness"] for row in pairs if row["source"] == source] == pytest.approx(expected, abs=1e-5)
    plain, _ = selected(captions, **rule)
    assert {row["informativeness"] for row in plain} == {None}


def test_captions_of_an_earlier_version_are_weighed_without_distinctness(tmp_path: Path) -> None:
    rows = [row | {"distinctness": None} for row in worded(100)]
    captions, rule = write(tmp_path / "captions", rows), {"strategy": "best_per_image", "informative_weight": 1.0}
    with_column, _ = selected(captions, **rule)
    for file in parquet.parquet_files(captions):
        pq.write_table(pq.read_table(file).drop_columns(["distinctness"]), file)
    assert selected(captions, **rule, variety=0.0)[0] == with_column


@pytest.mark.parametrize("strategy", ["best_per_image", "top_k", "learned"])
@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_an_image_keeps_its_best_texts_by_score_and_informativeness(
    tmp_path: Path, strategy: str, weight: float
) -> None:
    rows = [row | {"caption": f"{row['caption']} {at}"} for at, row in enumerate(worded(200))]
    captions = write(tmp_path / "captions", rows)
    rule = {"score": ["itm", "itc"], "itm_threshold": 0.0, "keep_fraction": 1.0, "top_k": 1}
    most = {"most_per_image": 1} if strategy == "learned" else {}
    pairs, counts = selected(captions, strategy=strategy, **rule, **most, informative_weight=weight)
    by_image: dict[str, list[dict[str, Any]]] = {}
    for row in pairs:
        by_image.setdefault(row["key"], []).append(row)
    for some in by_image.values():
        worth = [(1 - weight) * row["rule_score"] + weight * row["informativeness"] for row in some]
        (kept,) = (at for at, row in enumerate(some) if row["kept"])
        assert worth[kept] == pytest.approx(max(worth))
    assert counts["kept"] == 200


def test_a_text_said_k_times_is_kept_as_variety_has_it(tmp_path: Path) -> None:
    """Of each source by itself, letter case apart, over all files, whatever an image has besides."""
    rows = scored(2000, 2)
    for at, row in enumerate(rows):
        row["caption"] = ("A dog" if at % 4 == 0 else "a DOG") if at % 3 else f"text {at}"
        row["itm_score"] = 0.9 if at % 5 else 0.1
    captions = write(tmp_path / "captions", rows)
    plain, _ = selected(captions)
    for variety in (0.5, 1.0):
        pairs, counts = selected(captions, variety=variety)
        assert [row["key"] for row in pairs] == [row["key"] for row in plain]
        for source in ("web", "synthetic"):
            said = [p for p in plain if p["source"] == source and p["kept"] and p["caption"].lower() == "a dog"]
            kept = sum(p["kept"] for p in pairs if p["source"] == source and p["caption"].lower() == "a dog")
            assert kept == pytest.approx(len(said) ** (1 - variety), abs=4 * len(said) ** ((1 - variety) / 2))
        lost = [(was, now) for was, now in zip(plain, pairs, strict=True) if was["reason"] != now["reason"]]
        assert {now["reason"] for _, now in lost} == {"too_common"}
        assert all(was["kept"] and was["caption"].lower() == "a dog" for was, _ in lost)
        assert counts["dropped_too_common"] == len(lost)
        assert selected(captions, variety=variety)[0] == pairs
    assert selected(captions, variety=0.5, seed=1)[0] != selected(captions, variety=0.5)[0]


def test_an_image_keeps_another_text_in_place_of_one_that_is_too_common(tmp_path: Path) -> None:
    rows = [row | {"itm_score": 0.9 if row["candidate"] == 0 else 0.8} for row in scored(300, 3)]
    rows = [row for row in rows if row["source"] == "synthetic"]
    for row in rows:
        row["caption"] = "a dog" if row["candidate"] == 0 else f"text {row['key']}"
    captions = write(tmp_path / "captions", rows)
    pairs, counts = selected(captions, strategy="best_per_image", variety=1.0)
    assert counts["kept"] == 300
    assert sum(row["kept"] for row in pairs if row["candidate"] == 0) < 10
