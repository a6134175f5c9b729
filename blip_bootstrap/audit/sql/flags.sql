-- Flags of the synthetic captions
-- How many of the round's synthetic texts carry each flag, and their share of all synthetic texts.
WITH totals AS (
    SELECT round, count(*) AS total FROM captions WHERE source = 'synthetic' GROUP BY round
)
SELECT round, flag, count(*) AS texts, count(*) / any_value(total) AS share
FROM (SELECT round, unnest(flags) AS flag FROM captions WHERE source = 'synthetic') JOIN totals USING (round)
GROUP BY round, flag ORDER BY round, texts DESC, flag
