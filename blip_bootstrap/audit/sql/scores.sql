-- Distribution of the ITM scores
-- Texts in each twentieth of the score's range from 0 to 1. Where a filter separates well, there are two peaks and a valley at the threshold.
SELECT round, source, least(floor(itm_score * 20), 19)::INTEGER / 20 AS score_from, count(*) AS texts
FROM captions WHERE isfinite(itm_score)
GROUP BY round, source, score_from ORDER BY round, source DESC, score_from
