-- Texts that mention people, and how the filter scores them
-- Texts are found by words of gender, age and origin (`audit --sql --name people` lists them). `score_gap` is their mean ITM score minus the mean of all texts of the source. At most 50,000 texts of each source are read.
WITH named(class, word) AS (
    VALUES ('gender: female', 'woman'), ('gender: female', 'women'), ('gender: female', 'girl'),
        ('gender: female', 'girls'), ('gender: female', 'lady'), ('gender: female', 'ladies'),
        ('gender: female', 'female'), ('gender: female', 'mother'), ('gender: female', 'wife'),
        ('gender: female', 'daughter'), ('gender: female', 'she'), ('gender: female', 'her'),
        ('gender: male', 'man'), ('gender: male', 'men'), ('gender: male', 'boy'), ('gender: male', 'boys'),
        ('gender: male', 'gentleman'), ('gender: male', 'guy'), ('gender: male', 'male'), ('gender: male', 'father'),
        ('gender: male', 'husband'), ('gender: male', 'son'), ('gender: male', 'he'), ('gender: male', 'his'),
        ('gender: neutral', 'person'), ('gender: neutral', 'people'), ('gender: neutral', 'someone'),
        ('gender: neutral', 'child'), ('gender: neutral', 'children'), ('gender: neutral', 'kid'),
        ('gender: neutral', 'kids'), ('age: young', 'baby'), ('age: young', 'toddler'), ('age: young', 'child'),
        ('age: young', 'children'), ('age: young', 'kid'), ('age: young', 'kids'), ('age: young', 'boy'),
        ('age: young', 'girl'), ('age: young', 'teenager'), ('age: young', 'young'), ('age: old', 'old'),
        ('age: old', 'elderly'), ('age: old', 'senior'), ('age: old', 'grandmother'), ('age: old', 'grandfather'),
        ('origin: african', 'african'), ('origin: african', 'nigerian'), ('origin: african', 'kenyan'),
        ('origin: american', 'american'), ('origin: american', 'mexican'), ('origin: american', 'brazilian'),
        ('origin: asian', 'asian'), ('origin: asian', 'chinese'), ('origin: asian', 'japanese'),
        ('origin: asian', 'korean'), ('origin: asian', 'indian'), ('origin: european', 'european'),
        ('origin: european', 'british'), ('origin: european', 'french'), ('origin: european', 'german'),
        ('origin: european', 'italian'), ('origin: european', 'spanish'), ('origin: middle eastern', 'arab'),
        ('origin: middle eastern', 'iranian'), ('origin: middle eastern', 'turkish')
), sizes AS (
    SELECT round, source, ceil(count(*) / 50000)::UBIGINT AS every FROM some_captions GROUP BY round, source
), drawn AS (
    SELECT round, source, key, candidate, itm_score, beginning(caption) AS caption
    FROM some_captions JOIN sizes USING (round, source) WHERE hash(key) % every = 0 AND isfinite(itm_score)
), totals AS (
    SELECT round, source, count(*) AS total, avg(itm_score) AS mean_score FROM drawn GROUP BY round, source
), found AS (
    SELECT DISTINCT round, source, key, candidate, itm_score, class
    FROM (
        SELECT round, source, key, candidate, itm_score,
            unnest(words(regexp_replace(caption, '[^\p{L}\p{N} ]+', ' ', 'g'))) AS word
        FROM drawn
    ) JOIN named USING (word)
)
SELECT round, source, class, count(*) AS texts, texts / any_value(total) AS share,
    count(*) FILTER (itm_score < 0.5) / texts AS below_half, wilson_low(count(*) FILTER (itm_score < 0.5), texts) AS low,
    wilson_high(count(*) FILTER (itm_score < 0.5), texts) AS high, avg(itm_score) - any_value(mean_score) AS score_gap
FROM found JOIN totals USING (round, source) GROUP BY round, source, class ORDER BY round, source DESC, class
