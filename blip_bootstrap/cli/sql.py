"""`blip-bootstrap sql`: questions about a run, in SQL."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from blip_bootstrap.cli.asked_run import Root, run_folder
from blip_bootstrap.cli.sql_prompt import prompt_sql, run_sql
from blip_bootstrap.paths import path_argument

commands = typer.Typer(rich_markup_mode="markdown")


class Format(StrEnum):
    """How `sql` prints its answer."""

    table = "table"
    csv = "csv"
    json = "json"
    markdown = "markdown"
    parquet = "parquet"


@commands.command(epilog='Example: `blip-bootstrap sql "SELECT source, reason, count(*) FROM pairs GROUP BY ALL"`')
def sql(
    query: Annotated[
        str | None,
        typer.Argument(help="A SELECT. Without it a prompt opens, or standard input is read."),
    ] = None,
    root: Root = None,
    output: Annotated[
        Format, typer.Option("--format", help="Form of the answer; a table shows the first 200 rows.")
    ] = Format.table,
    out: Annotated[
        Path | None,
        typer.Option("--out", parser=path_argument, metavar="PATH", help="Write here instead of standard output."),
    ] = None,
) -> None:
    """Ask DuckDB about the views of a run, as `images`, `captions` and `pairs`; nothing can be changed."""
    if query is None:
        prompt_sql(run_folder(root, of_experiments=True), output.value, out)
    else:
        run_sql(run_folder(root, of_experiments=True), query, output.value, out)
