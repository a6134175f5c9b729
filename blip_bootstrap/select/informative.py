"""How well a text tells its picture from others: by the filter, and by how rare and how many its words are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import duckdb

from blip_bootstrap.query.sql_text import is_number, literal, scan

MOST_WORDS = 8
"""Content words that make a text as full as counts; captions of people have four to eight."""

NUM_STOPWORDS = 25

STOPWORD_SHARE = 0.2
"""Stopwords are the commonest words of a source, as far as a fifth of its texts have them: in a small world the 25
commonest words would be its things and colours."""

RARE = 0.001
"""Words that fewer of the texts have count as being in none: so the table of words stays small."""

_WORDS = "list_distinct(regexp_extract_all(lower(coalesce(caption, '')), '[\\p{L}\\p{N}]+'))"

WORDS = "word_rarities"

_HAS = f"{is_number('distinctness')}"

INFORMATIVENESS = (
    f"(CASE WHEN {_HAS} THEN greatest(0, least(1, distinctness)) ELSE 0 END + coalesce(rarity, 0) "
    f"+ least(coalesce(num_content, 0), {MOST_WORDS}) / {MOST_WORDS}.0) / (CASE WHEN {_HAS} THEN 3 ELSE 2 END)"
)
"""SQL of the informativeness of a text, 0..1: the mean of its distinctness, where that is stored, of the mean rarity of
its content words, and of their number over `MOST_WORDS`, at most 1. Content words are its different words without the
source's stopwords; a word's rarity is the share of the source's texts that lack it."""


def count_words(connection: duckdb.DuckDBPyConnection, files: Sequence[Path]) -> None:
    """Make the table `WORDS` of the words that at least `RARE` of a source's texts have, with their rarity.

    `rarity` is null for a stopword. DuckDB counts the words, on disk where they do not fit the memory.
    """
    sources = connection.execute(
        f"SELECT source, count(*) FROM {scan(files)} WHERE coalesce(caption, '') <> '' GROUP BY source"
    ).fetchall()
    connection.execute(f"CREATE OR REPLACE TABLE {WORDS} (source VARCHAR, word VARCHAR, rarity DOUBLE)")
    for source, number in sources:
        counted = (
            f"SELECT word, count(*) AS texts FROM (SELECT unnest({_WORDS}) AS word FROM {scan(files)} "
            f"WHERE source = {literal(source)}) GROUP BY word HAVING count(*) >= {RARE * number!r}"
        )
        is_stopword = (
            f"texts >= {STOPWORD_SHARE * number!r} AND row_number() OVER (ORDER BY texts DESC, word) <= {NUM_STOPWORDS}"
        )
        connection.execute(
            f"INSERT INTO {WORDS} SELECT {literal(source)}, word, "
            f"CASE WHEN NOT ({is_stopword}) THEN 1 - texts / {float(number)!r} END FROM ({counted})"
        )


def words_sql(texts: str) -> str:
    """SQL of the content words of each row of `texts`: part, position, their mean `rarity` and their `num_content`."""
    return (
        "SELECT part, position, avg(coalesce(k.rarity, 1)) AS rarity, count(*) AS num_content "
        f"FROM (SELECT part, position, source, unnest({_WORDS}) AS word FROM {texts}) w "
        f"LEFT JOIN {WORDS} k ON k.source = w.source AND k.word = w.word "
        "WHERE k.word IS NULL OR k.rarity IS NOT NULL GROUP BY part, position"
    )
