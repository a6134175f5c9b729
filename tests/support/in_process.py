"""The command line in this process: what it prints and its exit code, without the seconds that imports take."""

from __future__ import annotations

import subprocess

from typer.testing import CliRunner

from blip_bootstrap.cli.app import app
from blip_bootstrap.errors import BlipBootstrapError


def blip_here(*arguments: object, columns: int = 160) -> subprocess.CompletedProcess[str]:
    """A command as its process would end: one of our errors is a line for each mistake, and its exit code."""
    words = [str(one) for one in arguments]
    done = CliRunner().invoke(app, words, env={"COLUMNS": str(columns)})
    code, told = done.exit_code, done.stderr
    if isinstance(done.exception, BlipBootstrapError):
        code = done.exception.exit_code
        told += "".join(f"error: {line}\n" for line in str(done.exception).splitlines())
    elif done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return subprocess.CompletedProcess(words, code, done.stdout, told)
