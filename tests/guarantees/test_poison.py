"""Rows that crash whoever works on them, hang, or eat memory: each ends as a row with its reason, the rest is there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from blip_bootstrap.config import RayConfig
from blip_bootstrap.errors import RunFailed
from blip_bootstrap.progress import Progress
from blip_bootstrap.schemas.closed_lists import DEATHS
from blip_bootstrap.schemas.tables import IMAGES
from blip_bootstrap.storage.parquet import parquet_files, read_parquet, write_parquet
from blip_pipelines.cluster import crew
from blip_pipelines.cluster.items import Pool, run_items
from tests.support.poison.acts import ACTS
from tests.support.poison.rows import Careful, Plain

REASON = dict(zip(ACTS, DEATHS, strict=True))
POISON = Path(__file__).parents[1] / "support" / "poison"
SOURCES = [str(Path(__file__).parents[2] / part) for part in (".", "pipelines", "training")]
GOOD = [f"text {i}" for i in range(20)]


def done(items: list[list[str]], log: Path, carefully: Any = None) -> tuple[dict[str, str], int, dict[str, Any]]:
    """What came of each row, the retries, and the figures that were shown."""
    found: list[tuple[str, str]] = []
    with Progress("test", None, "rows") as progress:
        careful = partial(carefully, log) if carefully else None
        retries = run_items("test", items, partial(Plain, log), Pool(2, 0.5), found.append, progress, {}, careful)
    assert len(found) == len(dict(found)), "a row is there twice"
    return dict(found), retries, progress.figures


@pytest.mark.ray
def test_each_poison_is_a_row_with_its_reason_and_the_rest_is_there(tmp_path: Path, ray_config: RayConfig) -> None:
    items = [[*GOOD[:3], "segfault"], GOOD[3:6], [*GOOD[6:8], "hang", "memory", *GOOD[8:12]], GOOD[12:]]
    found, retries, shown = done(items, tmp_path / "log", Careful)
    assert found == {text: text.upper() for text in GOOD} | REASON
    # Of each of two items two workers died, then a child of its batch, and two of each row alone.
    assert retries == 2 * (2 + 1) + 3 * 2
    assert shown["retries"] == retries
    begun = Counter(json.loads(line)[0] for line in (tmp_path / "log").read_text().splitlines())
    assert begun == {item[0]: 2 if set(item) & set(ACTS) else 1 for item in items}


@pytest.mark.ray
def test_without_care_the_retries_end_in_one_line(
    tmp_path: Path, ray_config: RayConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: the rows are poisonous indeed, and no retry goes on for ever."""
    monkeypatch.setattr(crew, "MAX_TRIES", 3)
    with pytest.raises(RunFailed) as failed:
        done([GOOD[:2], ["a segfault"]], tmp_path / "log")
    assert str(failed.value) == (
        "test: 3 workers died of the same work, the last so: its process crashed or was killed; run again to go on"
    )
    begun = Counter(json.loads(line)[0] for line in (tmp_path / "log").read_text().splitlines())
    assert begun == {GOOD[0]: 1, "a segfault": 3}


STEP = """
import json, sys
from pathlib import Path
from blip_bootstrap.config import CaptionConfig, DownloadConfig, RayConfig
out, what = Path(sys.argv[1]), json.loads(sys.argv[2])
ray = RayConfig.model_validate(what["ray"])
if "urls" in what:
    from blip_pipelines.ingest.download import download_images
    config = DownloadConfig.model_validate(what["urls"])
    counts = download_images(out, *(urls.path for urls in config.urls), config=config, ray=ray)
else:
    from blip_pipelines.caption.step import caption_and_score
    config = CaptionConfig.model_validate(what["config"])
    counts = caption_and_score(out, Path(what["images"]), *what["models"], config, ray)
print(json.dumps(counts))
"""


def step(out: Path, what: dict[str, Any], poisoned: bool = True) -> subprocess.CompletedProcess[str]:
    """The step in a process of its own, in which rows do what they say."""
    out.mkdir(exist_ok=True)
    path = os.pathsep.join([*([str(POISON)] if poisoned else []), *SOURCES])
    command = [sys.executable, "-W", "ignore", "-c", STEP, str(out), json.dumps(what, default=str)]
    environment = os.environ | {"PYTHONPATH": path}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)


def downloads(tmp_path: Path, server: Any, names: list[str], **ray: Any) -> dict[str, Any]:
    lines = ["url\tcaption", *(f"{server.url(name)}\ta {name}" for name in names)]
    (tmp_path / "urls.tsv").write_text("\n".join(lines) + "\n")
    urls = {"urls": [{"path": tmp_path / "urls.tsv"}], "rows_per_shard": 4, "allow_private_addresses": True}
    limits = {"row_timeout_s": 1.0, "worker_memory_bytes": 900_000_000}
    return {"urls": urls | {"num_retries": 0, "timeout_s": 1}, "ray": limits | ray}


def images(out: Path) -> list[dict[str, Any]]:
    return [row for part in parquet_files(out) for row in read_parquet(part).to_pylist()]


def test_the_same_command_gets_past_what_crashed_it(tmp_path: Path, rude_server: Any) -> None:
    """Without Ray the command itself dies of the row, twice; then it knows which shard it was at."""
    names = [f"picture{i}.jpg" for i in range(9)]
    names[5] = "segfault.jpg"
    out, what = tmp_path / "out", downloads(tmp_path, rude_server, names, address="none")
    assert [step(out, what).returncode for _ in range(2)] == [-signal.SIGSEGV, -signal.SIGSEGV]
    last = step(out, what)
    assert last.returncode == 0, last.stderr
    counts = json.loads(last.stdout)
    assert (counts["success"], counts["crashed"], counts["retries"]) == (8, 1, 3)
    (dead,) = [row for row in images(out) if row["status"] != "success"]
    assert dead["url"] == rude_server.url("segfault.jpg")
    assert (dead["status"], dead["error_class"]) == ("failed_to_download", "crashed")
    assert dead["error_message"] == "the process was ended by SIGSEGV"
    assert not [path.name for path in out.rglob("*") if path.name.endswith(".tries")]
    assert "retries" not in json.loads(step(tmp_path / "control", what, poisoned=False).stdout)


@pytest.mark.long
@pytest.mark.ray
def test_downloads_on_ray(tmp_path: Path, rude_server: Any) -> None:
    names = [f"picture{i}.jpg" for i in range(16)]
    for at, name in zip((1, 6, 11), ACTS, strict=True):
        names[at] = f"{name}.jpg"
    done = step(tmp_path / "out", downloads(tmp_path, rude_server, names, object_store_bytes=100_000_000))
    assert done.returncode == 0, done.stderr
    told = next(line for line in done.stdout.splitlines() if line.startswith("{"))  # Ray prints there, too
    counts = json.loads(told)
    assert (counts["success"], counts["retries"]) == (13, 3 * (2 + 1 + 2))
    dead = {row["url"]: row["error_class"] for row in images(tmp_path / "out") if row["status"] != "success"}
    assert dead == {rude_server.url(f"{name}.jpg"): reason for name, reason in REASON.items()}


@pytest.mark.long
@pytest.mark.ray
def test_captions_on_ray(tmp_path: Path, models: tuple[Path, Path], make_images: Callable[..., Path]) -> None:
    """Both files' other rows are those of a run without poison, in one process."""
    healthy = make_images(tmp_path / "healthy", 24, 12)
    what: dict[str, Any] = {
        "images": healthy,
        "models": models,
        "config": {"device": "cpu", "batch_size": 4, "sampler": {"max_tokens": 8}},
        "ray": {"address": "none"},
    }
    assert step(tmp_path / "control", what).returncode == 0
    bad: dict[str, str] = {}
    shutil.copytree(healthy, tmp_path / "poisoned")
    part = parquet_files(tmp_path / "poisoned")[0]
    table = read_parquet(part)
    rows = table.to_pylist()
    readable = [row for row in rows if row["status"] == "success"]
    for at, act in zip((1, 4, 7), ACTS, strict=True):  # one in the first batch, two in the second
        readable[at]["jpg"] = act.encode()
        bad[readable[at]["key"]] = REASON[act]
    write_parquet(part, pa.Table.from_pylist(rows, table.schema), IMAGES)
    limits = {"row_timeout_s": 2.0, "worker_memory_bytes": 2_000_000_000, "object_store_bytes": 100_000_000}
    done = step(tmp_path / "out", what | {"images": tmp_path / "poisoned", "ray": limits})
    assert done.returncode == 0, done.stderr
    counts = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert counts["retries"] == 2 + 2 + 3 * 2, "two workers, the children of two batches, and two for each row alone"
    made, expected = [
        {(row["key"], row["source"], row["candidate"]): row for row in images(tmp_path / name)}
        for name in ("out", "control")
    ]
    flags = {row["key"]: row["flags"] for row in made.values() if row["key"] in bad}
    assert flags == {key: [why] for key, why in bad.items()}
    others = {place: row for place, row in made.items() if place[0] not in bad}
    assert others.keys() == {place for place in expected if place[0] not in bad}
    assert all(row["caption"] == expected[place]["caption"] for place, row in others.items())
    for name in ("itm_score", "itc_score", "logprob"):
        found = [[rows[place][name] for place in others] for rows in (others, expected)]
        assert found[0] == pytest.approx(found[1], abs=1e-4)
