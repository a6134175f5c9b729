"""`blip-bootstrap config`: the configuration shown, and checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import typer

from blip_bootstrap.cli.listing import Listed, ListedCommands
from blip_bootstrap.cli.options import ConfigFile, NewRoot, Settings, load
from blip_bootstrap.config import dump_yaml

commands = typer.Typer(rich_markup_mode="markdown")


class ConfigCommands(ListedCommands):
    """`show` and `check`; what checking needs takes longer to import than `show` takes."""

    listed: ClassVar[Mapping[str, Listed]] = {
        "check": Listed(
            "blip_bootstrap.cli.config_check",
            "Look for mistakes in a configuration and the models that it names; prints one line for each, or ok.",
        ),
    }


config_app = typer.Typer(cls=ConfigCommands, help="Show or check the configuration.", no_args_is_help=True)

commands.add_typer(config_app, name="config")


@config_app.command("show", epilog="Example: `blip-bootstrap config show --set seed=7 > my.yaml`")
def config_show(config: ConfigFile = None, root: NewRoot = None, settings: Settings = None) -> None:
    """Print the resolved configuration with every default, as YAML."""
    typer.echo(dump_yaml(load(config, root, settings)), nl=False)
