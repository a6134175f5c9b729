"""Commands that are known by name and help until one is asked for, and only then imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
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
    """A group of commands; those that a subclass names in `listed` are imported when they are called or asked for help.

    `--help` shows them in that order. A word that is no command, or a value that an option does not take, is told with
    what there is.
    """

    listed: ClassVar[Mapping[str, Listed]] = {}

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, one in self.listed.items():
            self.add_command(TyperCommand(name, help=one.help))

    def invoke(self, ctx: Any) -> Any:
        """Run the command; a value that an option does not take is told with the value."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = _with_the_value(error)
            raise

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The command that `args` begin with, imported, and the arguments after its name."""
        if args[0] not in self.commands and args[0][:1] != "-" and not get_close_matches(args[0], self.commands):
            ctx.fail(f"No such command {args[0]!r}; there are {', '.join(self.commands)}.")  # typer names close ones
        name, command, rest = super().resolve_command(ctx, args)
        if name and (listed := self.listed.get(name)):
            with ended_early("nothing was begun"):
                command = self.commands[name] = _imported(name, listed.module)
        return name, command, rest


def _with_the_value(error: typer.BadParameter) -> str:
    """The message of an error about a value: as of a setting of the configuration where pydantic found it."""
    from pydantic import ValidationError  # start-up: a tenth of a second, for errors alone

    from blip_bootstrap.settings.mistakes import in_words  # start-up: so

    if not isinstance(error.__cause__, ValidationError):
        return error.message
    item = error.__cause__.errors()[0]
    told = in_words({**item, "loc": ()})
    got = f" (got {item['input']!r})"
    return told.removesuffix(got) if told.startswith(repr(item["input"])) else told


def _imported(name: str, module: str) -> Any:
    """The command as Typer makes it of the function in its module."""
    return typer.main.get_group(import_module(module).commands).commands[name]
