-- Noise ratios, dropped shares and their change
-- `noise_ratio` is the share that the filter rejects, `dropped_share` the share that is not kept, for whatever reason. The 95 % intervals are Wilson's for a share and Newcombe's for a change; a change is clear where its interval does not contain 0.
WITH counted AS (
    SELECT 'before' AS side, source, rejected, kept FROM before UNION ALL SELECT 'after', source, rejected, kept FROM after
), hits AS (
    SELECT side, source, 'noise_ratio' AS figure, count(*) FILTER (rejected) AS hits, count(rejected) AS number
    FROM counted GROUP BY side, source
    UNION ALL
    SELECT side, source, 'dropped_share', count(*) FILTER (NOT kept), count(*) FROM counted GROUP BY side, source
), ratios AS (
    SELECT source, figure, side, hits / nullif(number, 0) AS ratio, wilson_low(hits, number) AS low,
        wilson_high(hits, number) AS high
    FROM hits
)
SELECT source, figure, b.ratio AS before, b.low AS before_low, b.high AS before_high, a.ratio AS after,
    a.low AS after_low, a.high AS after_high, a.ratio - b.ratio AS change,
    change - sqrt((a.ratio - a.low) ** 2 + (b.high - b.ratio) ** 2) AS change_low,
    change + sqrt((a.high - a.ratio) ** 2 + (b.ratio - b.low) ** 2) AS change_high
FROM (FROM ratios WHERE side = 'before') b FULL JOIN (FROM ratios WHERE side = 'after') a USING (source, figure)
ORDER BY source DESC, figure DESC
