"""The command line: parse, and call.

`app` lists the commands; the module of a command is imported when the command is asked for (`listing`), so that the
list itself and a misspelt command are answered in a fifth of a second, without pydantic, pyarrow, duckdb, torch or Ray.
"""
