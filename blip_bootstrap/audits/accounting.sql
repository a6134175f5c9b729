-- Rows in and rows out of every step
-- rows_in = kept + dropped holds for every line, or the run is wrong: `gap` must be 0.
WITH download AS (
    SELECT count(*) AS urls, count(*) FILTER (status = 'success') AS pictures,
        count(*) FILTER (error_class IS NOT NULL) AS failed
    FROM images
), selected AS (
    SELECT round, count(*) FILTER (kept) AS kept, count(*) FILTER (reason IS NOT NULL) AS dropped FROM pairs GROUP BY round
), captioned AS (
    SELECT round, count(*) AS rows_in FROM captions GROUP BY round
)
SELECT NULL::SMALLINT AS round, 'download' AS step, urls AS rows_in, pictures AS kept, failed AS dropped,
    urls - pictures - failed AS gap
FROM download
UNION ALL
-- Round 0 has no captions: there the pairs come from the images themselves.
SELECT round, 'select', coalesce(rows_in, pictures), kept, dropped, coalesce(rows_in, pictures) - kept - dropped
FROM selected LEFT JOIN captioned USING (round), download
ORDER BY round NULLS FIRST
