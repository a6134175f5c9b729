-- Details that the texts mention
-- Shares of texts with a number, with a capital letter after the first word (often a name), and with a word that is rare in the web texts (at most two uses). At most 50,000 texts of each source are read.
WITH sizes AS (
    SELECT round, source, ceil(count(*) / 50000)::UBIGINT AS every FROM some_pairs GROUP BY round, source
), drawn AS (
    SELECT round, source, key, candidate, beginning(caption) AS caption, kept
    FROM some_pairs JOIN sizes USING (round, source) WHERE hash(key) % every = 0 AND caption <> ''
), told AS (
    SELECT round, source, key, candidate, unnest(words(caption)) AS word FROM drawn
), rare AS (
    SELECT round, word FROM told WHERE source = 'web' GROUP BY round, word HAVING count(*) <= 2
), with_rare AS (
    SELECT DISTINCT round, source, key, candidate, true AS has_rare FROM told JOIN rare USING (round, word)
)
SELECT round, source, kept, count(*) AS texts, count(*) FILTER (regexp_matches(caption, '\d')) / texts AS with_number,
    count(*) FILTER (regexp_matches(caption, '\s\p{Lu}')) / texts AS with_name,
    count(*) FILTER (has_rare) / texts AS with_rare_word
FROM drawn LEFT JOIN with_rare USING (round, source, key, candidate)
GROUP BY round, source, kept ORDER BY round, source DESC, kept DESC
