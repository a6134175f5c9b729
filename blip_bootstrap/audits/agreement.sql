-- Do ITM and ITC agree?
-- Correlation of the two scores; of the texts above ITM 0.5, how many also lie above the round's median ITC, and below.
WITH medians AS (
    SELECT round, approx_quantile(itc_score, 0.5) AS median FROM captions WHERE itm_score IS NOT NULL GROUP BY round
)
SELECT round, source, count(*) AS texts, corr(itm_score, itc_score) AS correlation,
    count(*) FILTER (itm_score >= 0.5 AND itc_score >= median) / texts AS both_high,
    count(*) FILTER (itm_score >= 0.5 AND itc_score < median) / texts AS only_itm,
    count(*) FILTER (itm_score < 0.5 AND itc_score >= median) / texts AS only_itc,
    count(*) FILTER (itm_score < 0.5 AND itc_score < median) / texts AS both_low
FROM captions JOIN medians USING (round) WHERE itm_score IS NOT NULL AND itc_score IS NOT NULL
GROUP BY round, source ORDER BY round, source DESC
