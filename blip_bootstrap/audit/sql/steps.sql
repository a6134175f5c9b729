-- What was made, when, and how long it took
-- One line for each MANIFEST; `digest` is that of the recipe: the step's name, its settings and its inputs.
SELECT name, step, replace(made[:16], 'T', ' ') AS made, seconds, num_rows, size_bytes, digest[:12] AS digest FROM runs ORDER BY made, name
