"""The command line: parse, and call."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from blip_bootstrap import __version__
from blip_bootstrap.cli.audit import Root as RunRoot
from blip_bootstrap.cli.audit import RoundNumber, mount, run_folder
from blip_bootstrap.cli.plan import mount_plan
from blip_bootstrap.cli.vqa import mount_vqa
from blip_bootstrap.ending import ended_early
from blip_bootstrap.errors import ConfigError, NothingLeft
from blip_bootstrap.paths import path_argument

app = typer.Typer(
    help="CapFilt, closed: download, caption, filter, audit and re-train on noisy web image-text pairs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

config_app = typer.Typer(help="Show or check the configuration.", no_args_is_help=True)

app.add_typer(config_app, name="config")

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", "-c", parser=path_argument, metavar="PATH", help="YAML file; see `config show`."),
]

Settings = Annotated[list[str] | None, typer.Option("--set", help="One setting, as `select.itm_threshold=0.6`.")]

Root = Annotated[
    Path | None,
    typer.Option(
        "--root", parser=path_argument, metavar="PATH", help="Where the run lies. Default: the config's, runs/default."
    ),
]

RayAddress = Annotated[str | None, typer.Option("--ray", help="local, auto, the address of a cluster, or none.")]

Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Use only the first rows of each URL list.")]

GOES_ON = "the same command goes on from here"


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
    number: Annotated[int, typer.Option("--round", min=0, help="The last round to make; missing ones come first.")],
    config: ConfigFile = None,
    root: Root = None,
    settings: Settings = None,
    ray: RayAddress = None,
    limit: Limit = None,
) -> None:
    """Run CapFilt up to a round, making only what is missing or out of date."""
    from blip_bootstrap.loop.rounds import run_rounds
    from blip_bootstrap.report.summary import print_summary

    with ended_early(GOES_ON):
        loaded = _load(config, root, settings, ray, limit)
        try:
            report = run_rounds(loaded, number, _say)
        except NothingLeft:
            print_summary(loaded.root)
            raise
    print_summary(loaded.root)
    typer.echo(f"report: {report}")


@app.command(epilog="Example: `blip-bootstrap demo --set select.itm_threshold=0.6`")
def demo(
    root: Annotated[
        Path, typer.Option("--root", parser=path_argument, metavar="PATH", help="Where the demo's run lies.")
    ] = Path("runs/demo"),
    number: Annotated[int, typer.Option("--round", min=0, help="The last round to make.")] = 1,
    settings: Settings = None,
    ray: RayAddress = None,
) -> None:
    """Two CapFilt rounds on the built-in world: a drawn web with a noisy server, in minutes."""
    from blip_bootstrap.demo.run import run_demo
    from blip_bootstrap.report.summary import print_summary

    with ended_early(GOES_ON):
        report = run_demo(root, number, settings or [], ray, _say)
    print_summary(root)
    typer.echo(f"report: {report}")


@app.command(epilog='Example: `blip-bootstrap sql "SELECT source, reason, count(*) FROM pairs GROUP BY ALL"`')
def sql(
    query: Annotated[
        str | None,
        typer.Argument(help="One SELECT; without it, a prompt, or what comes in by a pipe."),
    ] = None,
    root: RunRoot = None,
    output: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.table,
    out: Annotated[
        Path | None,
        typer.Option("--out", parser=path_argument, metavar="PATH", help="Write here instead of standard output."),
    ] = None,
) -> None:
    """Ask DuckDB about `images`, `captions`, `pairs`, `rounds` and `runs`; read-only."""
    from blip_bootstrap.cli.sql_prompt import prompt_sql, run_sql

    if query is None:
        prompt_sql(run_folder(root), output.value, out)
    else:
        run_sql(run_folder(root), query, output.value, out)


@app.command(epilog="Example: `blip-bootstrap report --round 1 --root runs/demo`")
def report(root: RunRoot = None, number: RoundNumber = None) -> None:
    """Write a round's page again; without --round the last one's, and the page over all rounds. Prints the paths."""
    from blip_bootstrap.audit.open_run import OpenRun
    from blip_bootstrap.report.overview_page import write_overview
    from blip_bootstrap.report.round_page import rewrite_report

    folder = run_folder(root)
    with OpenRun(folder) as run:
        typer.echo(str(rewrite_report(folder, number, run)))
        if number is None:
            typer.echo(str(write_overview(folder, run)))


@config_app.command("show", epilog="Example: `blip-bootstrap config show --set seed=7 > my.yaml`")
def config_show(config: ConfigFile = None, root: Root = None, settings: Settings = None) -> None:
    """Print the resolved configuration with every default, as YAML."""
    from blip_bootstrap.config import dump_yaml

    typer.echo(dump_yaml(_load(config, root, settings)), nl=False)


@config_app.command("check", epilog="Example: `blip-bootstrap config check --config my.yaml --round 1`")
def config_check(
    config: ConfigFile = None,
    root: Root = None,
    settings: Settings = None,
    number: Annotated[int, typer.Option("--round", min=0, help="The round that it should carry.")] = 1,
) -> None:
    """List every mistake of a configuration and of the models that it names, one line each."""
    from blip_bootstrap.loop.check import check_config
    from blip_bootstrap.loop.given import look_into_given

    loaded = _load(config, root, settings)
    mistakes = check_config(loaded, number) + look_into_given(loaded, number, _say)
    if mistakes:
        raise ConfigError(mistakes)
    typer.echo("ok")


mount(app)

mount_plan(app)

mount_vqa(app)


def _load(
    path: Path | None, root: Path | None, settings: list[str] | None, ray: str | None = None, limit: int | None = None
) -> Any:
    """The configuration from the command's options."""
    from blip_bootstrap.config import load_config

    return load_config(path, settings or [], root=root, ray__address=ray, download__limit=limit)


def _say(line: str) -> None:
    """One line of progress, on standard error."""
    typer.echo(line, err=True)
