-- Collapse over the rounds
-- What a loop that feeds on itself loses: of the synthetic texts, and of all kept ones, at most 5,000 each, drawn by their keys. Different words, and those that fewer than a twentieth of the texts have (`content_words`: things, names, colours); `variance` of the texts as vectors of their words, 0 (all say the same) to 1 (no two share a word), where a word weighs by how rare it is among the web texts of the first round; the share of the ten commonest texts. `*_to_first`: as a multiple of the first round shown that has such texts.
WITH texts AS (
    SELECT round, 'synthetic' AS of, source, key, candidate, caption FROM some_pairs
    WHERE source = 'synthetic' AND caption <> ''
    UNION ALL
    SELECT round, 'kept', source, key, candidate, caption FROM some_pairs WHERE kept AND caption <> ''
), sizes AS (
    SELECT round, of, count(*) AS total FROM texts GROUP BY ALL
), drawn AS (
    SELECT round, of, row_number() OVER own AS number, lower(trim(beginning(caption))) AS text,
        list_distinct(list_filter(list_transform(
            words(caption), lambda one: regexp_replace(one, '[^\p{L}\p{N}]+', '', 'g')), lambda one: one <> '')) AS w
    FROM texts JOIN sizes USING (round, of)
    WHERE hash(key) % greatest(1, total // 10000)::UBIGINT = 0
    WINDOW own AS (PARTITION BY round, of ORDER BY hash(key, source, candidate), key, source, candidate)
    QUALIFY number <= 5000
), web AS (
    SELECT list_distinct(words(caption)) AS w FROM some_pairs
    WHERE source = 'web' AND round = (SELECT min(round) FROM some_pairs)
    QUALIFY row_number() OVER (ORDER BY hash(key), key) <= 20000
), rarity AS (
    SELECT regexp_replace(word, '[^\p{L}\p{N}]+', '', 'g') AS word, count(*) AS times
    FROM (SELECT unnest(w) AS word FROM web) GROUP BY ALL
), words AS (
    SELECT round, of, number, word, 1 + ln((1 + (SELECT count(*) FROM web)) / (1 + coalesce(times, 0))) AS weight
    FROM (SELECT round, of, number, unnest(w) AS word FROM drawn) LEFT JOIN rarity USING (word)
), vectors AS (
    SELECT round, of, word, weight / sqrt(sum(weight * weight) OVER (PARTITION BY round, of, number)) AS value FROM words
), sums AS (
    SELECT round, of, word, sum(value) AS total, count(*) AS times FROM vectors GROUP BY ALL
), counted AS (
    SELECT round, of, count(*) AS texts, count(*) FILTER (len(w) > 0) AS with_words FROM drawn GROUP BY ALL
), vocabulary AS (
    SELECT round, of, count(*) AS distinct_words, count(*) FILTER (times < greatest(2, texts / 20)) AS content_words,
        1 - sum((total / with_words) ^ 2) AS variance
    FROM sums JOIN counted USING (round, of) GROUP BY ALL
), said AS (
    SELECT round, of, text, count(*) AS times FROM drawn GROUP BY round, of, text
    QUALIFY row_number() OVER (PARTITION BY round, of ORDER BY times DESC, text) <= 10
), common AS (
    SELECT round, of, sum(times) AS times, max_by(text, {times: times, text: text}) AS most_common FROM said GROUP BY ALL
)
SELECT round, of AS of_texts, texts, distinct_words, content_words, variance, times / texts AS common_share,
    distinct_words / first_value(distinct_words) OVER own AS words_to_first,
    content_words / nullif(first_value(content_words) OVER own, 0) AS content_words_to_first,
    variance / nullif(first_value(variance) OVER own, 0) AS variance_to_first,
    times / texts / first_value(times / texts) OVER own AS common_to_first, most_common
FROM counted JOIN vocabulary USING (round, of) JOIN common USING (round, of)
WINDOW own AS (PARTITION BY of ORDER BY round)
ORDER BY round, of_texts DESC
