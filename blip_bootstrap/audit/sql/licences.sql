-- Licences, where a list names them
-- By the column `license`, `licence`, `rights` or the like of each list, which `images.extra` keeps; the 50 with the most rows. (none): the row's list names no licence, or not for this row.
WITH rows AS (
    SELECT dataset, status, size_bytes, coalesce(
        extra ->> '$.license', extra ->> '$.licence', extra ->> '$.License', extra ->> '$.Licence',
        extra ->> '$.LICENSE', extra ->> '$.LICENCE', extra ->> '$.license_name', extra ->> '$.license_url',
        extra ->> '$.licence_url', extra ->> '$.rights', extra ->> '$.Rights', extra ->> '$.copyright'
    ) AS licence
    FROM images WHERE listed
)
SELECT dataset, coalesce(licence[:200], '(none)') AS licence, count(*) AS urls,
    count(*) FILTER (status = 'success') AS pictures, (sum(size_bytes) FILTER (status = 'success'))::BIGINT AS size_bytes
FROM rows GROUP BY ALL HAVING bool_or(dataset IN (SELECT dataset FROM rows WHERE licence IS NOT NULL))
ORDER BY pictures DESC, dataset, licence LIMIT 50
