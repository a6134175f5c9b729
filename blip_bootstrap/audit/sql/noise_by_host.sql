-- Noise ratio and dropped share by URL list and host
-- The 30 URL lists and hosts with the most texts, among at most 100,000 texts of each source drawn evenly. Those that differ from the rest are worth a look.
WITH sizes AS (
    SELECT max(every) AS every FROM (SELECT ceil(count(*) / 100000)::UBIGINT AS every FROM some_pairs GROUP BY round, source)
), places AS (
    SELECT key, dataset, regexp_extract(url[:1000], '^[a-z]+://([^/:?#]+)', 1) AS host
    FROM some_images, sizes WHERE hash(key) % every = 0 AND status = 'success'
), counted AS (
    SELECT round, dataset, host, source, count(*) AS texts, count(rejected) AS scored,
        count(*) FILTER (rejected) AS below, count(*) FILTER (NOT kept) AS dropped
    FROM (SELECT * FROM some_pairs, sizes WHERE hash(key) % every = 0) JOIN places USING (key)
    GROUP BY round, dataset, host, source
)
SELECT round, dataset, host, source, texts, below / nullif(scored, 0) AS noise_ratio, wilson_low(below, scored) AS low,
    wilson_high(below, scored) AS high, dropped / texts AS dropped_share, wilson_low(dropped, texts) AS dropped_low,
    wilson_high(dropped, texts) AS dropped_high
FROM counted ORDER BY round, texts DESC, dataset, host, source DESC LIMIT 30
