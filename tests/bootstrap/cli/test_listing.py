"""Commands are listed without their modules, which are imported when a command is asked for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from blip_bootstrap.cli.app import app
from blip_bootstrap.cli.listing import ListedCommands


def named(group: Any, *words: str) -> tuple[Any, Any]:
    """The command that the words name, as a call finds it, and its context."""
    context = typer.Context(group)
    for word in words:
        _, group, _ = group.resolve_command(context, [word])
        context = typer.Context(group, parent=context, info_name=word)
    return group, context


def groups() -> Iterator[tuple[Any, Any]]:
    top = typer.main.get_command(app)
    yield named(top)
    for name in top.list_commands(typer.Context(top)):  # type: ignore[attr-defined]
        found, context = named(top, name)
        if hasattr(found, "list_commands"):
            yield found, context


def test_the_list_says_of_each_command_what_its_own_help_begins_with() -> None:
    listing = [(group, context) for group, context in groups() if isinstance(group, ListedCommands) and group.listed]
    assert len(listing) == 2, "the top and `config`"
    for group, _ in listing:
        for name, listed in group.listed.items():
            own = named(group, name)[0].help.split("\n\n")[0]
            assert " ".join(own.split()) == listed.help, name


def test_commands_stand_in_their_order() -> None:
    top = typer.main.get_command(app).name
    names = {group.name: group.list_commands(context) for group, context in groups()}
    assert names.pop(top) == [
        "run",
        "demo",
        "status",
        "sql",
        "report",
        "why",
        "diff",
        "export",
        "plan",
        "conformance",
        "config",
        "audit",
        "artifacts",
        "gc",
        "forget",
        "evaluate",
        "experiment",
        "vqa",
    ]
    assert names == {
        "config": ["show", "check"],
        "audit": ["sample", "label", "estimate", "languages", "calibrate"],
        "vqa": ["train", "answer"],
    }


@pytest.mark.parametrize(
    ("words", "meant"), [("rum", "run"), ("audit sampel", "sample"), ("config chek", "check"), ("vqa trian", "train")]
)
def test_a_misspelt_command_is_answered_with_a_guess(words: str, meant: str) -> None:
    done = CliRunner().invoke(app, words.split(), env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert f"Did you mean '{meant}'?" in done.output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("nonsense", "No such command 'nonsense'; there are run, demo, status, sql, report, why, diff, export, plan,"),
        ("vqa nonsense", "No such command 'nonsense'; there are train, answer."),
        ("audit kept_by_source_x", "No such command 'kept_by_source_x'; there are sample, label, estimate, languages,"),
        ("run --round one", "Invalid value for '--round': a whole number was expected (got 'one')"),
        ("run --round -1", "Invalid value for '--round': must be at least 0 (got '-1')"),
        ("run --round 1 --remake x", "Invalid value for '--remake': a whole number was expected (got 'x')"),
        ("plan --images 9 --mfu 2", "Invalid value for '--mfu': must be at most 1.0 (got '2')"),
        ("plan --images 9 --limit-s -2", "Invalid value for '--limit-s': must be at least 0.0 (got '-2')"),
        ("audit sample --size 0", "Invalid value for '--size': must be at least 1 (got '0')"),
        ("vqa answer m q --mode x", "Invalid value for '--mode': 'x' is not one of 'generate', 'rank'."),
        ("run --ronud 1", "No such option: --ronud (Possible options: --root, --round)"),
    ],
)
def test_a_wrong_word_or_value_is_told_with_what_there_is(words: str, told: str) -> None:
    done = CliRunner().invoke(app, words.split(), env={"COLUMNS": "400"})
    assert done.exit_code == 2
    assert told in done.output
    assert "Value error" not in done.output


@pytest.mark.parametrize(
    ("words", "typed", "shown"),
    [
        ([], "r", ["run", "report"]),
        (["run"], "--r", ["--round", "--root", "--ray", "--remake", "--retry"]),
        (["audit"], "l", ["label", "languages"]),
        (["config"], "c", ["check"]),
        (["config", "check"], "--ro", ["--root", "--round"]),
        (["audit", "sample"], "--s", ["--size", "--seed", "--source"]),
    ],
)
def test_a_shell_is_told_how_to_go_on(words: list[str], typed: str, shown: list[str]) -> None:
    found, context = named(typer.main.get_command(app), *words)
    assert [one.value for one in found.shell_complete(context, typed)] == shown


def test_ctrl_c_while_a_command_is_imported_is_one_line() -> None:
    code = (
        "import sys; from blip_bootstrap import __main__ as console\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'blip_bootstrap.cli.run': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted()); sys.argv[1:] = ['run']; console.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted; nothing was begun\n")


def test_a_command_loads_no_other_ones_libraries() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from blip_bootstrap.cli.app import app\n"
        "assert CliRunner().invoke(app, ['config', 'show']).exit_code == 0\n"
        "print(sorted({'pyarrow', 'duckdb', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_why_loads_neither_pandas_nor_the_settings(finished_run: Path) -> None:
    """Both take longer than all that it does; pyarrow imports pandas for each array of Python's objects."""
    code = (
        "import sys; from typer.testing import CliRunner; from blip_bootstrap.cli.app import app\n"
        "done = CliRunner().invoke(app, ['why', '0000000010', '--root', sys.argv[1]])\n"
        "assert 'kept' in done.output, done.output\n"
        "print(sorted({'pandas', 'blip_bootstrap.config', 'blip_bootstrap.audit.alarms'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(finished_run)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
