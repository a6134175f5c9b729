-- Settings that differ
-- Settings of captions and pairs; where a round has none of them, or another step made them, the steps alone. Without lines, only inputs or models differ.
SELECT * FROM settings ORDER BY setting
