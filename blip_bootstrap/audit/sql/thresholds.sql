-- What each threshold would keep
-- Texts whose ITM score is at or above the threshold, by source, also as shares of the texts that have a score. The selection's other rules are not applied.
WITH binned AS (
    SELECT round, source, least(floor(itm_score * 20), 20)::INTEGER AS bin, count(*) AS texts
    FROM captions WHERE isfinite(itm_score) GROUP BY round, source, bin
), kept AS (
    SELECT round, source, step, coalesce(sum(texts) FILTER (bin >= step), 0)::BIGINT AS texts, sum(texts) AS total
    FROM binned, range(0, 21) steps(step) GROUP BY round, source, step
)
SELECT round, step / 20 AS threshold, max(texts) FILTER (source = 'web') AS web,
    max(texts) FILTER (source = 'synthetic') AS synthetic, max(texts / total) FILTER (source = 'web') AS web_share,
    max(texts / total) FILTER (source = 'synthetic') AS synthetic_share
FROM kept GROUP BY round, step ORDER BY round, step
