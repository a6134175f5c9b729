-- Noise ratio by length
-- Words of the text: 1, 2, 3-4, 5-8, 9-16, ... (`upto_words` is the most), of at most 200,000 texts a source.
WITH sizes AS (
    SELECT round, source, ceil(count(*) / 200000)::UBIGINT AS every FROM some_pairs GROUP BY round, source
), drawn AS (
    SELECT round, source, kept,
        (2 ** ceil(log2(strlen(caption) - strlen(replace(caption, ' ', '')) + 1)))::INTEGER AS upto_words
    FROM some_pairs JOIN sizes USING (round, source) WHERE hash(key) % every = 0 AND caption <> ''
)
SELECT round, source, upto_words, count(*) AS texts, count(*) FILTER (NOT kept) / texts AS noise_ratio,
    wilson_low(count(*) FILTER (NOT kept), texts) AS low, wilson_high(count(*) FILTER (NOT kept), texts) AS high
FROM drawn GROUP BY round, source, upto_words ORDER BY round, source DESC, upto_words
