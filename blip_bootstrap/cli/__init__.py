"""The command line: parse, and call.

A command imports what it needs when it is called, so that `--help` and mistakes in options are answered in a fifth of a
second, without pyarrow, duckdb, torch or Ray.
"""
