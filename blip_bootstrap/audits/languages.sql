-- Noise ratio by language
-- Of the texts that `audit languages` looked at, in 64 files at most; `und`: confidence under 0.3, as short texts and names have. No lines: not run yet.
WITH told AS (
    SELECT round, source, if(confidence < 0.3, 'und', language) AS language, kept
    FROM languages JOIN some_pairs USING (round, key, source, candidate, caption)
)
SELECT round, source, language, count(*) AS texts, texts / sum(count(*)) OVER (PARTITION BY round, source) AS share,
    count(*) FILTER (NOT kept) / texts AS noise_ratio, wilson_low(count(*) FILTER (NOT kept), texts) AS low,
    wilson_high(count(*) FILTER (NOT kept), texts) AS high
FROM told GROUP BY round, source, language
QUALIFY row_number() OVER (PARTITION BY round, source ORDER BY texts DESC, language) <= 20
ORDER BY round, source DESC, texts DESC, language
