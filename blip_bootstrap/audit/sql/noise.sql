-- Noise ratio of each source
-- `noise_ratio`: of the texts that the filter scored, the share that it rejects (section 4.2 of the paper), with its interval from `low` to `high`. `dropped_share`: of all texts, the share that was not kept, for whatever reason. All intervals are 95 % Wilson intervals.
WITH counted AS (
    SELECT round, source, count(*) AS texts, count(rejected) AS scored, count(*) FILTER (rejected) AS below,
        count(*) FILTER (NOT kept) AS dropped
    FROM pairs GROUP BY round, source
)
SELECT round, source, texts, scored, below AS rejected, below / nullif(scored, 0) AS noise_ratio,
    wilson_low(below, scored) AS low, wilson_high(below, scored) AS high, dropped, dropped / texts AS dropped_share,
    wilson_low(dropped, texts) AS dropped_low, wilson_high(dropped, texts) AS dropped_high
FROM counted ORDER BY round, source DESC
