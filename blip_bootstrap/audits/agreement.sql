-- Do ITM and ITC agree?
-- Correlation, and who says high (ITM from 0.5, ITC from the round's median), of at most 200,000 texts a source.
WITH sizes AS (
    SELECT round, source, ceil(count(*) / 200000)::UBIGINT AS every FROM captions GROUP BY round, source
), drawn AS (
    SELECT round, source, itm_score, itc_score FROM captions JOIN sizes USING (round, source)
    WHERE hash(key) % every = 0 AND itm_score IS NOT NULL AND itc_score IS NOT NULL
), medians AS (
    SELECT round, approx_quantile(itc_score, 0.5) AS median FROM drawn GROUP BY round
)
SELECT round, source, count(*) AS texts, corr(itm_score, itc_score) AS correlation,
    count(*) FILTER (itm_score >= 0.5 AND itc_score >= median) / texts AS both_high,
    count(*) FILTER (itm_score >= 0.5 AND itc_score < median) / texts AS only_itm,
    count(*) FILTER (itm_score < 0.5 AND itc_score >= median) / texts AS only_itc,
    count(*) FILTER (itm_score < 0.5 AND itc_score < median) / texts AS both_low
FROM drawn JOIN medians USING (round) GROUP BY round, source ORDER BY round, source DESC
