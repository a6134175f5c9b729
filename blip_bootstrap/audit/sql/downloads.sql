-- Downloads by outcome
-- One line for each URL list and outcome; `share` is the share of the list's rows. Rows that left a list do not count.
WITH counted AS MATERIALIZED ( -- DuckDB would read all images again for the share
    SELECT dataset, status, error_class, count(*) AS urls FROM images WHERE listed GROUP BY dataset, status, error_class
)
SELECT dataset, status, error_class, urls, urls / sum(urls) OVER (PARTITION BY dataset) AS share
FROM counted ORDER BY dataset, urls DESC, error_class
