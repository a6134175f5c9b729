-- How the ITM scores lie
-- Texts in each twentieth of the score's range 0..1; a good filter has two hills and a valley at the threshold.
SELECT round, source, least(floor(itm_score * 20), 19)::INTEGER / 20 AS score_from, count(*) AS texts
FROM captions WHERE isfinite(itm_score)
GROUP BY round, source, score_from ORDER BY round, source DESC, score_from
