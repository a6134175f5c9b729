-- Noise ratio of the synthetic texts by sampler
-- One line per round: the settings that wrote the texts, beside what the filter made of them.
SELECT p.round, r.settings->>'$.sampler.preset' AS preset, r.settings->>'$.sampler.top_p' AS top_p,
    r.settings->>'$.sampler.temperature' AS temperature, r.settings->>'$.candidates' AS candidates, count(*) AS texts,
    count(*) FILTER (NOT kept) / texts AS noise_ratio, wilson_low(count(*) FILTER (NOT kept), texts) AS low,
    wilson_high(count(*) FILTER (NOT kept), texts) AS high
FROM pairs p LEFT JOIN (SELECT * FROM runs WHERE name LIKE 'round-%/captions') r USING (round)
WHERE source = 'synthetic' GROUP BY ALL ORDER BY p.round
