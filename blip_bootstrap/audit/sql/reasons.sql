-- Why texts were dropped
-- One line for each source and reason; `share` is the share of all texts of that source. The line without a reason counts the texts that were kept.
WITH counted AS MATERIALIZED ( -- DuckDB would read all pairs again for the share
    SELECT round, source, coalesce(reason, 'kept') AS fate, count(*) AS texts FROM pairs GROUP BY round, source, fate
)
SELECT round, source, fate, texts, texts / sum(texts) OVER (PARTITION BY round, source) AS share
FROM counted ORDER BY round, source DESC, texts DESC, fate
