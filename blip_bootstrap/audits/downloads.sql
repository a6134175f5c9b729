-- Downloads by outcome
-- One line per list and outcome; `share` is of the list's rows.
SELECT dataset, status, error_class, count(*) AS urls, count(*) / sum(count(*)) OVER (PARTITION BY dataset) AS share
FROM images GROUP BY dataset, status, error_class ORDER BY dataset, urls DESC, error_class
