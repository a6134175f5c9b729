"""An experiment's file: its mistakes, its arms in groups, its budget."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from blip_bootstrap.errors import ConfigError, InputError
from blip_bootstrap.experiment.check import check_job
from blip_bootstrap.experiment.file import read_experiment, shipped
from blip_bootstrap.experiment.plan import Job

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
        tmp_path, seeds=[0, 0], compare=[["cff", "none"], ["cf", "cf"]], metrics=[], draw={"human": 3},
        stop={"arms": ["none", "x"]}, curve={"x": "share", "lines": {"a": {0: "nonne"}}},
        arms={"none": {"round": 0, "control": "oracle"}, "cf": {}, "a b": {}},
    )  # fmt: skip
    assert told == [
        "a.yaml: compare.0: there is no arm cff; did you mean cf?",
        "a.yaml: stop.arms: there is no arm x; known: a b, cf, none",
        "a.yaml: curve.lines.a: there is no arm nonne; did you mean none?",
        "a.yaml: metrics: at least one is needed",
        "a.yaml: arms.a b: a name is of letters, digits, _ and -, the first not a -",
        "a.yaml: seeds: 0 is there twice",
        "a.yaml: compare.1: cf is compared with itself",
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
        "arms.longer: trains on 900 steps of 32 pictures, 25 % of human pairs, arm none on 700 steps of 32 pictures, "
        "25 % of human pairs; make them equal, or say `more_steps: true` in the arm"
    ]
    check_job(job_of(tmp_path, arms=arms | {"longer": longer | {"more_steps": True}}))
    check_job(job_of(tmp_path, arms=arms, budget="free"))
    share = {"round": 0, "settings": {"pretrain": {"human_share": 0.5}}}
    assert "50 % of human pairs" in mistakes(tmp_path, arms={"none": {"round": 0}, "half": share})[0]


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
    assert [group.arms for group in job.groups(["c"])] == [("c",)]
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


def test_arms_that_need_each_other_are_told_with_the_way_around(tmp_path: Path) -> None:
    def naming(arm: str) -> dict[str, object]:
        return {"settings": {"caption": {"captioners": [f"arm:{arm}/captioner"]}}}

    arms = {"a": naming("b"), "b": naming("c"), "c": naming("a"), "out": naming("a")}
    assert mistakes(tmp_path, arms=arms) == [
        "arms.a: needs a model of b, which needs one of c, which needs one of a: none of them can be made first"
    ]
    two = {"a": naming("b"), "b": naming("a"), "c": naming("c")}
    assert mistakes(tmp_path, arms=two) == [
        "arms.a: needs a model of b, which needs one of a: none of them can be made first",
        "arms.c: needs a model of its own run (arm:c/...), which is not made before it",
    ]


def test_lists_of_another_length_or_depth_are_told_with_what_to_write(tmp_path: Path) -> None:
    assert mistakes(tmp_path, compare=["cf", "none"]) == [
        "a.yaml: compare.0: a list was expected, found the text 'cf'; write a list in its place, [cf]",
        "a.yaml: compare.1: a list was expected, found the text 'none'; write a list in its place, [none]",
    ]
    assert mistakes(tmp_path, compare=[["cf", "none", "none"], ["cf"]]) == [
        "a.yaml: compare.0: at most 2 values were expected, found 3",
        "a.yaml: compare.1.1: is needed, and is not given",
    ]


def test_seeds_are_what_torch_and_numpy_take(tmp_path: Path) -> None:
    told = mistakes(tmp_path, seeds=[0, -1, 2**63])
    assert told == [
        "a.yaml: seeds.1: must be at least 0 (got -1)",
        f"a.yaml: seeds.2: must be under 2^63, as torch has it (got {2**63})",
    ]


@pytest.mark.parametrize(("key", "shown"), [(1, "1"), (False, "false"), (None, "null")])
def test_a_name_that_yaml_reads_as_no_text_is_told(tmp_path: Path, key: object, shown: str) -> None:
    assert mistakes(tmp_path, arms={key: {}}) == [
        f"a.yaml: arms: a key is a text, and YAML reads {shown} here; put it in quotes"
    ]


def test_names_of_experiments_and_numbers_of_curves(tmp_path: Path) -> None:
    assert mistakes(tmp_path, name="../b") == [
        "a.yaml: name: a name is of letters, digits, _ and -, the first not a - (got '../b')"
    ]
    assert mistakes(tmp_path, curve={"x": "share", "lines": {"a": {float("nan"): "cf", "b": "cf"}}}) == [
        "a.yaml: curve.lines.a.nan: a finite number was expected (got nan)",
        "a.yaml: curve.lines.a.b: a number was expected (got 'b')",
    ]
    assert mistakes(tmp_path, metrics=["cider", "cider"], stop={"arms": ["cf"]}) == [
        "a.yaml: metrics: cider is there twice",
        "a.yaml: stop.arms: two at least are needed, the rounds in their order",
    ]


def test_a_model_of_an_arm_that_makes_none_is_told_before_anything_is_made(tmp_path: Path) -> None:
    def naming(model: str) -> dict[str, object]:
        return {"settings": {"caption": {"captioners": [model]}}}

    arms = {"none": {"round": 0}, "a": naming("arm:none/captioner"), "given": {
        "settings": {"captioner": {"checkpoint": "arm:none/model"}}}, "b": naming("arm:given/captioner")}  # fmt: skip
    assert mistakes(tmp_path, arms=arms) == [
        "arms.a: arm:none/captioner: arm none, of round 0, makes no captioner of its own; name another arm, or the "
        "model's path",
        "arms.b: arm:given/captioner: arm given, of round 1, makes no captioner of its own; name another arm, or the "
        "model's path",
    ]
    for wrong in ("arm:none", "arm:none/captions", "arm:no ne/captioner"):
        assert mistakes(tmp_path, arms={"none": {"round": 0}, "a": naming(wrong)})[0] == (
            f"arms.a: {wrong}: write arm:NAME/captioner|filter|model"
        )


def test_shares_of_human_pairs_count_to_the_last_digit(tmp_path: Path) -> None:
    arms = {"none": {"round": 0}, "a": {"round": 0, "settings": {"pretrain": {"human_share": 0.251}}}}
    assert "trains on 700 steps of 32 pictures, 25.1 % of human pairs" in mistakes(tmp_path, arms=arms)[0]


def files_world(folder: Path, **more: object) -> Path:
    """A world in files: three human lines, two web rows."""
    (folder / "human.jsonl").write_text('{"image": "a.jpg", "captions": ["a"]}\n' * 3)
    (folder / "web.tsv").write_text("url\tcaption\nhttp://a/1\tone\nhttp://a/2\ttwo\n")
    lists = {"human": {"path": str(folder / "human.jsonl")}, "held_out": {"path": str(folder / "human.jsonl")}}
    data = {"download": {"urls": [{"path": str(folder / "web.tsv")}]}, **lists, **more}
    path = folder / "world.yaml"
    path.write_text(yaml.safe_dump({name: value for name, value in data.items() if value is not None}))
    return path


def test_mistakes_in_the_file_of_the_world_are_told_with_its_name(tmp_path: Path) -> None:
    world = files_world(tmp_path, seeds=[0], select={"keep_fractoin": 0.1})
    assert mistakes(tmp_path, world=str(world), settings={"select": {"itm_threshold": 2}}) == [
        f"world: {world}: select.keep_fractoin: unknown key; did you mean keep_fraction?",
        f"world: {world}: seeds: unknown key; did you mean seed?",
        "settings: select.itm_threshold: must be at most 1.0 (got 2)",
    ]


def test_what_seeds_cannot_draw_is_told_before_anything_is_made(tmp_path: Path) -> None:
    world = str(files_world(tmp_path))
    assert mistakes(tmp_path, world=world, draw={"human": 4, "web": 3}) == [
        f"draw.human: {tmp_path}/human.jsonl: has 3 rows, and 4 are to be drawn; draw fewer",
        f"draw.web: {tmp_path}/web.tsv: has 2 rows, and 3 are to be drawn; draw fewer",
    ]
    check_job(job_of(tmp_path, world=world, draw={"human": 2, "web": 1}))
    alone = str(files_world(tmp_path, human=None))
    told = mistakes(tmp_path, world=alone, draw={"human": 2}, arms={"none": {"round": 0}})
    assert told == ["draw.human: the world has no human set (human.path)"]


def test_a_split_without_pictures_is_told_before_anything_is_made(tmp_path: Path) -> None:
    world = str(files_world(tmp_path))
    told = ["split validation: the world has no pictures for it; give validation: PATH, or draw.human"]
    assert mistakes(tmp_path, world=world, split="validation") == told
    assert mistakes(tmp_path, world=world, stop={"arms": ["none", "cf"]}) == told
    check_job(job_of(tmp_path, world=world, split="validation", draw={"human": 2}))
    assert mistakes(tmp_path, world=world, split="validation", draw={"human": 3}) == [
        f"draw.human: {tmp_path}/human.jsonl: has 3 rows, all of which are to be drawn, so that the split validation "
        "has none; draw fewer, or give validation: PATH"
    ]
    check_job(job_of(tmp_path, world=world, draw={"human": 3}))
    assert mistakes(tmp_path, world=world, split="validation", validation=f"{tmp_path}/dev.jsonl") == [
        f"validation: no such file: {tmp_path}/dev.jsonl"
    ]


def test_controls_that_cannot_be_trained_are_told_before_anything_is_made(tmp_path: Path) -> None:
    oracle = {"none": {"round": 0}, "oracle": {"control": "oracle"}}
    assert mistakes(tmp_path, world=str(files_world(tmp_path)), arms=oracle) == [
        "arms.oracle: controls.arms: oracle needs truth; give it, or leave the arm out"
    ]
    check_job(job_of(tmp_path, arms=oracle))  # the built-in world has its truth, once it is drawn
    f = {"f": {"control": "filter_only"}}
    assert mistakes(tmp_path, world=str(files_world(tmp_path, held_out=None)), arms=f) == [
        "arms.f: control: filter_only is a model, and this world trains none or has no pictures to measure it on"
    ]


def test_given_models_that_are_not_there_are_told_once_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "filter").mkdir()
    settings = {"captioner": {"checkpoint": f"{tmp_path}/captioner"}, "filter": {"checkpoint": f"{tmp_path}/filter"}}
    arms = {"a": {}, "b": {"settings": {"select": {"itm_threshold": 0.8}}}}
    world = str(files_world(tmp_path, human=None, held_out=None))
    assert mistakes(tmp_path, world=world, settings=settings, arms=arms, budget="free") == [
        f"captioner.checkpoint: {tmp_path}/captioner: no such file or folder; give another, as by --set "
        "captioner.checkpoint=PATH"
    ]
