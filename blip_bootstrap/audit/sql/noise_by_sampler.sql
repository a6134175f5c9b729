-- Noise ratio and dropped share of the synthetic texts by sampler
-- One line for each round: the sampler settings that its texts were written with, the share that the filter rejects and the share that the selection drops.
WITH counted AS (
    SELECT round, count(*) AS texts, count(rejected) AS scored, count(*) FILTER (rejected) AS below,
        count(*) FILTER (NOT kept) AS dropped
    FROM pairs WHERE source = 'synthetic' GROUP BY round
)
SELECT c.round, r.settings->>'$.sampler.preset' AS preset, r.settings->>'$.sampler.top_p' AS top_p,
    r.settings->>'$.sampler.temperature' AS temperature, r.settings->>'$.candidates' AS candidates, texts,
    below / nullif(scored, 0) AS noise_ratio, wilson_low(below, scored) AS low, wilson_high(below, scored) AS high,
    dropped / texts AS dropped_share, wilson_low(dropped, texts) AS dropped_low,
    wilson_high(dropped, texts) AS dropped_high
FROM counted c LEFT JOIN (SELECT * FROM runs WHERE name LIKE 'round-%/captions') r USING (round) ORDER BY c.round
