-- Noise ratio and dropped share by language
-- The languages that `audit languages` found, in texts from at most 64 files. `und` (undetermined) stands for a confidence below 0.3, which short texts and names often get. Without lines, that command was not run on this round.
WITH told AS (
    SELECT round, source, if(confidence < 0.3, 'und', language) AS language, kept, rejected
    FROM languages JOIN some_pairs USING (round, key, source, candidate, caption)
), counted AS (
    SELECT round, source, language, count(*) AS texts, count(rejected) AS scored, count(*) FILTER (rejected) AS below,
        count(*) FILTER (NOT kept) AS dropped
    FROM told GROUP BY round, source, language
)
SELECT round, source, language, texts, texts / sum(texts) OVER (PARTITION BY round, source) AS share,
    below / nullif(scored, 0) AS noise_ratio, wilson_low(below, scored) AS low, wilson_high(below, scored) AS high,
    dropped / texts AS dropped_share, wilson_low(dropped, texts) AS dropped_low,
    wilson_high(dropped, texts) AS dropped_high
FROM counted QUALIFY row_number() OVER (PARTITION BY round, source ORDER BY texts DESC, language) <= 20
ORDER BY round, source DESC, texts DESC, language
