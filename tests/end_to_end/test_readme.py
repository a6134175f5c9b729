from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Run, blip

README = Path(__file__).parents[2] / "README.md"
ASKING = ("audit", "sql", "why", "diff", "report")

pytestmark = pytest.mark.ray


def asking_commands() -> list[str]:
    """The README's commands that ask about a finished run."""
    lines = [line.split("  #")[0].strip() for line in README.read_text().splitlines()]
    return [line for line in lines if line.startswith("blip-bootstrap ") and line.split()[1] in ASKING]


def test_the_readme_has_such_commands() -> None:
    assert {line.split()[1] for line in asking_commands()} == set(ASKING)


@pytest.mark.parametrize("line", asking_commands())
def test_every_question_of_the_readme_is_answered(small_run: Run, line: str) -> None:
    arguments = [word if word != "runs/demo" else str(small_run.root) for word in shlex.split(line)[1:]]
    done = blip(*arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
