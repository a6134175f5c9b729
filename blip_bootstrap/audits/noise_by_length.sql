-- Noise ratio by length
-- Words of the text: 1, 2, 3-4, 5-8, 9-16, ...; `upto_words` is the most of its class.
SELECT round, source, (2 ** ceil(log2(strlen(caption) - strlen(replace(caption, ' ', '')) + 1)))::INTEGER AS upto_words,
    count(*) AS texts, count(*) FILTER (NOT kept) / texts AS noise_ratio,
    wilson_low(count(*) FILTER (NOT kept), texts) AS low, wilson_high(count(*) FILTER (NOT kept), texts) AS high
FROM pairs WHERE caption <> '' GROUP BY round, source, upto_words ORDER BY round, source DESC, upto_words
