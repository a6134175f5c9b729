-- Noise ratio by where the picture is from
-- The 30 lists and hosts with most texts, of at most 100,000 texts a source drawn evenly; look at who stands apart.
WITH sizes AS (
    SELECT max(every) AS every FROM (SELECT ceil(count(*) / 100000)::UBIGINT AS every FROM some_pairs GROUP BY round, source)
), places AS (
    SELECT key, dataset, regexp_extract(url, '^[a-z]+://([^/:?#]+)', 1) AS host
    FROM some_images, sizes WHERE hash(key) % every = 0 AND status = 'success'
)
SELECT round, dataset, host, source, count(*) AS texts, count(*) FILTER (NOT kept) / texts AS noise_ratio,
    wilson_low(count(*) FILTER (NOT kept), texts) AS low, wilson_high(count(*) FILTER (NOT kept), texts) AS high
FROM (SELECT * FROM some_pairs, sizes WHERE hash(key) % every = 0) JOIN places USING (key)
GROUP BY round, dataset, host, source ORDER BY round, texts DESC, dataset, host, source DESC LIMIT 30
