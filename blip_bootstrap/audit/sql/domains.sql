-- Registered domains by the bytes fetched from them
-- The first 30; `FROM domains` has all. `size_bytes`: of the pictures as they were fetched, null in runs of earlier versions; `in_top_tenth`: among the tenth of all domains with the most bytes. Domains are those of the Public Suffix List; an address without one counts by its host.
SELECT * REPLACE (coalesce(domain, '(no URL)') AS domain) FROM domains ORDER BY place LIMIT 30
