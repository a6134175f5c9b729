-- Newly dropped
-- Texts that were kept before and are dropped now, those whose score fell most first.
SELECT name AS image, source, candidate, beginning(b.caption) AS before, beginning(a.caption) AS after, b.itm_score AS score_before,
    a.itm_score AS score_after, a.reason AS reason_after
FROM before b JOIN after a USING (name, source, candidate) WHERE b.kept AND NOT a.kept
ORDER BY coalesce(a.itm_score, 0) - coalesce(b.itm_score, 0), name, source, candidate LIMIT 20
