"""Every block of README, CONTRIBUTING and docs/ is run, or checked as far as it can be, or says why it is not.

Commands that ask about a run are run, on a small finished one in the place of `runs/demo`. Of those that would take
minutes the arguments are parsed and the configuration is loaded. A block that can be neither stands after a comment
`<!-- not run: why -->`; its commands must still exist.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from blip_bootstrap.cli.app import app
from blip_bootstrap.config import load_config
from blip_bootstrap.experiment.file import read_experiment, shipped

REPO = Path(__file__).parents[2]
PAGES = [REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted((REPO / "docs").rglob("*.md"))]
ASKING = {"audit", "status", "sql", "why", "diff", "report", "show"}
"""Commands that answer at once. `show` is `config show`."""
LANGUAGES = {"bash", "yaml", "json", "python", "tsv", "text"}

_BLOCK = re.compile(r"(?:<!-- not run: (?P<why>[^>]+) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """A fenced block: where it stands, its language, its text, and why it is not run, if it is not."""

    where: str
    language: str
    text: str
    why_not: str | None

    @property
    def file(self) -> str | None:
        """The name in a first line `# name.yaml`: other blocks of the page use the file."""
        found = re.match(r"# ([\w.-]+\.(?:yaml|tsv))\n", self.text)
        return found[1] if found else None

    @property
    def commands(self) -> Iterator[list[str]]:
        """The command lines as lists of words, without comments and what they are piped to."""
        for line in self.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            ends = [at for at, word in enumerate(words) if word in ("|", ">", "&&")]
            if words := words[: ends[0]] if ends else words:
                yield words


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    name = str(page.relative_to(REPO))
    return [
        Block(f"{name}:{text.count(chr(10), 0, m.start('language')) + 1}", m["language"], m["text"], m["why"])
        for m in _BLOCK.finditer(text)
    ]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def some(*languages: str) -> list[Any]:
    return [pytest.param(block, id=block.where) for block in BLOCKS if block.language in languages]


@pytest.fixture(scope="module")
def workplace(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the pages' readers have it: the configurations, a finished run, and the files that blocks show."""
    folder = tmp_path_factory.mktemp("workplace")
    shutil.copytree(finished_run, folder / "runs" / "demo")
    shutil.copytree(REPO / "configs", folder / "configs")
    for block in BLOCKS:
        if block.file:
            text = block.text if block.language == "yaml" else block.text.partition("\n")[2]
            (folder / block.file).write_text(text, encoding="utf-8")
    return folder


def test_every_page_is_looked_at() -> None:
    assert {"README.md", "docs/guide.md", "docs/ask-the-data.md", "docs/training.md"} <= {
        block.where.partition(":")[0] for block in BLOCKS
    }
    fences = sum(page.read_text(encoding="utf-8").count("\n```") for page in PAGES)
    assert fences == 2 * len(BLOCKS), "a block was not understood"
    assert {block.language for block in BLOCKS} <= LANGUAGES


def test_the_readme_is_short_and_asks_everything() -> None:
    assert len((REPO / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
    asked = {words[1] for block in blocks_of(REPO / "README.md") for words in block.commands if len(words) > 1}
    assert {"audit", "sql", "why", "diff", "report", "run", "config"} <= asked


@pytest.mark.parametrize("block", some("bash"))
def test_commands(block: Block, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    commands = list(block.commands)
    assert commands
    for words in commands:
        program = Path(words[0]).name
        if program == "make":
            assert re.search(rf"^{words[1]}:", (REPO / "Makefile").read_text(encoding="utf-8"), re.M)
        elif program == "blip-bootstrap":
            check(words[1:], run=block.why_not is None)
        elif program == "python" and not words[1].startswith("-"):
            assert (REPO / words[1]).is_file(), words[1]
            assert block.why_not or words[1] == "docs/generate.py"
        elif program == "pip":
            check_installs(words)
        else:
            assert block.why_not or words[:3] == ["python3", "-m", "venv"], f"{words}: nobody checks this"


@pytest.mark.parametrize("words", ["run --roud 1", "audit --name", "audit nothing", "sql SELECT 1 --format xml", "rum"])
def test_a_wrong_command_would_be_found(words: str) -> None:
    with pytest.raises(Exception, match=r"No such|requires an argument|is not one of|Missing"):
        check(words.split(), run=False)


def check(arguments: list[str], run: bool) -> None:
    """Parse a command; where it asks, and is not marked, run it."""
    names, options = parse(arguments)
    config = options.get("config")
    if config or options.get("settings"):
        load_config(config, options.get("settings") or [])
    if run and (names[-1] in ASKING or names[:2] == ["audit", "sample"] or names[:2] == ["audit", "languages"]):
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, f"{arguments}: {done.output} {done.exception}"
        assert done.output.strip() or "--out" in arguments


def parse(arguments: list[str]) -> tuple[list[str], dict[str, Any]]:
    """The commands in a line and the last one's options, as the command line reads them."""
    command: Any = typer.main.get_command(app)
    context, rest, names = None, list(arguments), list[str]()
    while True:
        context = command.make_context(names[-1] if names else "blip-bootstrap", rest, parent=context)
        rest = [*context._protected_args, *context.args]
        if not rest or not hasattr(command, "resolve_command"):
            assert not rest, f"{arguments}: {rest} is left over"
            return names, context.params
        name, command, rest = command.resolve_command(context, rest)
        names.append(name)


def check_installs(words: list[str]) -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for word in words:
        for extra in re.findall(r"\[(.*?)\]", word):
            assert set(extra.split(",")) <= set(project["optional-dependencies"])
        assert not word.endswith(".txt") or (REPO / word).is_file()


@pytest.mark.parametrize("block", some("yaml"))
def test_configurations_load(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "block.yaml"
    path.write_text(block.text, encoding="utf-8")
    assert yaml.safe_load(block.text)
    if block.why_not:  # as of another program's file, or a part of one
        return
    if block.text.startswith("name:"):
        read_experiment(str(path))
    else:
        load_config(path)


@pytest.mark.parametrize("block", some("json"))
def test_json_lines_are_json(block: Block) -> None:
    for line in block.text.splitlines():
        assert isinstance(json.loads(line), dict)


@pytest.mark.parametrize("block", some("python"))
def test_python_runs(block: Block, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    exec(compile(block.text, block.where, "exec"), {"__name__": block.where})


@pytest.mark.parametrize("block", some("tsv"))
def test_lists_can_be_read(block: Block) -> None:
    name, *rows = block.text.splitlines()
    assert name.startswith("# ")
    assert len({row.count("\t") for row in rows}) == 1


def test_the_table_of_shipped_experiments_has_each_with_its_arms_and_seeds() -> None:
    page = (REPO / "docs/experiments.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[^|]+`) \|[^|]+\| ([\dx, ]+) \|$", page, re.MULTILINE)
    each = (zip(re.findall(r"`(\w+)`", names), sizes.split(", "), strict=True) for names, sizes in rows)
    told = [pair for row in each for pair in row]
    found = {name: read_experiment(name) for name in shipped()}
    assert dict(told) == {name: f"{len(one.arms)} x {len(one.seeds)}" for name, one in found.items()}
