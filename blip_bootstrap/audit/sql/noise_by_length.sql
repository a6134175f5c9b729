-- Noise ratio and dropped share by length
-- Texts are grouped by their number of words: 1, 2, 3-4, 5-8, 9-16 and so on; `upto_words` is the most that a group has. At most 200,000 texts of each source are read.
WITH sizes AS (
    SELECT round, source, ceil(count(*) / 200000)::UBIGINT AS every FROM some_pairs GROUP BY round, source
), drawn AS (
    SELECT round, source, kept, rejected,
        (2 ** ceil(log2(strlen(caption) - strlen(replace(caption, ' ', '')) + 1)))::INTEGER AS upto_words
    FROM some_pairs JOIN sizes USING (round, source) WHERE hash(key) % every = 0 AND caption <> ''
), counted AS (
    SELECT round, source, upto_words, count(*) AS texts, count(rejected) AS scored, count(*) FILTER (rejected) AS below,
        count(*) FILTER (NOT kept) AS dropped
    FROM drawn GROUP BY round, source, upto_words
)
SELECT round, source, upto_words, texts, below / nullif(scored, 0) AS noise_ratio, wilson_low(below, scored) AS low,
    wilson_high(below, scored) AS high, dropped / texts AS dropped_share, wilson_low(dropped, texts) AS dropped_low,
    wilson_high(dropped, texts) AS dropped_high
FROM counted ORDER BY round, source DESC, upto_words
