-- Words that the captioner lost or invented
-- The 15 words that synthetic texts use least, and the 15 that they use most, in comparison with web texts: by the log of the odds ratio, with one added to every count, and only where they differ by a factor of 1.5 or more.
WITH sizes AS (
    SELECT round, source, ceil(count(*) / 50000)::UBIGINT AS every FROM some_captions GROUP BY round, source
), uses AS (
    SELECT round, regexp_replace(word, '[^\p{L}\p{N}]+', '', 'g') AS word, count(*) FILTER (source = 'web') AS web,
        count(*) FILTER (source = 'synthetic') AS synthetic
    FROM (
        SELECT round, source, unnest(words(caption)) AS word
        FROM some_captions JOIN sizes USING (round, source) WHERE hash(key) % every = 0
    ) GROUP BY ALL
), odds AS (
    SELECT round, word, web, synthetic, ln((synthetic + 1) / (sum(synthetic) OVER r + 1))
        - ln((web + 1) / (sum(web) OVER r + 1)) AS log_odds
    FROM uses WHERE word <> '' WINDOW r AS (PARTITION BY round)
)
SELECT round, CASE WHEN log_odds < 0 THEN 'lost' ELSE 'invented' END AS change, word, web, synthetic, log_odds
FROM odds
WHERE abs(log_odds) > ln(1.5) AND round IN (SELECT round FROM uses GROUP BY round HAVING sum(synthetic) > 0)
QUALIFY row_number() OVER (PARTITION BY round, change ORDER BY abs(log_odds) DESC, word) <= 15
ORDER BY round, change DESC, abs(log_odds) DESC, word
