-- Noise ratios and their change
-- With 95 % intervals: Wilson for each ratio, Newcombe for the change; an interval without 0 is a change.
WITH ratios AS (
    SELECT source, number, dropped / number AS ratio, wilson_low(dropped, number) AS low,
        wilson_high(dropped, number) AS high, side
    FROM (
        SELECT 'before' AS side, source, count(*) AS number, count(*) FILTER (NOT kept) AS dropped FROM before GROUP BY source
        UNION ALL
        SELECT 'after', source, count(*), count(*) FILTER (NOT kept) FROM after GROUP BY source
    )
)
SELECT source, b.ratio AS before, b.low AS before_low, b.high AS before_high, a.ratio AS after, a.low AS after_low,
    a.high AS after_high, a.ratio - b.ratio AS change,
    change - sqrt((a.ratio - a.low) ** 2 + (b.high - b.ratio) ** 2) AS change_low,
    change + sqrt((a.high - a.ratio) ** 2 + (b.ratio - b.low) ** 2) AS change_high
FROM (FROM ratios WHERE side = 'before') b FULL JOIN (FROM ratios WHERE side = 'after') a USING (source)
ORDER BY source DESC
