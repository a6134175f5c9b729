-- Diversity of the texts
-- Among at most 50,000 texts of each source, drawn evenly, so that rounds of any size can be compared. Texts that differ only in case, or in spaces around them, count as one.
WITH sizes AS (
    SELECT round, source, ceil(count(*) / 50000)::UBIGINT AS every FROM some_pairs GROUP BY round, source
), texts AS (
    SELECT round, source, lower(trim(beginning(caption))) AS text, count(*) AS number
    FROM some_pairs JOIN sizes USING (round, source) WHERE hash(key) % every = 0 GROUP BY round, source, text
), vocabulary AS (
    SELECT round, source, count(DISTINCT word) AS distinct_words, sum(number) AS words
    FROM (SELECT round, source, number, unnest(words(text)) AS word FROM texts WHERE text <> '')
    GROUP BY round, source
)
SELECT round, source, sum(number)::BIGINT AS texts, count(*) / sum(number) AS distinct_share, distinct_words,
    words / sum(number) AS words_per_text, max(number) / sum(number) AS most_common_share,
    max_by(text, {number: number, text: text}) AS most_common
FROM texts JOIN vocabulary USING (round, source)
GROUP BY round, source, distinct_words, words ORDER BY round, source DESC
