from __future__ import annotations

import os
import subprocess
import sys
from contextlib import chdir
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.support.in_process import blip_here

COMMANDS = (
    "run", "demo", "audit", "audit sample", "audit label", "audit estimate", "sql", "report", "why", "diff",
    "config show", "config check",
)  # fmt: skip


def blip(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "blip_bootstrap", *arguments],
        capture_output=True, text=True, cwd=cwd, check=False, env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_an_example(command: str) -> None:
    done = blip_here(*command.split(), "--help", columns=200)
    assert done.returncode == 0
    assert f"Example: blip-bootstrap {command}" in " ".join(done.stdout.split())


def test_the_version_is_the_installed_one() -> None:
    assert blip("--version").stdout.strip() == version("blip-bootstrap")


def test_help_loads_no_large_library() -> None:
    """Not pydantic either, nor numpy: together they would take as long as all the rest."""
    code = (
        "import sys, blip_bootstrap.__main__\n"
        "from blip_bootstrap.cli.app import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "large = {'torch', 'ray', 'transformers', 'pyarrow', 'duckdb', 'numpy', 'pydantic'}\n"
        "print(sorted(large & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_no_module_loads_torch_or_ray_at_its_top() -> None:
    """One process imports them all, one after the other: the one after which torch is there is the culprit."""
    code = (
        "import importlib, pkgutil, sys, blip_bootstrap\n"
        "names = [one.name for one in pkgutil.walk_packages(blip_bootstrap.__path__, 'blip_bootstrap.')]\n"
        "for name in names:\n"
        "    importlib.import_module(name)\n"
        "    if found := {'torch', 'ray'} & set(sys.modules):\n"
        "        sys.exit(f'{name} loads {sorted(found)}')\n"
        "print(len(names))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 80


def test_ctrl_c_before_a_command_has_begun_is_no_failure() -> None:
    code = (
        "import sys; from blip_bootstrap import __main__ as console\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'blip_bootstrap.cli': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted()); console.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


FAILURES = {
    "python": "raise OSError(28, 'No space left on device', 'x.parquet')",
    "in words": "raise ValueError('I/O error: No space left on device (os error 28)')",
    "quota": "raise OSError(122, 'Disk quota exceeded')",
    "cause": "raise RuntimeError('unexpected position') from OSError(28, 'full')",
    "other": "raise OSError(5, 'Input/output error')",
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_full_disk_is_one_line(failure: str) -> None:
    code = (
        "import sys; from blip_bootstrap import __main__ as console\n"
        "class Full:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'blip_bootstrap.cli':\n"
        f"            {FAILURES[failure]}\n"
        "sys.meta_path.insert(0, Full()); console.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback" if failure == "other" else "error: no space left on a disk")
    assert (len(done.stderr.splitlines()) == 1) == (failure != "other")


def test_what_waits_for_the_end_of_the_process_runs() -> None:
    code = (
        "import atexit; from blip_bootstrap import __main__ as console\n"
        "atexit.register(print, 'registered first, called last')\n"
        "print('said', end=''); console._end(3)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "saidregistered first, called last\n")


def test_a_reader_that_goes_away_is_not_complained_of(tmp_path: Path) -> None:
    command = f"{sys.executable} -m blip_bootstrap config show | true"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, ""), "as click ends a command whose output nobody reads"


def test_a_wrong_config_is_exit_2_with_a_line_for_each_mistake() -> None:
    done = blip("config", "check", "--set", "selct.x=1", "--set", "caption.candidates=0")
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("error: ") for line in lines)


def test_a_missing_config_file_is_exit_2(tmp_path: Path) -> None:
    done = blip("run", "--round", "1", "--config", "no.yaml", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "error: no.yaml: cannot be read (No such file or directory)\n")


def test_config_show_is_a_config_that_checks(tmp_path: Path) -> None:
    (tmp_path / "urls.tsv").write_text("url\tcaption\n")
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    here = ["--set", "download.urls=[{path: urls.tsv}]", "--set", "pretrain.model.text.tokenizer=vocab.txt"]
    with chdir(tmp_path):
        shown = blip_here("config", "show", *here)
        (tmp_path / "c.yaml").write_text(shown.stdout)
        done = blip_here("config", "check", "--config", "c.yaml", "--round", "0")
    assert (done.returncode, done.stdout) == (0, "ok\n")
