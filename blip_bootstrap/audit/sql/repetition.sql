-- Repetition and prompt leaks
-- Counted in the texts themselves: they begin with the captioner's prompt, repeat a word at once, or have six or more words of which a third were said before. The first 200 words of at most 50,000 texts of each source are read.
WITH sizes AS (
    SELECT round, source, ceil(count(*) / 50000)::UBIGINT AS every FROM some_captions GROUP BY round, source
), drawn AS (
    SELECT round, source, lower(beginning(caption)) AS text, words(caption) AS w
    FROM some_captions JOIN sizes USING (round, source) WHERE hash(key) % every = 0 AND caption <> ''
)
SELECT round, source, count(*) AS texts,
    count(*) FILTER (regexp_matches(text, '^(a )?(picture|photo) of')) / texts AS prompt_leak,
    count(*) FILTER (len(list_filter(list_zip(w, w[2:], true), lambda two: two[1] = two[2])) > 0) / texts AS word_twice,
    count(*) FILTER (len(w) >= 6 AND 3 * len(list_distinct(w)) <= 2 * len(w)) / texts AS few_words
FROM drawn GROUP BY round, source ORDER BY round, source DESC
