-- Licences, where a list names them
-- By the column `license`, `licence`, `rights` or the like of each list, which `images.extra` keeps; the 50 with the most rows. (none): the row's list names no licence, or not for this row.
WITH rows AS (
    SELECT dataset, status, size_bytes, if(extra IS NULL, NULL, coalesce(
        extra ->> '$.license', extra ->> '$.licence', extra ->> '$.License', extra ->> '$.Licence',
        extra ->> '$.LICENSE', extra ->> '$.LICENCE', extra ->> '$.license_name', extra ->> '$.license_url',
        extra ->> '$.licence_url', extra ->> '$.rights', extra ->> '$.Rights', extra ->> '$.copyright'
    )) AS licence
    FROM images WHERE listed
), counted AS MATERIALIZED (
    SELECT dataset, coalesce(licence[:200], '(none)') AS licence, count(*) AS urls,
        count(*) FILTER (status = 'success') AS pictures,
        (sum(size_bytes) FILTER (status = 'success'))::BIGINT AS size_bytes, bool_or(licence IS NOT NULL) AS named
    FROM rows GROUP BY ALL
)
SELECT dataset, licence, urls, pictures, size_bytes FROM counted
WHERE dataset IN (SELECT dataset FROM counted WHERE named)
ORDER BY pictures DESC, dataset, licence LIMIT 50
