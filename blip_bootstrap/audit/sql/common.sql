-- The most common texts
-- The ten most common texts of each source, among at most 50,000 drawn evenly.
WITH sizes AS (
    SELECT round, source, ceil(count(*) / 50000)::UBIGINT AS every FROM some_pairs GROUP BY round, source
), counted AS (
    SELECT round, source, lower(trim(beginning(caption))) AS text, count(*) AS texts, count(*) FILTER (kept) AS kept
    FROM some_pairs JOIN sizes USING (round, source) WHERE hash(key) % every = 0 GROUP BY round, source, text
)
SELECT round, source, text, texts, texts / sum(texts) OVER (PARTITION BY round, source) AS share, kept
FROM counted QUALIFY row_number() OVER (PARTITION BY round, source ORDER BY texts DESC, text) <= 10
ORDER BY round, source DESC, texts DESC, text
