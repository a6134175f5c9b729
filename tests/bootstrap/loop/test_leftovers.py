"""What no round points to is listed, and deleted where one asks for it; nothing else is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from blip_bootstrap.cli.app import app
from blip_bootstrap.errors import RunFailed
from blip_bootstrap.loop.leftovers import delete, leftovers, list_artifacts
from blip_bootstrap.storage.run_folder import made_by_steps
from tests.support.other_process import locked_elsewhere
from tests.support.stub_rounds import StubRounds, current

ROUND_1 = ["finetune_captioner", "finetune_filter", "caption_and_score", "select_pairs", "pretrain"]


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StubRounds:
    return StubRounds(tmp_path, monkeypatch)


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
    assert len(made_by_steps(stub.root)) == 11
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


def test_gc_waits_for_no_run_and_takes_nothing_from_one(stub: StubRounds) -> None:
    stub.run(0)
    with locked_elsewhere(stub.root):
        done = CliRunner().invoke(app, ["gc", "--root", str(stub.root), "--delete"])
        assert isinstance(done.exception, RunFailed)
