"""How often the same words are said in a round, by which `select.variety` thins out the commonest texts."""

from __future__ import annotations

from collections.abc import Sequence

import duckdb

SAID_OFTEN = "said_often"


def count_texts(connection: duckdb.DuckDBPyConnection, queries: Sequence[str]) -> None:
    """Make the table `SAID_OFTEN`: how many texts of a source say the same, for those said more than once.

    `queries` give the texts that could be kept, as `rule.passing_sql` has them, a few files each. Only a number stands
    for a text, some 20 bytes for each different one, which DuckDB moves to disk where they do not fit the memory.
    """
    connection.execute("CREATE OR REPLACE TABLE said (source VARCHAR, words UBIGINT, number BIGINT)")
    for query in queries:
        connection.execute(f"INSERT INTO said SELECT source, words, count(*) FROM ({query}) GROUP BY ALL")
    connection.execute(
        f"CREATE OR REPLACE TABLE {SAID_OFTEN} AS SELECT source, words, sum(number)::BIGINT AS number FROM said "
        "GROUP BY ALL HAVING sum(number) > 1"
    )
    connection.execute("DROP TABLE said")
