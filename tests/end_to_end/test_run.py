from __future__ import annotations

import json
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from blip_bootstrap.schemas.closed_lists import REASONS
from blip_bootstrap.schemas.tables import CAPTIONS, IMAGES, PAIRS
from blip_bootstrap.storage.parquet import parquet_files
from tests.support.in_process import blip_here
from tests.support.small_world import Run, command, environment

pytestmark = pytest.mark.ray

README = Path(__file__).parents[2] / "README.md"
ASKING = ("audit", "sql", "why", "diff", "report")

METRICS = (
    "caption_truth", "noise_ratio_web", "noise_ratio_synthetic", "dropped_share_web", "dropped_share_synthetic",
    "cider", "tr1", "ir1", "human_only_cider", "human_only_tr1", "seconds",
)  # fmt: skip


def read(folder: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in parquet_files(folder)])


def test_the_round_has_its_metrics_and_its_page(small_run: Run) -> None:
    metrics = json.loads((small_run.root / "round-01" / "metrics.json").read_text())
    assert [name for name in METRICS if metrics.get(name) is None] == []
    assert {"captioner", "filter", "captions", "pairs", "model"} <= set(metrics["seconds"])
    page = (small_run.root / "round-01" / "report.html").read_text()
    assert "<html" in page
    assert "data:image/jpeg;base64," in page
    overview = (small_run.root / "report.html").read_text()
    assert "CapFilt over 2 rounds" in overview
    assert 'href="round-01/report.html"' in overview


def test_every_row_of_the_list_is_a_row_and_every_caption_is_accounted_for(small_run: Run) -> None:
    images, captions, pairs = (read(small_run.root / p) for p in ("images", "round-01/captions", "round-01/pairs"))
    listed = (small_run.root.parent / "world" / "web.tsv").read_text().splitlines()[1:]
    assert images.num_rows == len(listed)
    succeeded = sum(status == "success" for status in images["status"].to_pylist())
    assert {"http_4xx", "not_an_image", "duplicate_row", "blank_url"} <= set(images["error_class"].to_pylist())
    candidates = yaml.safe_load(small_run.config.read_text())["caption"].get("candidates", 1)
    assert captions.num_rows == (1 + candidates) * succeeded == pairs.num_rows
    assert len(set(images["key"].to_pylist())) == images.num_rows
    for kept, reason in zip(pairs["kept"].to_pylist(), pairs["reason"].to_pylist(), strict=True):
        assert (reason is None) if kept else (reason in REASONS)


def test_files_of_a_round_are_aligned_with_the_image_files(small_run: Run) -> None:
    for images in parquet_files(small_run.root / "images"):
        keys = [
            key
            for key, status in zip(*(pq.read_table(images)[c].to_pylist() for c in ("key", "status")), strict=True)
            if status == "success"
        ]
        for table, folder in ((CAPTIONS, "captions"), (PAIRS, "pairs")):
            data = pq.ParquetFile(small_run.root / "round-01" / folder / images.name)
            assert data.schema_arrow.equals(table.schema)
            assert list(dict.fromkeys(data.read()["key"].to_pylist())) == keys
        assert pq.ParquetFile(images).schema_arrow.equals(IMAGES.schema)


def test_the_same_command_again_makes_nothing_anew(small_run: Run) -> None:
    before = {p: p.stat().st_mtime_ns for p in small_run.root.rglob("*") if p.is_file() and p.name != "config.yaml"}
    done = blip_here("run", "--round", "1", "--config", small_run.config)
    assert done.returncode == 0, done.stderr
    steps = [line for line in done.stderr.splitlines() if line.startswith(("images", "human", "held_out", "round-"))]
    assert len(steps) > 12
    assert all(line.endswith(": current") for line in steps)
    after = {p: p.stat().st_mtime_ns for p in small_run.root.rglob("*") if p.is_file() and p.name != "config.yaml"}
    assert [p for p in after if before.get(p) != after[p] and p.name != ".lock"] == []


def test_a_new_threshold_makes_only_selection_and_what_follows_anew(small_run: Run, tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(small_run.root, root, symlinks=True)
    done = blip_here(
        "run", "--round", "1", "--config", small_run.config, "--root", root, "--set", "select.itm_threshold=0.6",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = [line.split(":")[0] for line in done.stderr.splitlines() if ": done in" in line]
    assert made == [
        "round-01/pairs", "round-01/model", "round-01/evaluation", "round-01/controls", "round-01/metrics.json",
        "round-01/report.html",
    ]  # fmt: skip


def test_killed_while_captioning_it_goes_on_without_ray_to_the_same_tables(small_run: Run, tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(small_run.root, root, symlinks=True)
    shutil.rmtree((root / "round-01" / "captions").resolve())
    arguments = ("run", "--round", "1", "--config", small_run.config, "--root", root)
    driver = subprocess.Popen(
        command(*arguments), env=environment(), start_new_session=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    begun = wait_for_a_part(root / "artifacts" / "caption_and_score", driver)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    finished = {p.name: p.stat().st_mtime_ns for p in parquet_files(begun)}
    assert 0 < len(finished) < len(parquet_files(root / "images")), "killed too late to test anything"
    done = blip_here(*arguments, "--ray", "none")
    assert done.returncode == 0, done.stderr
    assert "round-01/captions: caption_and_score (going on)" in done.stderr
    assert done.stderr.splitlines()[-1] == f"overview: {root / 'report.html'}"
    after = {p.name: p.stat().st_mtime_ns for p in parquet_files(root / "round-01" / "captions")}
    assert {name: after[name] for name in finished} == finished
    assert read(root / "round-01" / "captions").equals(read(small_run.root / "round-01" / "captions"))


def wait_for_a_part(step: Path, driver: subprocess.Popen[bytes]) -> Path:
    """The folder of the captions that are being made, as soon as its first part is whole."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and driver.poll() is None:
        for folder in step.glob("*"):
            if parquet_files(folder):
                return folder
        time.sleep(0.002)
    raise AssertionError("no part was written before the run ended")


def test_ctrl_c_is_130_and_leaves_no_traceback(small_run: Run, tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(small_run.root, root, symlinks=True)
    shutil.rmtree((root / "round-01" / "captions").resolve())
    driver = subprocess.Popen(
        command("run", "--round", "1", "--config", small_run.config, "--root", root), env=environment(),
        start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list((root / "artifacts" / "caption_and_score").glob("*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(1.0)
    driver.send_signal(signal.SIGINT)
    _, said = driver.communicate(timeout=180)
    assert driver.returncode == 130, said
    assert "Traceback" not in said
    assert said.splitlines()[-1] == "interrupted; the same command goes on from here"


def test_the_questions_that_the_run_answers(small_run: Run) -> None:
    asked = blip_here("sql", "SELECT count(*) AS n FROM images", "--root", small_run.root, "--format", "csv")
    assert (asked.returncode, asked.stdout.split()[0]) == (0, "n")
    assert blip_here("audit", "--round", "1", "--root", small_run.root).returncode == 0
    shown = blip_here("report", "--round", "1", "--root", small_run.root)
    assert (shown.returncode, Path(shown.stdout.strip()).name) == (0, "report.html")


def test_a_half_written_shard_is_made_anew(small_run: Run, tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(small_run.root, root, symlinks=True)
    part = parquet_files(root / "round-01" / "pairs")[1]
    part.write_bytes(part.read_bytes()[:100])
    done = blip_here("run", "--round", "1", "--config", small_run.config, "--root", root)
    assert done.returncode == 0, done.stderr
    assert f"round-01/pairs: {part.name} missing or damaged; making them anew" in done.stderr
    assert read(root / "round-01" / "pairs").equals(read(small_run.root / "round-01" / "pairs"))


def asking_commands() -> list[str]:
    """The README's commands that ask about a finished run."""
    lines = [line.split("  #")[0].strip() for line in README.read_text().splitlines()]
    return [line for line in lines if line.startswith("blip-bootstrap ") and line.split()[1] in ASKING]


def test_the_readme_has_such_commands() -> None:
    assert {line.split()[1] for line in asking_commands()} == set(ASKING)


@pytest.mark.parametrize("line", asking_commands())
def test_every_question_of_the_readme_is_answered(small_run: Run, line: str) -> None:
    arguments = [word if word != "runs/demo" else str(small_run.root) for word in shlex.split(line)[1:]]
    done = blip_here(*arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
