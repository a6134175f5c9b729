"""One bit turned in any file of a run: a named error in one line, or made anew; never a wrong figure."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from blip_bootstrap.cli.app import app
from tests.guarantees.points import Undisturbed, differences
from tests.support.forked import Guard, Job, Plan, run_forked
from tests.support.run_contents import contents
from tests.support.small_loop import write_inputs

AGAIN = ("select.itm_threshold=0.6",)
"""A setting changed after the damage: what is above it is read again."""

FRESH = (".given.sha256", ".lock")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and beside it (`half`) one that was killed while it captioned, and (`right`) what is right after AGAIN."""
    folder = tmp_path_factory.mktemp("made")
    write_inputs(folder / "given")
    done = run_forked(Job(folder, records=True))
    assert done.code == 0
    blocks = [one for one in done.operations if one.kind == "replace" and "/.blocks/" in one.to]
    half = folder / "half"
    half.mkdir()
    run_forked(Job(half, given=folder / "given", plan=Plan(blocks[1].number)))
    shutil.copytree(folder / "disk", folder / "right/disk", symlinks=True)
    assert run_forked(Job(folder / "right", AGAIN, given=folder / "given")).code == 0
    return folder


def kinds(root: Path) -> dict[str, Path]:
    """A file of each kind under a run: by its name without digits, and the step that made it."""
    found: dict[str, Path] = {}
    for path in sorted(one for one in root.rglob("*") if one.is_file() and one.name not in FRESH):
        if not any(above.is_symlink() for above in path.parents):
            step = path.relative_to(root).parts[1] if path.is_relative_to(root / "artifacts") else ""
            found[f"{step} {re.sub('[0-9]{2,}', 'N', path.name)}"] = path
    return found


def turn_a_bit(path: Path, at: float) -> None:
    """Turn one bit of a file, so far into it (0 to 1)."""
    data = bytearray(path.read_bytes())
    data[min(int(len(data) * at), len(data) - 1)] ^= 1
    path.write_bytes(data)


def wrong_after(made: Path, half: bool, file: str, at: float, folder: Path, off: Guard = "") -> list[str]:
    """What is wrong after a bit of a file was turned: by the same command, and by one that reads it."""
    given, source = made / "given", made / "half/disk" if half else made / "disk"
    shutil.copytree(source, folder / "disk", symlinks=True)
    turn_a_bit(folder / "disk/run" / file, at)
    wrong = []
    for settings, right in (((), made / "disk/run"), (AGAIN, made / "right/disk/run")):
        done = run_forked(Job(folder, settings, given=given, off=off))
        if done.code == 0:
            wrong += [f"{name} differs, and nothing was said" for name in _figures(right, folder / "disk/run", file)]
        elif done.code != 1 or "\n" in done.error or Path(file).name not in done.error:
            wrong.append(f"ended with {done.code}: {done.error}")
    shutil.rmtree(folder)
    return [f"{file}, bit at {at:.0%}: {one}" for one in wrong]


def _figures(right: Path, root: Path, file: str) -> list[str]:
    """What differs, beside the damaged file itself, which nothing has read."""
    was, now = contents(right), contents(root)
    return [name for name in differences(was, now) if not name.endswith(("round.json", "shared.json"))
            and not file.endswith(Path(name).name) and not _is_its_table(root, name, file)]  # fmt: skip


def _is_its_table(root: Path, name: str, file: str) -> bool:
    return (root / name).resolve() == (root / file).parent.resolve()


def all_wrongs(made: Path, cases: Sequence[tuple[bool, str, float]], folder: Path, off: Guard = "") -> list[str]:
    with ThreadPoolExecutor(2) as pool:
        numbered = enumerate(cases)
        found = pool.map(
            lambda one: wrong_after(made, one[1][0], one[1][1], one[1][2], folder / f"{one[0]}", off), numbered
        )
        return [line for lines in found for line in lines]


def cases(made: Path, places: Sequence[float]) -> list[tuple[bool, str, float]]:
    """A file of each kind, whole and half-made, at these places of it."""
    found = []
    for half, root in ((False, made / "disk/run"), (True, made / "half/disk/run")):
        hidden = {kind: path for kind, path in kinds(root).items() if "/." in str(path.relative_to(root))}
        chosen = hidden if half else kinds(root)
        found += [(half, path.relative_to(root).as_posix(), at) for path in chosen.values() for at in places]
    return found


def test_a_bit_in_some_files(made: Path, tmp_path: Path) -> None:
    found = cases(made, [0.45])
    assert len(found) > 20
    wanted = ("caption_and_score", "finetune_filter", "select_pairs", "round.json")
    some = [one for one in found if any(name in one[1] for name in wanted)]
    assert all_wrongs(made, some[::2], tmp_path) == []


@pytest.mark.parametrize(
    ("step", "field"),
    [
        ("pretrain", '"content"'),  # captioner and filter would be trained anew
        ("caption_and_score", '"recipe"'),
        ("caption_and_score", '"settings"'),
        ("select_pairs", '"seconds"'),
    ],
)
def test_a_bit_in_a_field_of_a_manifest_is_told_and_nothing_is_made(
    made: Path, tmp_path: Path, step: str, field: str
) -> None:
    shutil.copytree(made / "disk", tmp_path / "disk", symlinks=True)
    path = sorted((tmp_path / "disk/run/artifacts" / step).glob("*/MANIFEST.json"))[0]
    text = path.read_text()
    at = text.index(field) + len(field) - 2
    path.write_text(text[:at] + chr(ord(text[at]) ^ 1) + text[at + 1 :])
    done = run_forked(Job(tmp_path, given=made / "given"))
    assert (done.code, done.made) == (1, [])
    assert "MANIFEST.json: damaged (it does not say what was written" in done.error


@pytest.mark.long
def test_a_bit_in_every_kind_of_file(made: Path, tmp_path: Path) -> None:
    assert all_wrongs(made, cases(made, [0.05, 0.3, 0.45, 0.7, 0.97]), tmp_path) == []


def test_artifacts_verify_names_every_damaged_file(made: Path, tmp_path: Path, right: Undisturbed) -> None:
    shutil.copytree(made / "disk/run", tmp_path / "run", symlinks=True)
    files = {path for kind, path in kinds(tmp_path / "run").items() if kind[0] != " " and "MANIFEST" not in kind}
    for path in files:
        turn_a_bit(path, 0.5)
    done = CliRunner().invoke(app, ["artifacts", "--verify", "--root", str(tmp_path / "run")])
    assert done.exit_code == 1
    assert {line.partition(": ")[0] for line in done.output.splitlines()[:-1]} == set(map(str, files))


def test_without_checksums_it_fails(made: Path, tmp_path: Path) -> None:
    """The negative control: sizes, digests and pages are not looked at."""
    captions = next(
        path for kind, path in kinds(made / "disk/run").items() if kind.startswith("caption_and_score part")
    )
    name = captions.relative_to(made / "disk/run").as_posix()
    places = [0.05, 0.1, 0.15, 0.2, 0.25, 0.3]
    assert all_wrongs(made, [(False, name, at) for at in places], tmp_path, "sizes")
