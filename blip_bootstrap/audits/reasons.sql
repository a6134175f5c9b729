-- Why texts were dropped
-- One line per source and reason; `share` is of all texts of that source. No reason: kept.
SELECT round, source, coalesce(reason, 'kept') AS fate, count(*) AS texts,
    count(*) / sum(count(*)) OVER (PARTITION BY round, source) AS share
FROM pairs GROUP BY round, source, fate ORDER BY round, source DESC, texts DESC, fate
