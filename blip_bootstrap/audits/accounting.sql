-- Rows in and rows out of every step
-- rows_in = kept + dropped holds for every line, or the run is wrong: `gap` must be 0.
WITH download AS (
    SELECT count(*) AS rows_in, count(*) FILTER (status = 'success') AS kept,
        count(*) FILTER (error_class IS NOT NULL) AS dropped
    FROM images
), selected AS (
    SELECT round, count(*) FILTER (kept) AS kept, count(*) FILTER (reason IS NOT NULL) AS dropped FROM pairs GROUP BY round
), captioned AS (
    SELECT round, count(*) AS rows_in FROM captions GROUP BY round
)
SELECT NULL::SMALLINT AS round, 'download' AS step, rows_in, kept, dropped, rows_in - kept - dropped AS gap FROM download
UNION ALL
-- Round 0 has no captions: there the pairs come from the images themselves.
SELECT s.round, 'select', coalesce(c.rows_in, d.kept) AS rows_in, s.kept, s.dropped, rows_in - s.kept - s.dropped
FROM selected s LEFT JOIN captioned c USING (round), download d
ORDER BY round NULLS FIRST
