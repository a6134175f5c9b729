-- What changed
-- Texts by source. A text is the same in both where image, source and candidate are; `newly_kept` and `newly_dropped` count texts that both have.
SELECT source, count(*) FILTER (b.kept IS NOT NULL) AS before, count(*) FILTER (a.kept IS NOT NULL) AS after,
    count(*) FILTER (b.kept) AS kept_before, count(*) FILTER (a.kept) AS kept_after,
    count(*) FILTER (a.kept AND NOT b.kept) AS newly_kept, count(*) FILTER (b.kept AND NOT a.kept) AS newly_dropped,
    count(*) FILTER (a.caption IS DISTINCT FROM b.caption AND a.kept IS NOT NULL AND b.kept IS NOT NULL) AS other_text,
    avg(b.itm_score) FILTER (isfinite(b.itm_score)) AS score_before,
    avg(a.itm_score) FILTER (isfinite(a.itm_score)) AS score_after,
    corr(a.itm_score, b.itm_score) FILTER (isfinite(a.itm_score + b.itm_score)) AS correlation
FROM before b FULL JOIN after a USING (name, source, candidate) GROUP BY source ORDER BY source DESC
