-- What was set otherwise
-- Settings of the captions and pairs that differ; no lines: only inputs or models differ.
SELECT * FROM settings ORDER BY setting
