"""A read-only DuckDB connection to a run: its views, questions to it, and answers in any format."""
