"""Anything that people and machines do to a run, in any order: nothing that was paid for is lost, rows add up."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from blip_bootstrap.storage.lock import locked
from blip_bootstrap.storage.parquet import parquet_files
from blip_bootstrap.storage.run_folder import read_pointers, round_numbers
from tests.support.forked import KILLED, Guard, Job, Outcome, Plan, run_forked
from tests.support.operations import When
from tests.support.run_contents import wrong_digests
from tests.support.small_loop import ROWS, ROWS_PER_PART, write_inputs

SETTINGS = ("", "select.itm_threshold=0.7", "download.timeout_s=3", "caption.candidates=2", "download.limit=6")


class Run(RuleBasedStateMachine):
    """One run, its settings, and all that it has paid for so far."""

    off: Guard = ""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="stateful"))
        self.rows, self.setting, self.is_clean = ROWS, "", False
        self.fetched: set[str] = set()
        self.captioned: set[tuple[str, str]] = set()
        self.gone: set[str] = set()
        write_inputs(self.folder / "given")

    def teardown(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def root(self) -> Path:
        return self.folder / "disk/run"

    def do(self, plan: Plan | None = None) -> Outcome:
        """Run, by the settings of now."""
        chosen = (self.setting,) if self.setting else ()
        done = run_forked(Job(self.folder, chosen, plan=plan or Plan(), off=self.off))
        assert done.code in (0, 1, KILLED), done.error
        return done

    @rule()
    def run(self) -> None:
        """It ends well, or says in a line which damaged file to delete, which is then done."""
        for _ in range(4):
            done = self.do()
            if done.code == 0:
                break
            assert "\n" not in done.error
            self._delete_what_it_names(done.error)
        assert done.code == 0, done.error
        self.is_clean = True
        self.check_rows()
        self.note_what_is_there()
        again = self.do()
        assert (again.code, again.made, again.paid) == (0, [], [])

    def _delete_what_it_names(self, error: str) -> None:
        path = Path(error.partition(": ")[0])
        assert path.is_relative_to(self.root), error
        path = path.parent if "delete its folder" in error else path
        self.gone |= {one.name for one in [path, *path.rglob("*")]}
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    @rule(at=st.integers(0, 520), when=st.sampled_from(("before", "after")))
    def kill(self, at: int, when: When) -> None:
        self.do(Plan(at, when))
        self.is_clean = False

    @rule(at=st.integers(0, 400))
    def fill_the_disk(self, at: int) -> None:
        done = self.do(Plan(at, full=True))
        assert done.code in (0, 1)
        assert done.code == 0 or "no space left" in done.error or "cannot be written" in done.error, done.error
        self.is_clean = False

    @rule(setting=st.sampled_from(SETTINGS))
    def change_a_setting(self, setting: str) -> None:
        """Or go back to one."""
        self.setting, self.is_clean = setting, False

    @rule()
    def append_to_the_list(self) -> None:
        if self.rows < 2 * ROWS:
            self.rows += ROWS_PER_PART // 2
            write_inputs(self.folder / "given", rows=self.rows)
            self.is_clean = False

    @rule(number=st.integers(0, 1000), how=st.sampled_from(("turn a bit", "cut", "delete")))
    def damage_a_file(self, number: int, how: str) -> None:
        """Of an artifact: what was paid for in it may be gone."""
        files = sorted(path for path in self.root.glob("artifacts/*/*/*") if path.is_file() and path.name[0] != ".")
        if not files:
            return
        path = files[number % len(files)]
        data = bytearray(path.read_bytes())
        if how == "turn a bit" and data:
            data[random.Random(number).randrange(len(data))] ^= 1
        path.unlink() if how == "delete" else path.write_bytes(data[: len(data) // 2] if how == "cut" else data)
        self.is_clean = False
        self.fetched, self.captioned = set(), set()  # of what was paid for, any may have been in it

    @rule(number=st.integers(0, 1000))
    def delete_a_manifest(self, number: int) -> None:
        files = sorted(self.root.glob("artifacts/*/*/MANIFEST.json"))
        if files:
            files[number % len(files)].unlink()
            self.is_clean = False

    @rule()
    def another_process(self) -> None:
        """It is refused, and changes nothing."""
        before = self._listed()
        with locked(self.root):
            done = self.do()
        assert (done.code, done.made) == (1, []), done
        assert "another run is working on it" in done.error
        assert self._listed() == before or not before

    def _listed(self) -> list[str]:
        return sorted(str(path) for path in self.root.rglob("*") if path.name != ".lock")

    def check_rows(self) -> None:
        """Rows of the list are rows of images; pictures have captions; each text is a pair or has a reason."""
        listed = ROWS_PER_PART if "limit" in self.setting else self.rows
        images = self._read("images", ["key", "status"])
        assert len(images) == listed
        keys = Counter(one["key"] for one in images)
        assert max(keys.values()) == 1
        succeeded = {one["key"] for one in images if one["status"] == "success"}
        texts = self._read("round-01/captions", ["key", "source", "candidate"])
        assert {one["key"] for one in texts} == succeeded
        assert len(texts) == len(succeeded) * (3 if "candidates" in self.setting else 2)
        pairs = self._read("round-01/pairs", ["key", "kept", "reason"])
        assert len(pairs) == len(texts)
        assert all((one["reason"] is None) == one["kept"] for one in pairs)

    def _read(self, place: str, columns: list[str]) -> list[dict[str, Any]]:
        parts = parquet_files(self.root / place)
        return [row for part in parts for row in pq.ParquetFile(part).read(columns).to_pylist()]

    def note_what_is_there(self) -> None:
        """Pictures and captions that are there now are there later, too."""
        self.fetched |= self._everywhere("download_images", "url")
        self.captioned |= self._everywhere("caption_and_score", "caption")

    def _everywhere(self, step: str, column: str) -> Any:
        found = set()
        for part in self.root.glob(f"artifacts/{step}/*/*.parquet"):
            rows = pq.ParquetFile(part).read(["key", column]).to_pylist()
            found |= {one[column] if step == "download_images" else (one["key"], one[column]) for one in rows}
        return found

    @invariant()
    def nothing_paid_for_is_gone(self) -> None:
        if self.fetched:
            assert self.fetched <= self._everywhere("download_images", "url")
            assert self.captioned <= self._everywhere("caption_and_score", "caption")

    @invariant()
    def what_is_clean_has_its_digests_and_records(self) -> None:
        if not self.is_clean:
            return
        for number in (None, *round_numbers(self.root)):
            for pointer in read_pointers(self.root, number).values():
                assert (self.root / pointer["folder"] / "MANIFEST.json").exists()
        used = {one["folder"] for one in read_pointers(self.root, 1).values()}
        wrong = [one for one in wrong_digests(self.root) if one.rpartition("/")[0] in used]
        assert not [one for one in wrong if self._size_differs(one)]

    def _size_differs(self, name: str) -> bool:
        """A turned bit is found when the file is read, any other damage at each run."""
        path = self.root / name
        told = json.loads((path.parent / "MANIFEST.json").read_text())["files"]
        size = next(one["bytes"] for one in told if one["name"] == path.name)
        return not path.is_file() or path.stat().st_size != size


SHORT = settings(
    max_examples=3, stateful_step_count=6, derandomize=True, deadline=None, database=None, phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


def test_in_some_orders() -> None:
    run_state_machine_as_test(Run, settings=SHORT)


@pytest.mark.long
def test_in_many_orders() -> None:
    run_state_machine_as_test(Run, settings=settings(SHORT, max_examples=60, stateful_step_count=25, derandomize=False))


def test_where_what_is_made_takes_the_place_of_what_was_it_fails() -> None:
    """The negative control: as if an artifact of another setting overwrote the one before."""
    run = Run()
    run.off = "kept"
    run.begin()
    run.run()
    run.change_a_setting("download.limit=6")
    run.do()
    with pytest.raises(AssertionError):
        run.nothing_paid_for_is_gone()
    run.teardown()


def test_without_the_lock_it_fails() -> None:
    run = Run()
    run.off = "lock"
    run.begin()
    with pytest.raises(AssertionError):
        run.another_process()
    run.teardown()
