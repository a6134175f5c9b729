-- Noise ratio of each source
-- Dropped texts of all texts of the source, with the 95 % Wilson interval (section 4.2 of the paper).
SELECT round, source, count(*) AS texts, count(*) FILTER (NOT kept) AS dropped, dropped / texts AS noise_ratio,
    wilson_low(dropped, texts) AS low, wilson_high(dropped, texts) AS high
FROM pairs GROUP BY round, source ORDER BY round, source DESC
