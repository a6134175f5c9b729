"""Commands that are known by name and help until one is asked for, and only then imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup

from blip_bootstrap.ending import ended_early


@dataclass(frozen=True)
class Listed:
    """A command as the list of commands shows it, and the module whose Typer `commands` has it."""

    module: str
    help: str


class ListedCommands(TyperGroup):
    """A group of commands, each of which is imported when it is called, or asked for its own help or completion.

    A subclass names them in `listed`, in the order in which `--help` shows them.
    """

    listed: ClassVar[Mapping[str, Listed]] = {}

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, one in self.listed.items():
            self.add_command(TyperCommand(name, help=one.help))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The command that `args` begin with, imported, and the arguments after its name."""
        name, command, rest = super().resolve_command(ctx, args)
        if name and (listed := self.listed.get(name)):
            with ended_early("nothing was begun"):
                command = self.commands[name] = _imported(name, listed.module)
        return name, command, rest


def _imported(name: str, module: str) -> Any:
    """The command as Typer makes it of the function in its module."""
    return typer.main.get_group(import_module(module).commands).commands[name]
