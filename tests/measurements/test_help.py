"""Every script of tests/bench starts: its imports are there, and it says how to use it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPTS = sorted((Path(__file__).parents[1] / "bench").glob("*.py"))
# All in one process, as torch takes seconds to import; each finds on sys.path only what a script of its own would.
HELP = """
import runpy, sys
found = list(sys.path)
for script in sys.argv[1:]:
    for name in [name for name in sys.modules if name.split(".")[0] == "tests"]:
        del sys.modules[name]
    sys.argv, sys.path[:] = [script, "--help"], [script.rpartition("/")[0], *found[1:]]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        assert not end.code, script
"""


def test_each_script_says_how_to_use_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HELP, *map(str, SCRIPTS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines() if line.startswith("usage: ")] == [
        script.name for script in SCRIPTS
    ]
