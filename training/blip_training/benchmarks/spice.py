"""SPICE, by its authors' program in Java, where the user has it."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from blip_bootstrap.errors import InputError, RunFailed

MEMORY = "-Xmx8G"


def find_java(jar: Path) -> str:
    """The program java. Raises InputError where it or the jar is missing."""
    java = shutil.which("java")
    if java is None:
        raise InputError("benchmark.spice_jar needs java, which is not on the PATH; install it, or leave SPICE out")
    if not jar.is_file():
        raise InputError(f"{jar}: no such file; spice-1.0.jar is at https://panderson.me/spice")
    return java


def spice(jar: Path, captions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> float:
    """SPICE (0..1): the mean over the captions of the F-score of their scene graphs, as COCO's evaluation has it.

    `jar` is spice-1.0.jar with its folder `lib` beside it, the models of Stanford CoreNLP 3.6.0 in that. Raises
    InputError as `find_java`, RunFailed where it fails.
    """
    java = find_java(jar)
    rows = [{"image_id": key, "test": text, "refs": list(references[key])} for key, text in captions.items()]
    with tempfile.TemporaryDirectory() as scratch:
        given, out = Path(scratch, "given.json"), Path(scratch, "out.json")
        given.write_text(json.dumps(rows), encoding="utf-8")
        command = [java, MEMORY, "-jar", str(jar.resolve()), str(given), "-out", str(out), "-subset", "-silent"]
        done = subprocess.run(command, cwd=jar.parent, capture_output=True, text=True, check=False)
        if done.returncode or not out.is_file():
            last = (done.stderr.strip().splitlines() or ["no word from it"])[-1]
            raise RunFailed(f"{jar}: SPICE failed ({last}); its folder lib needs stanford-corenlp-3.6.0 and its models")
        scores = [float(row["scores"]["All"]["f"]) for row in json.loads(out.read_text(encoding="utf-8"))]
    counted = [0.0 if math.isnan(score) else score for score in scores]
    return sum(counted) / len(counted)
