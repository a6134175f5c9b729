"""One read-only DuckDB over a run: views, questions, and answers in any format."""
