"""Rounds that were made to their end stay as they are, have settings of their own, or are out of date."""

from __future__ import annotations

from pathlib import Path

import pytest

from blip_bootstrap.config import load_config
from blip_bootstrap.errors import ConfigError, RunFailed
from blip_bootstrap.loop.leftovers import leftovers, list_artifacts
from blip_bootstrap.storage.run_folder import out_of_date, used_folder
from tests.support.stub_rounds import StubRounds, current

ROUND_1 = ["finetune_captioner", "finetune_filter", "caption_and_score", "select_pairs", "pretrain"]


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StubRounds:
    return StubRounds(tmp_path, monkeypatch)


def test_a_round_before_stays_as_it_was_made_unless_asked_for(stub: StubRounds) -> None:
    stub.run(1)
    text = stub.text("round-01/pairs")
    said = stub.run(2, "select.itm_threshold=0.6")
    told = "round-01: kept as it was made (select.itm_threshold 0.5, now 0.6); --remake 1 makes it anew"
    assert [line for line in said if line.startswith("round-01")] == [told]
    assert "round-00/pairs: current" in said  # which does not differ
    assert stub.made == ROUND_1
    assert stub.text("round-01/pairs") == text
    assert (out_of_date(stub.root), current(stub.run(2))) == ({}, False)
    stub.run(2, "select.itm_threshold=0.6")
    said = stub.run(2, "select.itm_threshold=0.6", remake=(1,))
    assert not [line for line in said if "kept as it was made" in line]
    assert stub.made == ["select_pairs", "pretrain", *ROUND_1]
    assert out_of_date(stub.root) == {}


def test_a_kept_round_keeps_its_pictures(stub: StubRounds) -> None:
    stub.run(1)
    before = used_folder(stub.root, 1, "images")
    (stub.folder / "web.tsv").write_text("url\tcaption\nother\tc\n")
    said = stub.run(2)
    assert "round-01: kept as it was made (another list web); --remake 1 makes it anew" in said
    assert used_folder(stub.root, 1, "images") == before
    assert (stub.root / "images").resolve() == used_folder(stub.root, 2, "images") != before
    assert {one.state for one in list_artifacts(stub.root) if "images of round-01" in one.names} == {"pointed to"}
    assert leftovers(stub.root) == []


def test_an_unfinished_round_before_is_made(stub: StubRounds, monkeypatch: pytest.MonkeyPatch) -> None:
    from blip_bootstrap.loop import rounds

    stub.run(0)

    def pretrain(out: Path, *inputs: Path | None, config: object) -> dict[str, int]:
        raise RunFailed("no space")

    with monkeypatch.context() as patch:
        patch.setattr(rounds, "pretrain", pretrain)
        with pytest.raises(RunFailed):
            stub.run(1)
    said = stub.run(2, "select.itm_threshold=0.6")
    assert not [line for line in said if "kept as it was made" in line]
    assert stub.made == ["select_pairs", "pretrain", *ROUND_1]


def test_a_round_after_one_that_is_made_anew_is_out_of_date(stub: StubRounds) -> None:
    stub.run(3)
    assert out_of_date(stub.root) == {}
    stub.run(1, "select.itm_threshold=0.7")
    assert out_of_date(stub.root) == {2: "made from another round 1", 3: "made from round 2, which is out of date"}
    assert {one.state for one in list_artifacts(stub.root) if one.names == ("round-02/pairs",)} == {"out of date"}
    assert stub.pages == [0, 1, 2, 3]  # so that none of them stands as if it were current
    stub.run(1, "select.itm_threshold=0.7")
    assert stub.pages == [0, 1]
    stub.run(1)
    assert out_of_date(stub.root) == {}
    assert stub.pages == [0, 1, 2, 3]


def test_a_round_has_its_own_settings(stub: StubRounds) -> None:
    own = ("rounds.2.select.itm_threshold=0.9",)
    stub.run(2, *own)
    assert ("select_pairs0.5" in stub.text("round-01/pairs"), "select_pairs0.9" in stub.text("round-02/pairs")) == (
        True, True,
    )  # fmt: skip
    assert current(stub.run(2, *own))
    again = load_config(stub.root / "config.yaml")
    assert (again.of_round(2).select.itm_threshold, again.of_round(1).select.itm_threshold) == (0.9, 0.5)


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("rounds.2.select.itm_treshold=1", "rounds.2.select.itm_treshold: unknown key; did you mean itm_threshold?"),
        ("rounds.2.root=x", "rounds.2.root is of the whole run"),
        ("rounds.two.seed=1", "a whole number was expected (got 'two')"),
        ("rounds.2=3", "settings were expected, found 3"),
        ("select.itm_threshold=7", "select.itm_threshold: must be at most 1.0 (got 7)"),
    ],
)
def test_mistakes_in_a_rounds_settings_are_told_once(setting: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [setting, "rounds.3.seed=1"])
    assert str(caught.value).count(told) == 1


def test_the_file_and_the_command_line_name_the_same_round(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("seed: 3\nrounds: {2: {seed: 5, select: {itm_threshold: 0.6}}}")
    config = load_config(tmp_path / "c.yaml", ["rounds.2.caption.candidates=3"])
    own = config.of_round(2)
    assert (own.select.itm_threshold, own.caption.candidates, own.caption.seed, config.caption.seed) == (0.6, 3, 5, 3)


def test_remake_names_a_round_that_is_run(stub: StubRounds) -> None:
    with pytest.raises(ConfigError, match="--remake 3: is one of 0 to 1"):
        stub.run(1, remake=(3,))


def test_what_is_not_asked_for_any_more_and_does_not_fit_is_left_behind(stub: StubRounds) -> None:
    held_out = f"held_out.path={stub.folder / 'human.jsonl'}"
    stub.run(1, held_out)
    assert (stub.root / "round-01/evaluation").is_symlink()
    stub.run(1, "select.itm_threshold=0.7")
    assert not (stub.root / "round-01/evaluation").exists()
    assert out_of_date(stub.root) == {}
    stub.run(1, held_out)
    assert stub.made == []
