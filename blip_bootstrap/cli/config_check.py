"""`blip-bootstrap config check`: a configuration and the models that it names, looked at before a run."""

from __future__ import annotations

from typing import Annotated

import typer

from blip_bootstrap.cli.options import ConfigFile, NewRoot, Settings, load, say
from blip_bootstrap.errors import ConfigError
from blip_bootstrap.loop.check import check_config, notes_on
from blip_bootstrap.loop.given import look_into_given

commands = typer.Typer(rich_markup_mode="markdown")


@commands.command("check", epilog="Example: `blip-bootstrap config check --config my.yaml --round 1`")
def check(
    config: ConfigFile = None,
    root: NewRoot = None,
    settings: Settings = None,
    number: Annotated[int, typer.Option("--round", min=0, help="The round that is to be run.")] = 1,
) -> None:
    """Look for mistakes in a configuration and the models that it names; prints one line for each, or ok."""
    loaded = load(config, root, settings)
    for line in notes_on(loaded, number):
        say(f"note: {line}")
    mistakes = check_config(loaded, number) + look_into_given(loaded, number, say)
    if mistakes:
        raise ConfigError(mistakes)
    typer.echo("ok")
