-- What the rule does to variety
-- Beside all texts of a source those that were kept, as many of both, at most 20,000, drawn by their keys, so that they can be compared: the share of different texts; different words in all, and those that fewer than a twentieth of the texts have (`content_words`); of all pairs and triples of neighbouring words the share that is different (`distinct_2`, `distinct_3`); the share of the commonest text. `distinctness`: the mean share of the reference pictures that fit a text less well than its own picture does; `informativeness`: as the rule weighs it; null where they are not stored.
WITH sizes AS (
    SELECT round, source, count(*) AS total, count(*) FILTER (kept) AS num_kept,
        least(20000, if(num_kept = 0, total, num_kept)) AS number
    FROM some_pairs WHERE caption <> '' GROUP BY round, source
), candidates AS (
    SELECT round, source, 'all' AS fate, key, candidate, caption, informativeness, number, total AS num_texts
    FROM some_pairs JOIN sizes USING (round, source)
    WHERE caption <> '' AND hash(key) % greatest(1, total // (2 * number))::UBIGINT = 0
    UNION ALL
    SELECT round, source, 'kept', key, candidate, caption, informativeness, number, num_kept
    FROM some_pairs JOIN sizes USING (round, source)
    WHERE caption <> '' AND kept AND hash(key) % greatest(1, num_kept // (2 * number))::UBIGINT = 0
), drawn AS (
    SELECT *, lower(trim(beginning(caption))) AS text, words(caption) AS w FROM candidates
    QUALIFY row_number() OVER (PARTITION BY round, source, fate ORDER BY hash(key, candidate), key, candidate) <= number
), said AS (
    SELECT round, source, fate, text, count(*) AS times FROM drawn GROUP BY ALL
), texts AS (
    SELECT round, source, fate, sum(times)::BIGINT AS texts, count(*) / sum(times) AS distinct_share,
        max(times) / sum(times) AS most_common_share, max_by(text, {times: times, text: text}) AS most_common
    FROM said GROUP BY ALL
), grams AS ( -- a word counts once for a text here, pairs and triples each time
    SELECT round, source, fate, 1 AS n, hash(unnest(list_distinct(w))) AS gram FROM drawn
    UNION ALL
    SELECT round, source, fate, 2, hash(unnest(list_zip(w, w[2:], true))) FROM drawn
    UNION ALL
    SELECT round, source, fate, 3, hash(unnest(list_zip(w, w[2:], w[3:], true))) FROM drawn
), counted AS (
    SELECT round, source, fate, n, gram, count(*) AS times FROM grams GROUP BY ALL
), vocabulary AS (
    SELECT c.round, c.source, c.fate, count(*) FILTER (n = 1) AS distinct_words,
        count(*) FILTER (n = 1 AND times < greatest(2, t.texts / 20)) AS content_words,
        count(*) FILTER (n = 2) / sum(times) FILTER (n = 2) AS distinct_2,
        count(*) FILTER (n = 3) / sum(times) FILTER (n = 3) AS distinct_3
    FROM counted c JOIN texts t USING (round, source, fate) GROUP BY ALL
), told AS (
    SELECT round, source, fate, avg(len(w)) AS words_per_text, avg(d.informativeness) AS informativeness,
        avg(c.distinctness) AS distinctness
    FROM drawn d LEFT JOIN some_captions c USING (round, source, key, candidate) GROUP BY ALL
)
SELECT t.round, t.source, t.fate, t.texts, t.distinct_share, v.distinct_words, v.content_words, v.distinct_2,
    v.distinct_3, o.words_per_text, o.distinctness, o.informativeness, t.most_common_share, t.most_common
FROM texts t JOIN vocabulary v USING (round, source, fate) JOIN told o USING (round, source, fate)
ORDER BY t.round, t.source DESC, t.fate
