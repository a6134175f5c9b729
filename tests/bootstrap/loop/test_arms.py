"""Control arms are trained once: whoever has the same arm of the same pairs takes it as it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blip_bootstrap.errors import RunFailed
from blip_bootstrap.loop import rounds
from blip_bootstrap.loop.arms import seconds_of_arm
from blip_bootstrap.storage import parts
from blip_bootstrap.storage.files import write_whole
from blip_bootstrap.storage.parts import borrowed_from
from blip_bootstrap.storage.run_folder import with_checksum
from blip_pipelines.train import steps
from tests.support.small_world_runs import SmallRuns, manifest_of

ALL = "controls.arms=[human_only,filter_only,captioner_only,oracle]"


class ControlRuns(SmallRuns):
    """Small runs whose controls are those of the loop; a training writes a model and its figures, and is `paid`."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        super().__init__(folder, patch)
        lines = [f"{row}.jpg\ttrue\n" for row in range(12)]
        (self.given / "truth.tsv").write_text("".join(["image\tkind\n", *lines]))
        self.die_at = ""
        patch.setattr(rounds, "train_controls", steps.train_controls)
        patch.setattr(steps, "call_arm", self._train)

    def _train(self, out: Path, *_: object) -> dict[str, float]:
        if not (out / "metrics.json").exists():
            if out.name == self.die_at:
                raise RunFailed("killed")
            if not (out / "model/counts.json").exists():
                self.paid.append(("arm", out.name))
                (out / "model").mkdir(parents=True, exist_ok=True)
                write_whole(out / "model/model.safetensors", out.name)
                write_whole(out / "model/counts.json", "{}")
            write_whole(out / "metrics.json", json.dumps({"cider": 0.5}))
        return {"cider": 0.5}

    def arms(self, root: Path, *settings: str, last: int = 1) -> list[str]:
        """Run; which arms were trained, sorted."""
        self.run(root, last, f"truth={self.given / 'truth.tsv'}", ALL, *settings)
        return sorted(what for kind, what in self.paid if kind == "arm")


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ControlRuns:
    return ControlRuns(tmp_path, monkeypatch)


def test_another_list_of_arms_trains_those_that_are_new(runs: ControlRuns, tmp_path: Path) -> None:
    root = tmp_path / "run"
    assert runs.arms(root, "controls.arms=[human_only,oracle]") == ["human_only", "oracle"]
    assert runs.arms(root) == ["captioner_only", "filter_only"]
    assert runs.arms(root, "controls.arms=[oracle,filter_only]") == []
    for arm in ("oracle", "filter_only"):
        assert (root / f"round-01/controls/{arm}/model/model.safetensors").read_text() == arm
    files = {one["name"]: one.get("at", "") for one in manifest_of(root, "round-01/controls")["files"]}
    assert files["oracle/model/model.safetensors"].startswith("artifacts/train_controls/")
    assert not any(name.startswith("human_only") for name in files)


def test_another_rule_trains_the_arms_whose_pairs_it_changes(runs: ControlRuns, tmp_path: Path) -> None:
    assert len(runs.arms(tmp_path / "run")) == 4
    assert runs.arms(tmp_path / "run", "select.itm_threshold=0.84") == ["filter_only"]
    assert runs.arms(tmp_path / "run", "select.itm_threshold=0.7") == []  # other synthetic texts, the same of the web
    assert runs.arms(tmp_path / "run", "select.sources=[synthetic]") == []  # filter_only has the web texts that pass


def test_other_captions_train_the_arms_that_have_some(runs: ControlRuns, tmp_path: Path) -> None:
    runs.arms(tmp_path / "run")
    assert runs.arms(tmp_path / "run", "caption.seed=5") == ["captioner_only", "oracle"]


@pytest.mark.parametrize("setting", ["pretrain.optimizer.lr=1e-3", "pretrain.optimizer.seed=4", "evaluate.limit=2"])
def test_another_training_or_measuring_is_of_all_arms(runs: ControlRuns, tmp_path: Path, setting: str) -> None:
    runs.arms(tmp_path / "run")
    assert len(runs.arms(tmp_path / "run", setting)) == 4


def test_a_later_round_has_the_human_arm_of_the_first(runs: ControlRuns, tmp_path: Path) -> None:
    runs.arms(tmp_path / "run")
    assert "human_only" not in runs.arms(tmp_path / "run", last=2)
    assert json.loads((tmp_path / "run/round-02/controls/human_only/metrics.json").read_text()) == {"cider": 0.5}


def test_a_web_that_grows_trains_all_arms_but_nothing_twice(runs: ControlRuns, tmp_path: Path) -> None:
    runs.arms(tmp_path / "run")
    rows = [(f"http://web/{row}.jpg", f"a text of picture {row}") for row in range(13)]
    runs.write_list(rows)
    assert len(runs.arms(tmp_path / "run")) == 4
    assert runs.arms(tmp_path / "run") == []


def test_arms_of_a_run_that_was_killed_count(runs: ControlRuns, tmp_path: Path) -> None:
    runs.die_at = "captioner_only"
    with pytest.raises(RunFailed):
        runs.arms(tmp_path / "run")
    runs.die_at = ""
    assert runs.arms(tmp_path / "run", "controls.arms=[human_only,captioner_only]") == ["captioner_only"]


def test_a_withdrawn_or_damaged_artifact_lends_no_arm(runs: ControlRuns, tmp_path: Path) -> None:
    root = tmp_path / "run"
    runs.arms(root)
    home = (root / "round-01/controls").resolve()
    (home / "human_only/model/model.safetensors").unlink()
    assert runs.arms(root, "controls.arms=[human_only,oracle]") == ["human_only"]
    shutil.rmtree((root / "round-01/controls").resolve())
    manifest = json.loads((home / "MANIFEST.json").read_text())
    told = with_checksum({**manifest, "stale": "trained on a text that is withdrawn"})
    (home / "MANIFEST.json").write_text(json.dumps(told))
    assert runs.arms(root, "controls.arms=[human_only,oracle]") == ["human_only", "oracle"]


def test_a_model_that_lacks_is_trained_anew_and_no_other(runs: ControlRuns, tmp_path: Path) -> None:
    root = tmp_path / "run"
    runs.arms(root)
    (root / "round-01/controls/oracle/model/model.safetensors").unlink()
    assert runs.arms(root) == ["oracle"]
    assert (root / "round-01/controls/oracle/model/model.safetensors").read_text() == "oracle"
    (root / "round-01/controls/oracle/metrics.json").unlink()
    assert runs.arms(root) == []
    assert (root / "round-01/controls/oracle/metrics.json").exists()


def test_killed_while_an_arm_is_taken(runs: ControlRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, taken, real = tmp_path / "run", list[Path](), parts.borrow

    def borrow(folder: Path, file: Path) -> None:
        real(folder, file)
        taken.append(file)
        if len(taken) == 1:
            raise RunFailed("killed")

    runs.arms(root, "controls.arms=[oracle]")
    monkeypatch.setattr("blip_pipelines.train.control_pairs.borrow", borrow)
    with pytest.raises(RunFailed, match="killed"):
        runs.arms(root, "controls.arms=[human_only,oracle]")
    assert runs.arms(root, "controls.arms=[human_only,oracle]") == ["human_only"]
    assert (root / "round-01/controls/oracle/model/model.safetensors").read_text() == "oracle"
    assert taken[-1].name == "metrics.json"


@pytest.mark.parametrize("lost", ["link", "home"])
def test_a_taken_arm_that_lost_its_model_never_writes_into_its_home(
    runs: ControlRuns, tmp_path: Path, lost: str
) -> None:
    root = tmp_path / "run"
    runs.arms(root, "controls.arms=[oracle]")
    home = (root / "round-01/controls").resolve()
    runs.arms(root, "controls.arms=[human_only,oracle]")
    taken = (root / "round-01/controls").resolve() / "oracle/model"
    (taken if lost == "link" else home / "oracle/model").joinpath("model.safetensors").unlink()
    before = (home / "oracle/model/counts.json").stat().st_mtime_ns
    assert runs.arms(root, "controls.arms=[human_only,oracle]") == ([] if lost == "link" else ["oracle"])
    assert (taken / "model.safetensors").read_text() == "oracle"
    assert (home / "oracle/model/counts.json").stat().st_mtime_ns == before
    assert [one.is_symlink() for one in taken.iterdir()] == [lost == "link"] * 2


def test_the_seconds_of_an_arm_are_those_of_its_training(runs: ControlRuns, tmp_path: Path) -> None:
    root = tmp_path / "run"

    def settled(seconds: float) -> Callable[[str], float]:
        folder = (root / "round-01/controls").resolve()
        manifest: dict[str, Any] = json.loads((folder / "MANIFEST.json").read_text())
        (folder / "MANIFEST.json").write_text(json.dumps(with_checksum({**manifest, "seconds": seconds})))
        return lambda arm: seconds_of_arm(root, folder.relative_to(root.resolve()).as_posix(), arm)

    runs.arms(root, "controls.arms=[human_only,oracle]")
    assert settled(10.0)("oracle") == 5.0
    runs.arms(root)
    seconds = settled(14.0)
    assert [seconds(arm) for arm in ("human_only", "oracle", "filter_only", "captioner_only")] == [5.0, 5.0, 7.0, 7.0]
    assert borrowed_from((root / "round-01/controls").resolve() / "oracle/metrics.json")
