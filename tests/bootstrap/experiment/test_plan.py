"""An experiment's file: its mistakes, its arms in groups, its budget."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from blip_bootstrap.errors import ConfigError, InputError
from blip_bootstrap.experiment.file import read_experiment, shipped
from blip_bootstrap.experiment.plan import Job, check_job

GOOD = {"name": "a", "question": "Which?", "arms": {"none": {"round": 0}, "cf": {}}}


def job_of(folder: Path, given: tuple[str, ...] = (), **more: object) -> Job:
    path = folder / "a.yaml"
    path.write_text(yaml.safe_dump(GOOD | more, sort_keys=False))
    return Job(read_experiment(str(path)), folder / "root", given)


def mistakes(folder: Path, given: tuple[str, ...] = (), **more: object) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        check_job(job_of(folder, given, **more))
    return raised.value.mistakes


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_experiment_is_right(name: str) -> None:
    found = read_experiment(name)
    assert found.name == name
    if not found.is_builtin and not Path(found.world).is_file():
        pytest.skip(f"{found.world} is not here")
    if found.is_builtin:
        check_job(Job(found, Path("nowhere")))


def test_all_mistakes_of_the_file_are_told_at_once_with_what_was_meant(tmp_path: Path) -> None:
    told = mistakes(
        tmp_path, wold="builtin", seeds="x", arms={"none": {"round": -1, "setings": {}, "control": "human"}}
    )
    assert told == [
        "a.yaml: seeds: a list was expected, found the text 'x'; write seeds: [x]",
        "a.yaml: arms.none.round: must be at least 0 (got -1)",
        "a.yaml: arms.none.control: is one of human_only, captioner_only, filter_only, oracle, paper_rule "
        "(got 'human')",
        "a.yaml: arms.none.setings: unknown key; did you mean settings?",
        "a.yaml: wold: unknown key; did you mean world?",
    ]


def test_what_does_not_fit_together_is_told_at_once(tmp_path: Path) -> None:
    told = mistakes(
        tmp_path, seeds=[0, 0], compare=[["cff", "none"]], metrics=[], draw={"human": 3},
        stop={"arms": ["none", "x"]}, curve={"x": "share", "lines": {"a": {0: "nonne"}}},
        arms={"none": {"round": 0, "control": "oracle"}, "cf": {}, "a b": {}},
    )  # fmt: skip
    assert told == [
        "a.yaml: compare.0: there is no arm cff; did you mean cf?",
        "a.yaml: stop.arms: there is no arm x; there are a b, cf, none",
        "a.yaml: curve.lines.a: there is no arm nonne; did you mean none?",
        "a.yaml: metrics: at least one is needed",
        "a.yaml: arms.a b: a name is of letters, digits, _ and -",
        "a.yaml: seeds: one is there twice",
        "a.yaml: arms.none.control: round 0 has no controls; give the round whose control it is",
        "a.yaml: draw: is of a world in files; each seed draws the built-in world anew as a whole",
    ]


def test_wrong_settings_are_told_where_they_stand_each_once(tmp_path: Path) -> None:
    told = mistakes(
        tmp_path, ("sed=3", "x", "seed=1"),
        settings={"caption": {"candidtes": 3}}, world_settings={"num_wb": 3},
        arms={"none": {"round": 0, "settings": {"pretrain": {"optimizer": {"step": 3}}}},
              "cf": {"settings": {"caption": {"captioners": ["arm:cff/captioner"]}, "controls": {"arms": ["oracle"]}}}},
    )  # fmt: skip
    assert told == [
        "arms.cf: there is no arm cff; did you mean cf?",
        "settings: world_settings.num_wb: unknown key; did you mean num_web?",
        "settings: caption.candidtes: unknown key; did you mean candidates?",
        "--set: seed is the experiment's own; use seeds",
        "--set: x: expected section.key=value",
        "--set: sed: unknown key; did you mean seed?",
        "arms.none: pretrain.optimizer.step: unknown key; did you mean steps?",
        "arms.cf: controls.arms is the experiment's own; give an arm `control: human_only`",
    ]


def test_what_a_round_lacks_is_told_before_anything_is_made(tmp_path: Path) -> None:
    told = mistakes(tmp_path, settings={"caption": {"candidates": 9, "sampler": {"preset": "beam"}}})
    assert told == ["settings: caption.candidates: 9 of 3 beams; set caption.sampler.num_beams higher"]
    told = mistakes(tmp_path, world_settings={"num_web": 0})
    assert len(told) == 1
    assert told[0].startswith("settings: world_settings")
    assert not (tmp_path / "root").exists()


def test_arms_have_one_budget_or_say_so(tmp_path: Path) -> None:
    longer = {"round": 0, "settings": {"pretrain": {"optimizer": {"steps": 900}}}}
    arms = {"none": {"round": 0}, "longer": longer}
    assert mistakes(tmp_path, arms=arms) == [
        "arms.longer: trains on 900 steps of 32 pictures, 25% of human pairs, arm none on 700 steps of 32 pictures, "
        "25% of human pairs; make them equal, or say `more_steps: true` in the arm"
    ]
    check_job(job_of(tmp_path, arms=arms | {"longer": longer | {"more_steps": True}}))
    check_job(job_of(tmp_path, arms=arms, budget="free"))
    share = {"round": 0, "settings": {"pretrain": {"human_share": 0.5}}}
    assert "50% of human pairs" in mistakes(tmp_path, arms={"none": {"round": 0}, "half": share})[0]


def test_a_file_or_name_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"tabel1: no such file, and no experiment that is shipped; did you mean table1\?"
    ):
        read_experiment("tabel1")
    with pytest.raises(InputError, match=r"a\.yaml: cannot be read"):
        read_experiment(str(tmp_path / "a.yaml"))


def test_arms_of_equal_settings_are_one_run_with_its_controls(tmp_path: Path) -> None:
    arms = {
        "none": {"round": 0}, "c": {"control": "captioner_only"}, "human": {"control": "human_only"}, "cf": {},
        "second": {"round": 2}, "k3": {"settings": {"caption": {"candidates": 3}}},
        "small": {"round": 0, "world_settings": {"num_web": 500}},
    }  # fmt: skip
    job = job_of(tmp_path, ("seed_of=1",), arms=arms)
    groups = job.groups()
    assert [group.arms for group in groups] == [("none", "c", "human", "cf", "second"), ("k3",), ("small",)]
    assert [group.last for group in groups] == [2, 1, 0]
    assert job.folder(groups[0], 3) == job.folder(groups[1], 3) == tmp_path / "root/seed-3"
    assert job.folder(groups[2], 3).parent.name.startswith("world-num-web-500-")
    assert job.loop_settings(groups[0], 3)[-2:] == [
        "controls.arms=[]", 'rounds.1.controls.arms=["human_only", "captioner_only"]'
    ]  # fmt: skip
    assert "caption.candidates=3" in job.loop_settings(groups[1], 3)
    assert [group.arms for group in job.groups(["c"])] == [("c", "human")]
    assert [group.arms for group in job.groups(["none"])] == [("none",)]


def test_an_arm_comes_after_those_whose_models_it_has(tmp_path: Path) -> None:
    arms = {
        "two": {"settings": {"caption": {"captioners": ["arm:other/captioner"]}}},
        "other": {"settings": {"captioner": {"optimizer": {"seed": 9}}}},
    }
    job = job_of(tmp_path, arms=arms)
    assert [group.arms for group in job.groups()] == [("other",), ("two",)]
    assert [group.arms for group in job.groups(["two"])] == [("other",), ("two",)]
    assert [group.arms for group in job.groups(["other"])] == [("other",)]
    own = {"a": {"settings": {"caption": {"captioners": ["arm:a/captioner"]}}}}
    assert mistakes(tmp_path, arms=own) == [
        "arms.a: needs a model of its own run (arm:a/...), which is not made before it"
    ]
