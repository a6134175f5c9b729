"""Files of a model that is trained, or half-trained, are damaged: told, or passed, and no step is done again for it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.checkpoints import damage
from tests.support.forked import KILLED, Job, Outcome, Plan, run_forked
from tests.support.small_loop import write_inputs

HOWS = ("deleted", "emptied", "turned")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that came to its end, and `half`: one that died after the second of three steps of its model."""
    folder = tmp_path_factory.mktemp("made")
    write_inputs(folder / "given")
    done = run_forked(Job(folder, records=True))
    assert done.code == 0
    second = [
        one for one in done.operations if one.kind == "replace" and "0002.pt" in one.to and "/pretrain/" in one.to
    ]
    (folder / "half").mkdir()
    half = run_forked(Job(folder / "half", given=folder / "given", plan=Plan(second[0].number, "after")))
    assert half.code == KILLED
    return folder


def after_damage(made: Path, half: bool, name: str, how: str, folder: Path, setting: str = "") -> Outcome:
    """The same command, or one with another setting, after a file of the last model was damaged."""
    shutil.copytree(made / "half/disk" if half else made / "disk", folder / "disk", symlinks=True)
    models = sorted((folder / "disk/run/artifacts/pretrain").iterdir())
    (file,) = (
        one / name for one in models if (one / name).exists() and (not half or not (one / "MANIFEST.json").exists())
    )
    damage(file, how)
    return run_forked(Job(folder, (setting,) if setting else (), given=made / "given"))


def steps(done: Outcome, step: str) -> int:
    return sum(kind == "step" and step in what for kind, what in done.paid)
