-- Pictures that are there several times
-- `not_trained_on`: pictures in whose place the first of their group is trained on, the same by bytes or URL and text, or looking alike (bits of 256 in which their hashes differ); `largest` is a group's most such pictures, and `example` its first.
WITH found AS (
    SELECT if(duplicate_of = exact_group, 'the same', 'look alike') AS kind, duplicate_of, near_distance
    FROM picture_groups WHERE duplicate_of IS NOT NULL
), groups AS (
    SELECT kind, duplicate_of, count(*) AS pictures, avg(near_distance) AS bits, max(near_distance) AS most_bits
    FROM found GROUP BY kind, duplicate_of
)
SELECT kind, count(*) AS groups, sum(pictures)::BIGINT AS not_trained_on, max(pictures) AS largest,
    arg_max(duplicate_of, (pictures, -duplicate_of::BIGINT)) AS example,
    CASE WHEN kind = 'look alike' THEN sum(bits * pictures) / sum(pictures) END AS mean_bits,
    CASE WHEN kind = 'look alike' THEN max(most_bits) END AS most_bits
FROM groups GROUP BY kind ORDER BY kind DESC
