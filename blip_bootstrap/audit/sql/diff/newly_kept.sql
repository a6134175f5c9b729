-- Newly kept
-- Texts that were dropped before and are kept now, those whose score rose most first.
SELECT name AS image, source, candidate, beginning(b.caption) AS before, beginning(a.caption) AS after, b.itm_score AS score_before,
    a.itm_score AS score_after, b.reason AS reason_before
FROM before b JOIN after a USING (name, source, candidate) WHERE a.kept AND NOT b.kept
ORDER BY coalesce(a.itm_score, 0) - coalesce(b.itm_score, 0) DESC, name, source, candidate LIMIT 20
