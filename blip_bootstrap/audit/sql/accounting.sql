-- Rows in and rows out of every step
-- Every row that goes into a step is kept or dropped for a reason: `rows_in` = `kept` + `dropped`, so that `gap` must be 0. The line `caption` counts pictures, each of which has one web text; the line `select` counts texts.
WITH read AS (
    SELECT 'download' AS step, 1 AS place, status, if(status = 'withdrawn', status, error_class) AS error_class FROM images
    UNION ALL SELECT 'human', 2, status, error_class FROM human
    UNION ALL SELECT 'held_out', 3, status, error_class FROM held_out
), counted AS MATERIALIZED (
    SELECT NULL::SMALLINT AS round, step, place, NULL::BIGINT AS rows_in, status = 'success' AS kept,
        error_class AS reason, count(*) AS number
    FROM read GROUP BY step, place, kept, reason
), pictures AS (
    -- A picture of a row that was fetched again, or is in no list any more, has captions all the same.
    SELECT count(*) AS pictures FROM every_image WHERE status = 'success'
), captioned AS MATERIALIZED (
    SELECT round, count(*) AS texts, count(*) FILTER (source = 'web') AS web FROM captions GROUP BY round
), every AS (
    FROM counted
    UNION ALL
    SELECT round, 'caption', 4, pictures, true, NULL, web FROM captioned, pictures
    UNION ALL
    -- Round 0 has no captions: there the pairs come from the images themselves.
    SELECT round, 'select', 5, coalesce(texts, pictures), kept, reason, number
    FROM (SELECT round, kept, reason, count(*) AS number FROM pairs GROUP BY round, kept, reason)
    LEFT JOIN captioned USING (round), pictures
), summed AS (
    SELECT round, step, place, coalesce(any_value(rows_in), sum(number))::BIGINT AS rows_in,
        coalesce(sum(number) FILTER (kept AND reason IS NULL), 0)::BIGINT AS kept,
        coalesce(sum(number) FILTER (NOT kept AND reason IS NOT NULL), 0)::BIGINT AS dropped,
        string_agg(reason || ' ' || number, ', ' ORDER BY number DESC, reason) AS reasons
    FROM every GROUP BY round, step, place
)
SELECT round, step, rows_in, kept, dropped, rows_in - kept - dropped AS gap, reasons
FROM summed ORDER BY round NULLS FIRST, place
