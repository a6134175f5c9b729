"""The command line: parse, and call."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from blip_bootstrap import __version__
from blip_bootstrap.cli.artifacts import artifacts
from blip_bootstrap.cli.audit import mount_audit
from blip_bootstrap.cli.gc import gc
from blip_bootstrap.cli.options import (
    GOES_ON,
    ConfigFile,
    LastRound,
    NewRoot,
    RayAddress,
    Remake,
    Root,
    RoundNumber,
    Settings,
    load,
    run_folder,
    say,
)
from blip_bootstrap.cli.plan import mount_plan
from blip_bootstrap.cli.vqa import mount_vqa
from blip_bootstrap.ending import ended_early
from blip_bootstrap.errors import ConfigError, NothingLeft
from blip_bootstrap.paths import path_argument

app = typer.Typer(
    help="CapFilt, closed: download, caption, filter and audit noisy web image-text pairs, and train on what is left.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

config_app = typer.Typer(help="Show or check the configuration.", no_args_is_help=True)

app.add_typer(config_app, name="config")


class Format(StrEnum):
    """How `sql` prints its answer."""

    table = "table"
    csv = "csv"
    json = "json"
    markdown = "markdown"
    parquet = "parquet"


def _version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command(epilog="Example: `blip-bootstrap run --round 2 --config configs/flickr8k.yaml --ray auto`")
def run(
    number: LastRound,
    config: ConfigFile = None,
    root: NewRoot = None,
    settings: Settings = None,
    ray: RayAddress = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Use only so many first rows of each URL list.")
    ] = None,
    remake: Remake = None,
) -> None:
    """Run CapFilt up to a round; makes only what is missing or out of date."""
    from blip_bootstrap.loop.rounds import run_rounds
    from blip_bootstrap.report.summary import print_summary

    with ended_early(GOES_ON):
        loaded = load(config, root, settings, ray, limit)
        try:
            report = run_rounds(loaded, number, say, remake or ())
        except NothingLeft:
            print_summary(loaded.root)
            raise
    print_summary(loaded.root)
    typer.echo(f"report: {report}")


@app.command(epilog="Example: `blip-bootstrap demo --set select.itm_threshold=0.6`")
def demo(
    root: Annotated[
        Path, typer.Option("--root", parser=path_argument, metavar="PATH", help="Folder of the demo's run.")
    ] = Path("runs/demo"),
    number: LastRound = 1,
    settings: Settings = None,
    ray: RayAddress = None,
) -> None:
    """Run two CapFilt rounds on a drawn world, with a web server that also fails; takes minutes and needs no data."""
    from blip_bootstrap.demo.run import run_demo
    from blip_bootstrap.report.summary import print_summary

    with ended_early(GOES_ON):
        report = run_demo(root, number, settings or [], ray, say)
    print_summary(root)
    typer.echo(f"report: {report}")


@app.command(epilog='Example: `blip-bootstrap sql "SELECT source, reason, count(*) FROM pairs GROUP BY ALL"`')
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
    from blip_bootstrap.cli.sql_prompt import prompt_sql, run_sql

    if query is None:
        prompt_sql(run_folder(root), output.value, out)
    else:
        run_sql(run_folder(root), query, output.value, out)


@app.command(epilog="Example: `blip-bootstrap report --round 1 --root runs/demo`")
def report(root: Root = None, number: RoundNumber = None) -> None:
    """Write the page of a round again; without --round the last one's, and that over all rounds. Prints their paths."""
    from blip_bootstrap.audit.open_run import OpenRun
    from blip_bootstrap.report.overview_page import write_overview
    from blip_bootstrap.report.round_page import write_report

    folder = run_folder(root)
    with OpenRun(folder) as run:
        typer.echo(str(write_report(folder, number, run=run, always=True)))
        if number is None:
            typer.echo(str(write_overview(folder, run, always=True)))


@config_app.command("show", epilog="Example: `blip-bootstrap config show --set seed=7 > my.yaml`")
def config_show(config: ConfigFile = None, root: NewRoot = None, settings: Settings = None) -> None:
    """Print the resolved configuration with every default, as YAML."""
    from blip_bootstrap.config import dump_yaml

    typer.echo(dump_yaml(load(config, root, settings)), nl=False)


@config_app.command("check", epilog="Example: `blip-bootstrap config check --config my.yaml --round 1`")
def config_check(
    config: ConfigFile = None,
    root: NewRoot = None,
    settings: Settings = None,
    number: Annotated[int, typer.Option("--round", min=0, help="The round that is to be run.")] = 1,
) -> None:
    """Look for mistakes in a configuration and the models that it names; prints one line for each, or ok."""
    from blip_bootstrap.loop.check import check_config
    from blip_bootstrap.loop.given import look_into_given

    loaded = load(config, root, settings)
    mistakes = check_config(loaded, number) + look_into_given(loaded, number, say)
    if mistakes:
        raise ConfigError(mistakes)
    typer.echo("ok")


mount_audit(app)

mount_plan(app)

mount_vqa(app)

app.command(epilog="Example: `blip-bootstrap artifacts --root runs/demo`")(artifacts)

app.command(epilog="Example: `blip-bootstrap gc --root runs/demo`")(gc)
