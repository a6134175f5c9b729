-- What was set otherwise
-- Settings of the captions and pairs that differ; nothing here: only inputs or models differ.
SELECT * FROM settings ORDER BY setting
