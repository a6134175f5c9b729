"""How a run lies on disk: nothing that was made is lost, by a changed setting, a kill, a copy or an older layout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from blip_bootstrap.cli.app import app
from blip_bootstrap.config import load_config
from blip_bootstrap.errors import ConfigError, InputError, RunFailed
from blip_bootstrap.loop.adopt import adopt
from blip_bootstrap.loop.leftovers import delete, leftovers, list_artifacts
from blip_bootstrap.storage.run_folder import made_by_steps, manifests, out_of_date, read_pointers, used_folder
from tests.support.stub_rounds import StubRounds, all_bytes, as_before

ROUND_1 = ["finetune_captioner", "finetune_filter", "caption_and_score", "select_pairs", "pretrain"]


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StubRounds:
    return StubRounds(tmp_path, monkeypatch)


def current(said: list[str]) -> bool:
    return all(line.endswith(": current") for line in said if not line.startswith("overview"))


def test_a_run_lies_under_its_recipes_and_opens_by_its_rounds(stub: StubRounds) -> None:
    stub.run(1)
    assert stub.made[-5:] == ROUND_1
    pointers = read_pointers(stub.root, 1)
    assert set(pointers) == {
        "images", "human", "same_pictures",
        *(f"round-01/{name}" for name in ("captioner", "filter", "captions", "pairs", "model")),
    }  # fmt: skip
    for name, pointer in pointers.items():
        folder = stub.root / pointer["folder"]
        assert (stub.root / name).resolve() == folder
        assert sorted(one.name for one in folder.iterdir()) == ["MANIFEST.json", "text"]  # no working files
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


def test_gc_lists_what_no_round_points_to_and_deletes_it_alone(stub: StubRounds) -> None:
    stub.run(1)
    assert leftovers(stub.root) == []
    for kept in ("labels", "languages", "vqa"):
        (stub.root / kept).mkdir()
    stub.run(1, "select.itm_threshold=0.7")
    begun = stub.root / "artifacts/pretrain/0123456789abcdef"
    begun.mkdir()
    (begun / "half").write_text("12345")
    found = leftovers(stub.root)
    assert sorted((one.step, one.state) for one in found) == [
        ("", "half-made"), ("pretrain", "not pointed to"), ("select_pairs", "not pointed to"),
    ]  # fmt: skip
    assert next(one.size_bytes for one in found if one.state == "half-made") == 5
    gone = [one.folder for one in delete(found)]
    assert not any(folder.exists() for folder in gone)
    assert len(gone) == 3
    assert current(stub.run(1, "select.itm_threshold=0.7"))
    assert {one.name for one in stub.root.iterdir()} >= {"labels", "languages", "vqa"}
    assert leftovers(stub.root) == []


def test_the_list_of_artifacts_tells_what_shows_them(stub: StubRounds) -> None:
    stub.run(1)
    states = {one.names: (one.state, one.step) for one in list_artifacts(stub.root)}
    assert states["images",] == ("current", "download_images")
    assert states["round-01/pairs",] == ("current", "select_pairs")
    assert all(one.size_bytes and one.digest and one.made for one in list_artifacts(stub.root))


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


class Killed(BaseException):
    pass


OPERATIONS = ("rename", "replace", "symlink", "mkdir", "unlink", "rmdir")


@contextmanager
def killed_after(count: int) -> Iterator[list[int]]:
    """Each operation after the first `count` on names of files raises instead; how many there were."""
    left, done = [count], [0]

    def guarded(real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*arguments: Any, **settings: Any) -> Any:
            if not left[0]:
                raise Killed
            left[0] -= 1
            done[0] += 1
            return real(*arguments, **settings)

        return operation

    with pytest.MonkeyPatch.context() as patch:
        for name in OPERATIONS:
            patch.setattr(os, name, guarded(getattr(os, name)))
        yield done


def every_kill(act: Callable[[], object], prepare: Callable[[], None]) -> Iterator[int]:
    """Do `act` again and again, killed after 0, 1, 2, ... operations, until it comes to its end."""
    for count in range(1000):
        prepare()
        with killed_after(count) as done:
            with suppress(Killed):
                act()
            if done[0] < count:
                return
        yield count


@pytest.mark.parametrize("linked", [False, True])
def test_killed_anywhere_while_adopting_nothing_is_lost(stub: StubRounds, tmp_path: Path, linked: bool) -> None:
    """Also where a user's link leads to another disk."""
    stub.run(1)
    as_before(stub.root)
    if linked:
        (stub.root / "images").rename(tmp_path / "disk")
        (stub.root / "images").symlink_to("../disk")
    shutil.move(stub.root, tmp_path / "first")

    def prepare() -> None:
        shutil.rmtree(stub.root, ignore_errors=True)
        shutil.copytree(tmp_path / "first", stub.root, symlinks=True)

    points = 0
    for _ in every_kill(lambda: adopt(stub.root), prepare):
        points += 1
        assert current(stub.run(1))
        assert (stub.made, leftovers(stub.root)) == ([], []) or linked
    assert points > 20
    assert all((stub.root / name).is_symlink() for name in made_by_steps(stub.root))


def test_killed_anywhere_while_making_and_pointing_nothing_is_lost(stub: StubRounds, tmp_path: Path) -> None:
    stub.run(1)
    first = all_bytes(stub.root)
    shutil.move(stub.root, tmp_path / "first")

    def prepare() -> None:
        shutil.rmtree(stub.root, ignore_errors=True)
        shutil.copytree(tmp_path / "first", stub.root, symlinks=True)

    points = 0
    for _ in every_kill(lambda: stub.run(1, "select.itm_threshold=0.7"), prepare):
        points += 1
        kept = {name: data for name, (_, data) in all_bytes(stub.root).items() if name in first}
        assert kept == {name: data for name, (_, data) in first.items()}
        assert current(stub.run(1)), "back to the old settings"
        stub.run(1, "select.itm_threshold=0.7")
        assert "select_pairs0.7" in stub.text("round-01/pairs")
        assert out_of_date(stub.root) == {}
        assert not list(stub.root.glob("artifacts/*/*/.*"))
    assert points > 20


def test_a_damaged_file_is_made_anew_alone_and_a_kill_in_between_loses_none(stub: StubRounds, tmp_path: Path) -> None:
    stub.run(1)
    (stub.root / "round-01/pairs/text").write_text("short")
    shutil.move(stub.root, tmp_path / "first")

    def prepare() -> None:
        shutil.rmtree(stub.root, ignore_errors=True)
        shutil.copytree(tmp_path / "first", stub.root, symlinks=True)

    for _ in every_kill(lambda: stub.run(1), prepare):
        stub.run(1)
        assert set(stub.made) <= {"select_pairs"}
        assert "select_pairs0.5" in stub.text("round-01/pairs")
        assert current(stub.run(1))


@pytest.mark.parametrize("symlinks", [True, False])
def test_a_copied_and_moved_run_goes_on_as_current(stub: StubRounds, tmp_path: Path, symlinks: bool) -> None:
    """With links, and with folders in their place, as `cp -rL` and syncing leave them."""
    stub.run(1)
    (tmp_path / "else").mkdir()
    copy = shutil.copytree(stub.root, tmp_path / "else/run", symlinks=symlinks)
    shutil.rmtree(stub.root)
    made = {name: one["digest"] for name, one in made_by_steps(copy).items()}
    assert len(made) == 10
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


def test_what_is_not_asked_for_any_more_and_does_not_fit_is_left_behind(stub: StubRounds) -> None:
    held_out = f"held_out.path={stub.folder / 'human.jsonl'}"
    stub.run(1, held_out)
    assert (stub.root / "round-01/evaluation").is_symlink()
    stub.run(1, "select.itm_threshold=0.7")
    assert not (stub.root / "round-01/evaluation").exists()
    assert out_of_date(stub.root) == {}
    stub.run(1, held_out)
    assert stub.made == []


def test_half_made_work_of_the_layout_before_is_gone_on_with(stub: StubRounds) -> None:
    stub.run(1)
    pairs = (stub.root / "round-01/pairs").resolve()
    (pairs / "MANIFEST.json").unlink()
    (stub.root / ".staging").mkdir()
    pairs.rename(stub.root / ".staging" / f"round-01--pairs--{pairs.name}")
    assert [one.state for one in leftovers(stub.root)] == ["half-made"]
    assert "round-01/pairs: select_pairs (going on)" in stub.run(1)
    assert leftovers(stub.root) == []


def test_a_copy_of_a_round_keeps_what_it_shows(stub: StubRounds) -> None:
    stub.run(1)
    shutil.copytree(stub.root / "round-01", stub.root / "round-01 before", symlinks=True)
    stub.run(1, "select.itm_threshold=0.7")
    assert leftovers(stub.root) == []
    assert len(made_by_steps(stub.root)) == 10
    shutil.rmtree(stub.root / "round-01 before")
    assert len(leftovers(stub.root)) == 2


def test_the_commands_list_and_delete(stub: StubRounds) -> None:
    stub.run(1)
    stub.run(1, "select.itm_threshold=0.7")
    root = ["--root", str(stub.root)]

    def said(*arguments: str) -> list[str]:
        done = CliRunner().invoke(app, [*arguments, *root])
        assert done.exit_code == 0, done.output
        return done.output.splitlines()

    listed = said("artifacts")
    assert sum("not pointed to" in line for line in listed) == 2
    (pairs,) = (line for line in listed if "round-01/pairs" in line)
    assert "select_pairs" in pairs
    assert "current" in pairs
    assert said("gc")[-1].startswith("2 that no round points to, ")
    assert len(leftovers(stub.root)) == 2
    deleted = said("gc", "--delete")
    assert sum(line.startswith("deleted artifacts/") for line in deleted) == 2
    assert said("gc") == ["0 that no round points to, 0 B"]


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


def test_gc_waits_for_no_run_and_takes_nothing_from_one(stub: StubRounds) -> None:
    stub.run(0)
    code = (
        "import sys; from pathlib import Path; from blip_bootstrap.storage.store_lock import locked\n"
        f"with locked(Path({str(stub.root)!r})): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout
        assert other.stdout.readline() == b"held\n"
        done = CliRunner().invoke(app, ["gc", "--root", str(stub.root), "--delete"])
        assert isinstance(done.exception, RunFailed)
        other.communicate()
