-- Settings that differ
-- Settings of captions and pairs. Without lines, only inputs or models differ.
SELECT * FROM settings ORDER BY setting
