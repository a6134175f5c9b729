-- Variety of phrases
-- `distinct_2`, `distinct_3`: of all pairs and triples of neighbouring words, the share that is different. `echoed`: the share of texts that have five words in a row in common with a text of another image. The first 200 words of at most 20,000 texts of each source are read.
WITH sizes AS (
    SELECT round, source, ceil(count(*) / 20000)::UBIGINT AS every FROM some_pairs GROUP BY round, source
), texts AS (
    SELECT round, source, key, words(caption) AS w
    FROM some_pairs JOIN sizes USING (round, source) WHERE hash(key) % every = 0 AND caption <> ''
), grams AS ( -- a lambda over places would copy all words for each of them
    SELECT round, source, key, 2 AS n, hash(unnest(list_zip(w, w[2:], true))) AS gram FROM texts
    UNION ALL
    SELECT round, source, key, 3, hash(unnest(list_zip(w, w[2:], w[3:], true))) FROM texts
    UNION ALL
    SELECT round, source, key, 5, hash(unnest(list_zip(w, w[2:], w[3:], w[4:], w[5:], true))) FROM texts
), counted AS (
    SELECT round, source, n, gram, count(*) AS times, min(key) <> max(key) AS shared FROM grams GROUP BY ALL
), echoes AS (
    SELECT g.round, g.source, count(DISTINCT g.key) AS echoed
    FROM grams g JOIN counted c USING (round, source, n, gram) WHERE n = 5 AND c.shared GROUP BY ALL
)
SELECT t.round, t.source, t.texts, v.distinct_2, v.distinct_3, coalesce(e.echoed, 0) / t.texts AS echoed
FROM (SELECT round, source, count(DISTINCT key) AS texts FROM texts GROUP BY ALL) t
LEFT JOIN (
    SELECT round, source, count(*) FILTER (n = 2) / sum(times) FILTER (n = 2) AS distinct_2,
        count(*) FILTER (n = 3) / sum(times) FILTER (n = 3) AS distinct_3
    FROM counted GROUP BY ALL
) v USING (round, source)
LEFT JOIN echoes e USING (round, source)
ORDER BY t.round, t.source DESC
