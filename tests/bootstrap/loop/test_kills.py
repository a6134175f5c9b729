"""Killed before any operation on names of files, a run goes on, and nothing that was made is lost."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from blip_bootstrap.loop.adopt import adopt
from blip_bootstrap.loop.leftovers import leftovers
from blip_bootstrap.storage.run_folder import made_by_steps, out_of_date
from tests.support.kills import every_kill
from tests.support.stub_rounds import StubRounds, all_bytes, as_before, current

ROUND_1 = ["finetune_captioner", "finetune_filter", "caption_and_score", "select_pairs", "pretrain"]


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StubRounds:
    return StubRounds(tmp_path, monkeypatch)


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
