-- Opt-outs by directive and host
-- What hosts said against the use of their pictures, the 50 with the most rows; `pictures`: rows that were fetched all the same, since a setting ignored or only recorded it. `last_said`: UTC.
WITH said AS (
    SELECT url, status, said_at, unnest([
        {directive: 'robots_txt', said: if(robots_txt = 'disallowed' OR error_class = 'robots_txt', 'disallowed', NULL)},
        {directive: 'x_robots_tag', said: if(regexp_matches(x_robots_tag, '(?i)\b(noai|noimageai|noindex|noimageindex|none)\b'), x_robots_tag, NULL)},
        {directive: 'tdm_reservation', said: if(starts_with(tdm_reservation, '1'), tdm_reservation, NULL)},
        {directive: 'content_usage', said: if(regexp_matches(content_usage, '(?i)=\s*n\b'), content_usage, NULL)}
    ]) AS one
    FROM images WHERE listed AND (robots_txt = 'disallowed' OR error_class = 'robots_txt' OR x_robots_tag IS NOT NULL
        OR tdm_reservation IS NOT NULL OR content_usage IS NOT NULL)
)
SELECT one.directive AS directive, one.said[:200] AS said,
    lower(regexp_extract(url[:1000], '^[a-zA-Z][a-zA-Z0-9+.-]*://(?:[^/?#@]*@)?(\[[^\]]*\]|[^/:?#]+)', 1)) AS host,
    count(*) AS rows, count(*) FILTER (status = 'success') AS pictures, max(said_at)::TIMESTAMP AS last_said
FROM said WHERE one.said IS NOT NULL GROUP BY ALL ORDER BY rows DESC, directive, host, said LIMIT 50
