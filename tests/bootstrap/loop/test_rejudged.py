"""Judges are added to a run, changed and taken away: its captions go on, and the step is told which to take."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from blip_bootstrap.config import CaptionConfig
from blip_bootstrap.loop import rounds
from blip_bootstrap.schemas.tables import CAPTIONS, FILTER_CHECK
from blip_bootstrap.storage.parquet import parquet_files, read_parquet, rows_to_table, write_parquet
from blip_bootstrap.storage.run_folder import MANIFEST
from blip_pipelines.judges.registry import told_of
from tests.support.growing_rounds import FIRST, MORE, GrowingRounds, of

A, B, C = (f'{{"name": "{name}", "kind": "one", "options": {{"salt": "{name}"}}}}' for name in "abc")
OTHER_A = A.replace('"salt": "a"', '"salt": "other"')

pytestmark = pytest.mark.usefixtures("registered_judges")


class JudgedRounds(GrowingRounds):
    """`scored` has what the last captioning was given to judge: the judges that each part has by then."""

    def caption_and_score(
        self, out: Path, images: Path, *models: Path, config: CaptionConfig, judges: str = "",
        scored: Mapping[str, Path] | None = None,
    ) -> dict[str, int]:  # fmt: skip
        before = {name: read_parquet(path).schema.metadata or {} for name, path in (scored or {}).items()}
        self.scored = {
            name: [one["name"] for one in json.loads(of.get(b"judges", b"[]"))] for name, of in before.items()
        }
        there = {one.name for one in out.glob("part-*")}
        counts = super().caption_and_score(out, images, *models, config=config)
        for part in parquet_files(out):
            if part.name not in there:
                told = {"judges": json.dumps([told_of(one) for one in config.judges])} if config.judges else {}
                write_parquet(part, read_parquet(part), CAPTIONS, told)
        return counts


@pytest.fixture
def grown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JudgedRounds:
    return JudgedRounds(tmp_path, monkeypatch)


def judged(*judges: str) -> str:
    return f"caption.judges=[{', '.join(judges)}]"


def parts(*numbers: int, names: str = "") -> dict[str, list[str]]:
    return {f"part-{number:05d}.parquet": [*names] for number in numbers}


def test_captions_that_lack_judges_alone_are_given_to_the_step(grown: JudgedRounds) -> None:
    first = grown.lists(FIRST)
    grown.run(1, first)
    assert grown.scored == {}
    said = grown.run(1, first, judged(A))
    assert grown.scored == parts(0, 1)
    assert "round-01/captions: caption_and_score (2 of 2 parts for their judges alone)" in said
    grown.run(1, first, judged(A, B))
    assert grown.scored == parts(0, 1, names="a")
    grown.run(1, first, judged(OTHER_A))  # nobody's scores are of use, and any captions will do
    assert set(grown.scored) == {"part-00000.parquet", "part-00001.parquet"}
    grown.run(1, first, judged(C, B))  # what most of them have scored comes first, whatever was shown last
    assert grown.scored == parts(0, 1, names="ab")
    said = grown.run(1, first, judged(A))
    assert "round-01/captions: current" in said


def test_a_list_and_a_judge_that_are_added_together(grown: JudgedRounds) -> None:
    grown.run(1, grown.lists(FIRST))
    said = grown.run(1, grown.lists(FIRST, MORE), judged(A))
    assert grown.scored == parts(0, 1)
    assert "round-01/captions: caption_and_score (2 of 4 parts for their judges alone)" in said
    said = grown.run(1, grown.lists(FIRST, MORE, ["w"]), judged(A))
    assert grown.scored == {}
    assert [part for part in grown.parts if part.startswith("captions")] == of(4, tables=["captions"])
    grown.run(1, grown.lists(FIRST, MORE, ["w"]), judged(A, B))
    assert grown.scored == parts(0, 1, 2, 3, 4, names="a")


def test_another_setting_makes_captions_anew(grown: JudgedRounds) -> None:
    first = grown.lists(FIRST)
    grown.run(1, first)
    grown.run(1, first, judged(A), "caption.candidates=2")
    assert grown.scored == {}


@pytest.mark.parametrize(("rule", "scored"), [("{itm: 0.5, a: 0.5}", {}), ("{itm: 0.5}", parts(0, 1, names="a"))])
def test_judges_that_decide_which_texts_there_are(grown: JudgedRounds, rule: str, scored: dict[str, list[str]]) -> None:
    sparing = "caption.until_passes=true", f"caption.passes={rule}"
    first = grown.lists(FIRST)
    grown.run(1, first, judged(A), *sparing)
    grown.run(1, first, judged(A, B), *sparing)
    assert grown.scored == parts(0, 1, names="a")
    grown.run(1, first, judged(OTHER_A, B), *sparing)
    assert grown.scored == {name: ["a", "b"] for name in scored}


def test_damaged_parts_are_not_taken(grown: JudgedRounds) -> None:
    first = grown.lists(FIRST)
    grown.run(1, first)
    folder = (grown.root / "round-01/captions").resolve()
    assert json.loads((folder / MANIFEST).read_text())["files"]
    (folder / "part-00001.parquet").write_bytes(b"PAR1")
    grown.run(1, first, judged(A))
    assert grown.scored == parts(0)


def test_a_check_of_the_filter_goes_on_too(grown: JudgedRounds, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, Path]] = []

    def check_filter(
        out: Path, *inputs: Any, config: Any, judges: str = "", scored: Mapping[str, Path] | None = None
    ) -> dict[str, int]:
        given.append(dict(scored or {}))
        told = {"judges": json.dumps([told_of(one) for one in config.caption.judges])}
        write_parquet(out / "part-00000.parquet", rows_to_table([], FILTER_CHECK), FILTER_CHECK, told)
        return {"rows": 1}

    monkeypatch.setattr(rounds, "check_filter", check_filter)
    checked = grown.lists(FIRST), "filter_check.pictures=5"
    grown.run(1, *checked, judged(A))
    grown.run(1, *checked, judged(B, C))
    grown.run(1, *checked, judged(A, B))
    grown.run(1, *checked, judged(A, B), "caption.candidates=2")
    assert [[*one] for one in given] == [[], ["part-00000.parquet"], ["part-00000.parquet"], []]
    assert {path.parent.parent.name for one in given for path in one.values()} == {"check_filter"}


def test_nothing_is_looked_for_in_other_steps(grown: JudgedRounds) -> None:
    made: list[Any] = grown.run(1, grown.lists(FIRST), judged(A), "select.itm_threshold=0.9")
    grown.run(1, grown.lists(FIRST), judged(A), "select.itm_threshold=0.8")
    assert made
    assert grown.parts == of(0, 1, tables=["pairs"])
