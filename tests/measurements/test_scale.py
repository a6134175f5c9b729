"""The bench of large runs at a small size: every figure is there, and the four commands did what they measure."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from blip_bootstrap.storage.run_folder import MANIFEST, read_json

BENCH = Path(__file__).parents[1] / "bench" / "scale.py"


def test_four_commands_and_their_figures(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCH), "--json", "--rows", "12000", "--ray", "none", "--root", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["driver_ratio_10m_1m"] == 1  # of one size
    assert all(found[name] > 0 for name in ("rerun_s_10m", "why_s_10m", "add_1pct_share"))
    (size,) = found["sizes"]
    assert set(size["first"]["by_step"]) >= {"images", "captions", "pairs", "metrics.json", "report.html"}
    for line in done.stderr.splitlines():
        assert "Traceback" not in line
    root = tmp_path / "12000/run"
    images, captions, pairs = (read_json(root / name / MANIFEST) for name in
                               ("images", "round-01/captions", "round-01/pairs"))  # fmt: skip
    assert images["counts"]["rows"] == 12_120
    assert captions["counts"]["images"] == images["counts"]["success"] == pairs["counts"]["rows"] // 2
    for made in (images, captions, pairs):  # the second list has its own part, and no other was made for it
        parts = [one for one in made["files"] if one["name"].startswith("part-") and one["name"].endswith(".parquet")]
        assert ["at" in one for one in parts] == [True, True, False]
        assert all("counts" in one for one in parts)
