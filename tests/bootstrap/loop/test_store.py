"""How a run lies on disk: nothing that was made is lost, by a changed setting, a copy or an older layout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from blip_bootstrap.cli.app import app
from blip_bootstrap.errors import InputError, RunFailed
from blip_bootstrap.loop.leftovers import list_artifacts
from blip_bootstrap.storage.run_folder import made_by_steps, manifests, read_pointers
from tests.support.stub_rounds import StubRounds, all_bytes, as_before, current

ROUND_1 = ["finetune_captioner", "finetune_filter", "caption_and_score", "select_pairs", "pretrain"]


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StubRounds:
    return StubRounds(tmp_path, monkeypatch)


def test_a_run_lies_under_its_recipes_and_opens_by_its_rounds(stub: StubRounds) -> None:
    stub.run(1)
    assert stub.made[-5:] == ROUND_1
    pointers = read_pointers(stub.root, 1)
    assert set(pointers) == {
        "images", "human", "groups", "same_pictures",
        *(f"round-01/{name}" for name in ("captioner", "filter", "captions", "pairs", "model")),
    }  # fmt: skip
    for name, pointer in pointers.items():
        folder = stub.root / pointer["folder"]
        assert (stub.root / name).resolve() == folder
        text = [] if name == "groups" else ["text"]  # of stubs without files of pictures there are no files of groups
        assert sorted(one.name for one in folder.iterdir()) == ["MANIFEST.json", *text]  # no working files
        assert pointer["folder"].endswith(pointer["digest"][:16])
    assert json.loads((stub.root / "round-01/round.json").read_text())["finished"]
    assert current(stub.run(1))
    assert stub.made == []


def test_a_time_out_changed_with_the_web_gone_costs_nothing(stub: StubRounds) -> None:
    stub.run(1)
    before, stub.web_is_gone = all_bytes(stub.root), True
    settings = (
        "download.timeout_s=5", "download.num_retries=4", "download.num_threads=2", "download.contact=me",
        "download.user_agent=x/1",
    )  # fmt: skip
    assert current(stub.run(1, *settings))
    assert (stub.made, all_bytes(stub.root)) == ([], before)


def test_another_download_with_the_web_gone_leaves_the_pictures(stub: StubRounds) -> None:
    stub.run(1)
    before, stub.web_is_gone = all_bytes(stub.root), True
    with pytest.raises(RunFailed, match="those of before stay"):
        stub.run(1, "download.limit=64", remake=(0,))
    assert {name: one for name, one in all_bytes(stub.root).items() if name in before} == before
    assert current(stub.run(1))


def test_the_same_list_at_another_path_changes_nothing(stub: StubRounds) -> None:
    stub.run(1)
    before = all_bytes(stub.root)
    (stub.folder / "other").mkdir()
    for name in ("web.tsv", "human.jsonl"):
        shutil.move(stub.folder / name, stub.folder / "other" / name)
    moved = f"download.urls=[{{path: {stub.folder / 'other/web.tsv'}}}]"
    said = stub.run(1, moved, f"human.path={stub.folder / 'other/human.jsonl'}")
    assert "images: current" in said
    assert "round-01/model: current" in said
    assert {name: one for name, one in all_bytes(stub.root).items() if name in before} == before
    assert set(stub.made) <= {"ingest_annotated"}  # its pictures lie beside it: they are read again


def test_another_ending_of_a_list_counts(stub: StubRounds) -> None:
    """It tells the format."""
    stub.run(0)
    shutil.copy(stub.folder / "web.tsv", stub.folder / "web.csv")
    stub.run(0, f"download.urls=[{{path: {stub.folder / 'web.csv'}}}]")
    assert "download_images" in stub.made


def test_settings_changed_and_back_make_nothing(stub: StubRounds) -> None:
    stub.run(1)
    first, text = all_bytes(stub.root), stub.text("round-01/model")
    said = stub.run(1, "select.itm_threshold=0.7")
    assert stub.made == ["select_pairs", "pretrain"]
    assert "round-01/pairs: making it anew, because of itm_threshold 0.5 -> 0.7; the one before stays" in said
    assert stub.text("round-01/model") != text
    both = all_bytes(stub.root)
    assert {name: both[name] for name in first} == first
    for settings, expected in (((), text), (("select.itm_threshold=0.7",), None), ((), text)):
        assert current(stub.run(1, *settings))
        assert (stub.made, all_bytes(stub.root)) == ([], both)
        assert (stub.text("round-01/model") == text) == (expected is not None)


def test_a_run_of_the_layout_before_is_gone_on_with(stub: StubRounds) -> None:
    stub.run(1)
    made = {name: one["digest"] for name, one in made_by_steps(stub.root).items()}
    as_before(stub.root)
    assert {name: one["digest"] for name, one in made_by_steps(stub.root).items()} == made
    assert {one.state for one in list_artifacts(stub.root)} == {"current"}
    assert current(stub.run(1))
    assert (stub.root / "round-01/pairs").is_symlink()
    said = stub.run(2, "select.itm_threshold=0.6")
    assert [line for line in said if "kept as it was made" in line]
    assert stub.made == ROUND_1


@pytest.mark.parametrize("symlinks", [True, False])
def test_a_copied_and_moved_run_goes_on_as_current(stub: StubRounds, tmp_path: Path, symlinks: bool) -> None:
    """With links, and with folders in their place, as `cp -rL` and syncing leave them."""
    stub.run(1)
    (tmp_path / "else").mkdir()
    copy = shutil.copytree(stub.root, tmp_path / "else/run", symlinks=symlinks)
    shutil.rmtree(stub.root)
    made = {name: one["digest"] for name, one in made_by_steps(copy).items()}
    assert len(made) == 11
    stub.root = Path(copy)
    assert current(stub.run(1))
    assert {name: one["digest"] for name, one in made_by_steps(copy).items()} == made
    assert all((copy / name).is_symlink() for name in made)


def test_only_the_artifacts_without_links_are_gone_on_with(stub: StubRounds, tmp_path: Path) -> None:
    """A copy that leaves links out has the records."""
    stub.run(1)
    for link in [one for one in stub.root.rglob("*") if one.is_symlink()]:
        link.unlink()
    assert current(stub.run(1))


def test_an_artifact_of_two_rounds_has_both_names(stub: StubRounds) -> None:
    given = ("captioner.checkpoint=org/c", "filter.checkpoint=org/f", "pretrain.optimizer.steps=0")
    stub.run(1, *given)
    stub.run(2, *given)
    assert stub.made == ["select_pairs"]  # whose input has the name of its round
    assert read_pointers(stub.root, 1)["round-01/captions"] == read_pointers(stub.root, 2)["round-02/captions"]
    names = [one["name"] for one in manifests(stub.root)]
    assert {"round-01/captions", "round-02/captions", "round-01/pairs", "round-02/pairs"} <= set(names)


@pytest.mark.parametrize(
    "artifacts", ["x", {"round-01/pairs": "x"}, {"round-01/pairs": {"folder": "../etc", "digest": "d"}}, {"images": {}}]
)
def test_a_record_edited_by_hand_is_told_in_one_line(stub: StubRounds, artifacts: object) -> None:
    stub.run(1)
    (stub.root / "round-01/round.json").write_text(json.dumps({"artifacts": artifacts, "finished": True}))
    for command in ("artifacts", "gc"):
        done = CliRunner().invoke(app, [command, "--root", str(stub.root)])
        assert isinstance(done.exception, InputError)
        assert "round-01/round.json: damaged (" in str(done.exception)
    (stub.root / "round-01/round.json").unlink()  # as the line says
    assert current(stub.run(1))
