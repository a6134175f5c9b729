"""Another process that works on a run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked_elsewhere(root: Path) -> Iterator[None]:
    """While the body runs, another process holds the lock of the run."""
    code = (
        "import sys; from pathlib import Path; from blip_bootstrap.storage.lock import locked\n"
        f"with locked(Path({str(root)!r})): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout
        assert other.stdout.readline() == b"held\n"
        yield
        other.communicate()
