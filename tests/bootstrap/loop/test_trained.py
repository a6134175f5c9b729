"""Files of a model that is trained, or half-trained, are damaged: told or passed, and no step is done again for it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.checkpoints import damage
from tests.support.forked import KILLED, Job, Outcome, Plan, run_forked
from tests.support.run_contents import contents
from tests.support.small_loop import write_inputs

HOWS = ("deleted", "emptied", "turned")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that came to its end, and `half`: one that died after the second of three steps of its last model."""
    folder = tmp_path_factory.mktemp("made")
    write_inputs(folder / "given")
    done = run_forked(Job(folder, records=True))
    assert done.code == 0
    written = [one for one in done.operations if one.kind == "replace" and "/pretrain/" in one.to]
    second = [one for one in written if one.to.endswith("checkpoint-00000002.pt")][-1]
    (folder / "half").mkdir()
    half = run_forked(Job(folder / "half", given=folder / "given", plan=Plan(second.number, "after")))
    assert half.code == KILLED
    return folder


def again(made: Path, half: bool, name: str, how: str, folder: Path, *settings: str) -> tuple[Outcome, Path]:
    """The same command, or one with other settings, after a file of the last model was damaged; and that file."""
    shutil.copytree(made / "half/disk" if half else made / "disk", folder / "disk", symlinks=True)
    models = (folder / "disk/run/artifacts/pretrain").iterdir()
    last = [one for one in models if half != (one / "MANIFEST.json").exists()]
    file = sorted(last, key=lambda one: one.stat().st_mtime)[-1] / name
    damage(file, how)
    return run_forked(Job(folder, settings, given=made / "given")), file


def steps(done: Outcome) -> list[str]:
    return [what for kind, what in done.paid if kind == "step"]


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "MANIFEST.json"])
def test_a_damaged_file_of_a_trained_model_is_told_and_nothing_trained(
    made: Path, tmp_path: Path, name: str, how: str
) -> None:
    done, file = again(made, False, name, how, tmp_path)
    assert steps(done) == []
    if how == "turned":
        return  # seen where a step reads it, and by `artifacts --verify`; of a MANIFEST the bit may lie in a figure
    for _ in range(2):  # a damaged MANIFEST is to be deleted first, and then it is one that lacks
        assert done.code == 1, done.said
        assert "\n" not in done.error
        told = Path(done.error.partition(": ")[0])
        assert told.parent.resolve() == file.parent
        if "delete its folder" in done.error:
            shutil.rmtree(file.parent)
        else:
            told.unlink()
        done = run_forked(Job(tmp_path, given=made / "given"))
        if done.code == 0:
            break
        assert steps(done) == []
    assert len(steps(done)) == 3
    assert contents(tmp_path / "disk/run") == contents(made / "disk/run")


@pytest.mark.parametrize("how", HOWS)
def test_a_damaged_log_of_a_trained_model_is_passed(made: Path, tmp_path: Path, how: str) -> None:
    done, _ = again(made, False, "metrics.jsonl", how, tmp_path)
    assert (done.code, done.error, done.made, done.paid) == (0, "", [], [])


@pytest.mark.parametrize("name", ["config.json", "MANIFEST.json"])
def test_a_finished_round_is_not_trained_by_todays_settings_for_a_damaged_file(
    made: Path, tmp_path: Path, name: str
) -> None:
    shutil.copytree(made / "disk", tmp_path / "disk", symlinks=True)
    file = (tmp_path / "disk/run/round-00/model").resolve() / name
    file.unlink()
    done = run_forked(Job(tmp_path, ("pretrain.optimizer.lr=0.5",), given=made / "given"))
    assert (done.code, steps(done)) == (1, [])
    assert str(file) in done.error


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize(
    ("name", "lost"),
    [("metrics.jsonl", 0), (".recipe.json", 0), (".checkpoints/checkpoint-00000001.pt", 0),
     (".checkpoints/checkpoint-00000002.pt", 1)],
)  # fmt: skip
def test_a_damaged_file_of_a_half_trained_model_costs_no_step_but_those_of_a_checkpoint(
    made: Path, tmp_path: Path, name: str, lost: int, how: str
) -> None:
    done, file = again(made, True, name, how, tmp_path)
    if name == ".recipe.json" and how != "deleted":
        assert done.code == 1
        assert (done.error.startswith(str(file)) and "delete it" in done.error) or how == "turned"
        file.unlink()
        done = run_forked(Job(tmp_path, given=made / "given"))
    assert done.code == 0, done.error
    if how != "turned":  # a bit of so small a file may lie between what counts
        assert len(steps(done)) == 1 + lost
    assert contents(tmp_path / "disk/run") == contents(made / "disk/run")
