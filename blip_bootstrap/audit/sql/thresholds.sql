-- What any threshold would keep
-- Texts with an ITM score at or above each threshold, by source, and their share of the scored texts. No other rule is applied.
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
