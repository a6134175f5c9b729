-- Flags of the synthetic captions
-- Texts that carry each flag, of all synthetic texts of the round.
SELECT round, flag, count(*) AS texts, count(*) / any_value(total) AS share
FROM (SELECT round, unnest(flags) AS flag, total FROM (
    SELECT round, flags, count(*) OVER (PARTITION BY round) AS total FROM captions WHERE source = 'synthetic'
))
GROUP BY round, flag ORDER BY round, texts DESC, flag
