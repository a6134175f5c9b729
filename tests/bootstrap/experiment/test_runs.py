"""Experiments run: what arms share is made once, what was made stays, one bad arm does not lose the others."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import time
from contextlib import ExitStack
from functools import wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from blip_bootstrap.errors import InputError
from blip_bootstrap.experiment import record
from blip_bootstrap.experiment.figures import true_captions
from blip_bootstrap.experiment.page import page_html
from blip_bootstrap.experiment.results import (
    arms_table,
    differences,
    differences_table,
    unknown_figures,
    write_list,
    write_results,
)
from blip_bootstrap.experiment.run import run_experiment
from blip_bootstrap.experiment.seed import _with_models
from blip_bootstrap.loop import rounds
from blip_bootstrap.loop.leftovers import delete, leftovers
from blip_bootstrap.query.views import connect
from blip_bootstrap.storage.lock import held_by
from blip_bootstrap.world.world import WorldConfig, make_world
from tests.bootstrap.experiment.conftest import ARMS, SmallExperiments
from tests.support.other_process import locked_elsewhere


def test_what_arms_share_is_made_once(small: SmallExperiments) -> None:
    finished = small.run(small.job())
    assert not finished.failed
    # Two rounds more than the base, one other rule: two captioners, two filters, and a model for each of four arms.
    assert sorted(small.trained()) == sorted(
        ["pretrain"] * 4 + ["finetune_captioner"] * 2 + ["finetune_filter"] * 2 + ["train_controls"]
    )
    assert sum(kind == "fetch" for kind, _ in small.runs.paid) == 11
    assert [(one["arm"], one["round"], one["seed"]) for one in finished.records] == [
        ("none", 0, 0), ("human_only", 1, 0), ("cf", 1, 0), ("stricter", 1, 0), ("second", 2, 0),
    ]  # fmt: skip
    values = {one["arm"]: one["figures"]["cider"] for one in finished.records}
    assert values["human_only"] == 0.5
    assert len(set(values.values())) >= 4
    models = {one["arm"]: one["model"] for one in finished.records}
    assert len(set(models.values())) >= 4


def test_an_arm_that_is_there_is_not_run_again(small: SmallExperiments) -> None:
    job = small.job()
    first = small.run(job, seeds=(0, 1))
    said: list[str] = []
    again = small.run(job, seeds=(0, 1), say=said.append)
    assert again.records == first.records
    assert small.runs.paid == []
    assert all("there already" in line for line in said)
    assert len(said) == 10


def test_records_lost_are_made_anew_of_what_is_there(small: SmallExperiments) -> None:
    job = small.job()
    first = small.run(job)
    shutil.rmtree(small.root / "seed-0/arms")
    again = small.run(job)
    assert small.runs.paid == []
    assert [{**one, "seconds": 0} for one in again.records] == [{**one, "seconds": 0} for one in first.records]


def test_another_experiment_finds_what_the_first_has_made(small: SmallExperiments) -> None:
    small.run(small.job())
    finished = small.run(small.job(name="other", arms={"base": {}, "both": {"round": 2}}))
    assert small.trained() == []
    assert [one["experiment"] for one in finished.records] == ["other", "other"]


def test_each_line_says_how_far_it_is(small: SmallExperiments) -> None:
    said: list[str] = []
    small.run(small.job(), names=("none", "cf"), say=said.append)
    told = [line for line in said if line.startswith("small ")]
    assert len(told) == 2
    assert told[0].startswith("small  seed 0  none: done in ")
    assert " (1 of 2, some " in told[0]
    assert told[0].endswith(" left)")
    assert told[1].endswith("(2 of 2)")
    assert "[0] round-00/model: pretrain" in said


def test_a_killed_run_goes_on_where_it_was(small: SmallExperiments) -> None:
    job = small.job()
    whole = small.run(job).records
    shutil.rmtree(small.root)
    steps = [at for at, (kind, _) in enumerate(small.runs.paid) if kind == "step"]
    for deadly in (steps[len(steps) // 3], steps[2 * len(steps) // 3]):
        shutil.rmtree(small.root, ignore_errors=True)
        child = multiprocessing.get_context("fork").Process(target=_run_until, args=(small, job, deadly))
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        there = {path.stem for path in (small.root / "seed-0/arms/small").glob("*.json")}
        assert there
        finished = small.run(job)
        assert len([one for one in small.runs.paid if one[0] == "step"]) <= len(steps) - steps.index(deadly) + 1
        same = ("arm", "model", "figures", "artifacts")
        assert [[one[key] for key in same] for one in finished.records] == [[one[key] for key in same] for one in whole]


class _Deadly(list[tuple[str, str]]):
    """What was done, which ends the process at a number."""

    def __init__(self, deadly: int) -> None:
        super().__init__()
        self.deadly = deadly

    def append(self, one: tuple[str, str]) -> None:
        super().append(one)
        if len(self) > self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)


def _run_until(small: SmallExperiments, job: object, deadly: int) -> None:
    small.runs.paid = _Deadly(deadly)
    run_experiment(job, (0,), tuple(ARMS), "held_out", 1, lambda line: None)  # type: ignore[arg-type]


def test_one_bad_arm_does_not_lose_the_others(small: SmallExperiments, monkeypatch: pytest.MonkeyPatch) -> None:
    arms = ARMS | {
        "bad": {"settings": {"caption": {"seed": 99}}},
        "needs_bad": {"settings": {"caption": {"captioners": ["arm:bad/captioner"]}}},
    }
    real: Any = vars(rounds)["caption_and_score"]

    @wraps(real)
    def caption_and_score(*inputs: Any, **settings: Any) -> Any:
        if settings["config"].seed == 99:
            raise ValueError("no more words")
        return real(*inputs, **settings)

    monkeypatch.setattr(rounds, "caption_and_score", caption_and_score)
    finished = small.run(small.job(arms=arms), seeds=(0, 1))
    assert [(one.seed, one.arm, one.text) for one in finished.failed] == [
        (seed, arm, text) for seed in (0, 1)
        for arm, text in (("bad", "ValueError: no more words"), ("needs_bad", "it needs arm bad, which failed"))
    ]  # fmt: skip
    assert {one["arm"] for one in finished.records} == {*ARMS}
    assert len(finished.records) == 2 * len(ARMS)


def test_an_arm_that_fails_at_its_controls_keeps_its_own_model(
    small: SmallExperiments, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train_controls(*_: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rounds, "train_controls", train_controls)
    finished = small.run(small.job(), names=("none", "cf", "human_only"))
    assert [one["arm"] for one in finished.records] == ["none", "cf"]
    assert [one.arm for one in finished.failed] == ["human_only"]
    assert finished.failed[0].text.startswith("no space left on a disk")


def test_a_model_of_another_arm_is_used(small: SmallExperiments) -> None:
    of_cf = {"rounds": {2: {"captioner": {"checkpoint": "arm:cf/captioner"}}}}
    arms = {"cf": {}, "second": {"round": 2}, "frozen": {"round": 2, "settings": of_cf}}
    finished = small.run(small.job(arms=arms))
    assert not finished.failed
    captioners = small.trained().count("finetune_captioner")
    assert captioners == 2
    frozen = next(one for one in finished.records if one["arm"] == "frozen")
    assert "round-02/captioner" not in frozen["artifacts"]
    assert "round-01/captioner" in frozen["artifacts"]
    second = next(one for one in finished.records if one["arm"] == "second")
    assert "round-02/captioner" in second["artifacts"]


def test_gc_leaves_what_a_record_names(small: SmallExperiments) -> None:
    job = small.job()
    first = small.run(job)
    root = small.root / "seed-0"
    assert leftovers(root) == []
    for arm in ("cf", "human_only", "second"):
        (root / f"arms/small/{arm}.json").unlink()
    assert {"pretrain", "evaluate", "train_controls"} <= {one.step for one in delete(leftovers(root))}
    again = small.run(job)
    assert {one["arm"]: one["figures"]["cider"] for one in again.records} == {
        one["arm"]: one["figures"]["cider"] for one in first.records
    }


def test_a_seed_draws_its_own_human_set_and_the_rest_is_its_validation(small: SmallExperiments) -> None:
    job = small.job(draw={"human": 2}, split="validation", arms={"none": {"round": 0}, "cf": {}})
    finished = small.run(job, seeds=(0, 1))
    assert not finished.failed
    drawn = [(small.root / f"seed-{seed}/drawn/human-2.jsonl").read_text().splitlines() for seed in (0, 1)]
    rest = [(small.root / f"seed-{seed}/drawn/human-2-rest.jsonl").read_text().splitlines() for seed in (0, 1)]
    assert [len(one) for one in drawn] == [2, 2]
    every = {*(small.runs.given / "human.jsonl").read_text().splitlines()}
    assert [{*a, *b} for a, b in zip(drawn, rest, strict=True)] == [every, every]
    assert (small.root / "seed-0/validation/part-00000.parquet").is_file()
    held_out = small.run(small.job(draw={"human": 2}, arms={"none": {"round": 0}, "cf": {}}))
    assert small.trained() == []  # the same models, measured on other pictures
    assert held_out.records[0]["model"] == finished.records[0]["model"]


def test_rounds_end_where_the_rule_stops(small: SmallExperiments, monkeypatch: pytest.MonkeyPatch) -> None:
    arms = {f"round_{number}": {"round": number} for number in range(4)}
    stop = {"arms": list(arms), "metric": "cider", "split": "held_out"}
    figures = iter([0.2, 0.3, 0.25, 0.2, 0.3, 0.25])

    def evaluate(out: Path, *_: Path | None, config: object) -> dict[str, float]:
        found = {"cider": next(figures)}
        (out / "metrics.json").write_text(json.dumps(found))
        return found

    monkeypatch.setattr(rounds, "evaluate", evaluate)
    said: list[str] = []
    finished = small.run(small.job(arms=arms, stop=stop), say=said.append)
    assert [one["arm"] for one in finished.records] == ["round_0", "round_1", "round_2"]
    assert finished.stopped is not None
    assert (finished.stopped.at, finished.stopped.answer) == ("round_2", "round_1")
    assert said[-1].endswith("gains -0.05, the seeds differ by 0; round_1 counts")
    assert "stops at round_2" in page_html(small.job(arms=arms, stop=stop).experiment, finished)
    more = small.run(small.job(arms=arms, stop=stop), seeds=(0, 1))  # a seed that is added has every round, too
    assert [(one["arm"], one["seed"]) for one in more.records[-4:]] == [
        ("round_1", 0), ("round_1", 1), ("round_2", 0), ("round_2", 1),
    ]  # fmt: skip


def test_results_as_a_table_a_list_and_a_page(small: SmallExperiments, tmp_path: Path) -> None:
    job = small.job(
        compare=[["cf", "none"], ["second", "cf"]], curve={"x": "round", "lines": {"loop": {0: "none", 1: "cf"}}}
    )
    finished = small.run(job, seeds=(0, 1))
    write_results(small.root)
    with connect(small.root) as connection:
        rows = connection.execute(
            "SELECT arm, seed, round, split, steps, pictures, value FROM results WHERE metric = 'cider' "
            "ORDER BY arm, seed"
        ).fetchall()
        assert connection.execute("SELECT count(DISTINCT experiment) FROM results").fetchall() == [(1,)]
    values = {(one["arm"], one["seed"]): one["figures"]["cider"] for one in finished.records}
    assert {(arm, seed): value for arm, seed, _, _, _, _, value in rows} == values
    assert rows[0][:6] == ("cf", 0, 1, "held_out", 3, 3 * 256)
    write_list(tmp_path / "results/small.json", job.experiment, finished.records)
    listed = json.loads((tmp_path / "results/small.json").read_text())
    assert len(listed) == len(values)
    assert all({*one} == {"arm", "seed", "metric", "value"} for one in listed)
    assert {(one["arm"], one["seed"]): one["value"] for one in listed} == values
    found = list(differences(job.experiment, finished.records))
    assert found[0].spread.mean == pytest.approx(sum(values["cf", seed] - values["none", seed] for seed in (0, 1)) / 2)
    assert differences_table(found)["beyond zero"].to_pylist()[0].endswith("(two seeds)")
    assert arms_table(job.experiment, finished.records)["seeds"].to_pylist() == ["2"] * 5
    page = page_html(job.experiment, finished)
    assert page.count("<svg") == 3
    for told in ("Which?", "cf - none", "Measured on held_out, 2 seeds"):
        assert told in page


def test_captions_are_true_of_their_scenes(tmp_path: Path) -> None:
    config = WorldConfig(num_web=1, num_human=1, num_held_out=8, num_validation=1, num_vision=0)
    world = make_world(tmp_path / "world", config)
    lines = [json.loads(line) for line in (world.folder / "held_out.jsonl").read_text().splitlines()]
    captions = [one["captions"][0] if at % 2 else "nothing of it" for at, one in enumerate(lines)]
    table = {"name": [one["image"] for one in lines], "caption": captions, "domain": [one["domain"] for one in lines]}
    pq.write_table(pa.table(table), tmp_path / "captions.parquet")
    found = true_captions(tmp_path / "captions.parquet", world.folder / "held_out.jsonl")
    assert found["captions_true"] == 0.5
    shares = [found[name] * table["domain"].count(name[5:]) for name in found if name.startswith("true_")]
    assert sum(shares) == pytest.approx(4)


def test_a_changed_world_makes_its_arms_again_and_going_back_makes_nothing(small: SmallExperiments) -> None:
    arms = {"none": {"round": 0}, "cf": {}}
    first = small.run(small.job(arms=arms))
    world = small.folder / "world.yaml"
    before = world.read_text()
    assert small.run(small.job(arms=arms)).records == first.records
    world.write_text(before.replace("itm_threshold: 0.4", "itm_threshold: 0.6"))
    again = small.run(small.job(arms=arms))
    assert small.trained() == ["pretrain"]  # of round 1, whose pairs are others
    assert again.records[1]["model"] != first.records[1]["model"]
    world.write_text(before)
    back = small.run(small.job(arms=arms))
    assert small.trained() == []
    assert [one["model"] for one in back.records] == [one["model"] for one in first.records]


def test_a_changed_list_makes_its_arms_again(small: SmallExperiments) -> None:
    arms = {"none": {"round": 0}}
    first = small.run(small.job(arms=arms))
    human = small.runs.given / "human.jsonl"
    human.write_text(human.read_text().replace("a picture 0", "another picture"))
    again = small.run(small.job(arms=arms))
    assert small.trained() == ["pretrain"]
    assert not again.failed
    assert again.records[0]["key"] != first.records[0]["key"]


def test_the_model_of_a_control_is_its_own(small: SmallExperiments) -> None:
    filters = {of: {2: {"filter": {"checkpoint": f"arm:{of}/model"}}} for of in ("human", "cf")}
    arms = {"human": {"control": "human_only"}, "cf": {}}
    nexts = {f"next_{of}": {"round": 2, "settings": {"rounds": filter}} for of, filter in filters.items()}
    job = small.job(arms=arms | nexts)
    assert not small.run(job, names=("human", "cf")).failed
    given = {name: _with_models(job, job.alone(name), 0).settings[-1] for name in nexts}
    assert all(Path(json.loads(one.partition("=")[2])).is_dir() for one in given.values())
    assert given["next_human"].endswith('/human_only/model"')
    assert "/artifacts/pretrain/" in given["next_cf"]


def test_results_are_of_todays_settings_alone(small: SmallExperiments) -> None:
    def rows() -> set[tuple[str, int]]:
        table = pq.read_table(small.root / "results.parquet").filter(pc.field("metric") == "cider")
        found = [*zip(table["arm"].to_pylist(), table["seed"].to_pylist(), strict=True)]
        assert len(found) == len({*found})
        return {*found}

    arms = {"none": {"round": 0}, "cf": {}, "strict": {"settings": {"select": {"itm_threshold": 0.7}}}}
    small.run(small.job(arms=arms), seeds=(0, 1))
    write_results(small.root, small.job(arms=arms))
    assert len(rows()) == 6
    changed = {"none": {"round": 0}, "cf": {"settings": {"select": {"itm_threshold": 0.6}}}}
    job = small.job(arms=changed)
    small.run(job)
    write_results(small.root, job)
    assert rows() == {("none", 0), ("none", 1), ("cf", 0)}  # seed 1 of cf is of the rule of before, strict is gone
    other = small.job(name="other", arms={"none": {"round": 0}})
    small.run(other)
    write_results(small.root, other)
    assert ("none", 0) in {
        (one["arm"], one["seed"]) for one in pq.read_table(small.root / "results.parquet").to_pylist()
        if one["experiment"] == "other"
    }  # fmt: skip


def test_a_figure_that_nobody_has_is_told_early_and_at_the_end(small: SmallExperiments) -> None:
    said: list[str] = []
    job = small.job(metrics=["cider", "cidr"], arms={"none": {"round": 0}, "cf": {}, "second": {"round": 2}})
    finished = small.run(job, say=said.append)
    told = [line for line in said if "cidr" in line]
    assert told == ["small  so far no arm has a figure cidr; did you mean cider?"]
    assert said.index(told[0]) < next(at for at, line in enumerate(said) if line.startswith("small  seed 0  second"))
    assert unknown_figures(job.experiment, finished.records) == ["no arm has a figure cidr; did you mean cider?"]


def test_a_figure_that_is_no_number_is_none(small: SmallExperiments, monkeypatch: pytest.MonkeyPatch) -> None:
    def evaluate(out: Path, *_: Path | None, config: object) -> dict[str, float]:
        found = {"cider": float("nan") if "seed-0" in str(out) else 0.5, "tr1": float("inf"), "ir1": 0.25}
        (out / "metrics.json").write_text(json.dumps(found))
        return found

    monkeypatch.setattr(rounds, "evaluate", evaluate)
    job = small.job(arms={"none": {"round": 0}, "cf": {}}, metrics=["cider", "ir1"], compare=[["cf", "none"]])
    finished = small.run(job, seeds=(0, 1))
    assert not finished.failed
    assert [sorted({*one["figures"]} & {"cider", "tr1", "ir1"}) for one in finished.records][:2] == [
        ["ir1"], ["cider", "ir1"],
    ]  # fmt: skip
    (row, *_) = arms_table(job.experiment, finished.records).to_pylist()
    assert (row["seeds"], row["cider"], row["ir1"]) == ("2", "0.500 (1 of them)", "0.250 ± 0.000")
    assert [one.spread.num for one in differences(job.experiment, finished.records)] == [1, 2]
    write_list(small.folder / "small.json", job.experiment, finished.records)
    assert "NaN" not in (small.folder / "small.json").read_text()


def test_a_root_that_cannot_be_written_is_told_once(small: SmallExperiments) -> None:
    small.root.write_text("")
    with pytest.raises(InputError, match=r"results\.parquet: cannot be written \((File exists|Not a directory)\)"):
        small.run(small.job())


def test_a_rule_that_keeps_no_text_is_an_answer_where_no_model_is_asked_for(small: SmallExperiments) -> None:
    given = {"checkpoint": "arm:cf/captioner"}, {"checkpoint": "arm:cf/filter"}
    none_kept = {"select": {"itm_threshold": 1.0}, "captioner": given[0], "filter": given[1]}
    no_model = {"settings": none_kept | {"pretrain": {"optimizer": {"steps": 0}}}}
    arms = {"cf": {}, "texts": no_model}
    job = small.job(arms=arms, budget="free", metrics=["itm_noise_web"])
    finished = small.run(job)
    assert not finished.failed
    found = {one["arm"]: one["figures"] for one in finished.records}
    assert found["texts"]["itm_noise_web"] == found["cf"]["itm_noise_web"]
    assert "cider" not in found["texts"]
    small.run(job, names=("texts",))
    assert small.runs.paid == []


def test_an_arm_is_run_and_measured_under_one_lock(small: SmallExperiments, monkeypatch: pytest.MonkeyPatch) -> None:
    real: Any = vars(record)["figures_of"]
    alive = list[bool | None]()

    def figures_of(root: Path, *more: Any) -> dict[str, float]:
        held = held_by(root)
        alive.append(held.alive if held else None)
        found: dict[str, float] = real(root, *more)
        return found

    monkeypatch.setattr("blip_bootstrap.experiment.record.figures_of", figures_of)
    job = small.job(arms={"none": {"round": 0}})
    assert not small.run(job).failed
    assert alive == [True]


def test_a_seed_that_another_experiment_works_on_is_waited_for(
    small: SmallExperiments, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as other:
        other.enter_context(locked_elsewhere(small.root / "seed-1"))
        said, waits = list[str](), list[float]()

        def sleep(seconds: float) -> None:
            waits.append(seconds)
            if len(waits) == 3:
                other.close()

        clock = SimpleNamespace(sleep=sleep, monotonic=time.monotonic)
        monkeypatch.setattr("blip_bootstrap.experiment.seed.time", clock)
        finished = small.run(small.job(arms={"none": {"round": 0}}), seeds=(1,), say=said.append)
    assert not finished.failed
    (told,) = [line for line in said if "waiting" in line]
    assert "seed-1: another run is working on it (" in told
    assert "stop it" not in told


def test_controls_that_are_asked_for_one_by_one_are_trained_once_and_alone(small: SmallExperiments) -> None:
    arms = {"human_only": {"control": "human_only"}, "f": {"control": "filter_only"}, "cf": {}}
    job = small.job(arms=arms)
    for name in ("human_only", "f"):
        assert [one["arm"] for one in small.run(job, names=(name,)).records] == [name]
        assert [what for _, what in small.runs.paid if "controls" in what] == [
            f"train_controls/{arms[name]['control']} 0"
        ]
    small.run(job)
    assert not [what for _, what in small.runs.paid if "controls" in what]
