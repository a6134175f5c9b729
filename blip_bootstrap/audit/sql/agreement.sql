-- Do the scores agree?
-- Two scores of the same text are compared: ITM, ITC, a second scorer (`clip`) and each of several filters (`itm 1`, `itm 2`). The columns are their correlation and the shares of texts that both, one or none of them rates high: ITM from 0.5, the others from the round's median. At most 200,000 texts of each source are read.
WITH sizes AS (
    SELECT round, source, ceil(count(*) / 200000)::UBIGINT AS every FROM some_captions GROUP BY round, source
), drawn AS (
    SELECT round, source, itm_score, itc_score, clip_score, itm_scores[1] AS itm_1, itm_scores[2] AS itm_2
    FROM some_captions JOIN sizes USING (round, source) WHERE hash(key) % every = 0 AND isfinite(itm_score)
), medians AS (
    SELECT round, approx_quantile(itc_score, 0.5) AS itc, approx_quantile(clip_score, 0.5) AS clip
    FROM drawn GROUP BY round
), compared AS (
    SELECT round, source, unnest([
        {place: 1, first: 'itm', second: 'itc', a: itm_score, b: itc_score, a_cut: 0.5, b_cut: itc},
        {place: 2, first: 'itm', second: 'clip', a: itm_score, b: clip_score, a_cut: 0.5, b_cut: clip},
        {place: 3, first: 'itc', second: 'clip', a: itc_score, b: clip_score, a_cut: itc, b_cut: clip},
        {place: 4, first: 'itm 1', second: 'itm 2', a: itm_1, b: itm_2, a_cut: 0.5, b_cut: 0.5}
    ], recursive := true)
    FROM drawn JOIN medians USING (round)
)
SELECT round, source, first, second, count(*) AS texts, corr(a, b) AS correlation,
    count(*) FILTER (a >= a_cut AND b >= b_cut) / texts AS both_high,
    count(*) FILTER (a >= a_cut AND b < b_cut) / texts AS only_first,
    count(*) FILTER (a < a_cut AND b >= b_cut) / texts AS only_second,
    count(*) FILTER (a < a_cut AND b < b_cut) / texts AS both_low
FROM compared WHERE isfinite(a) AND isfinite(b)
GROUP BY round, source, place, first, second ORDER BY round, source DESC, place
