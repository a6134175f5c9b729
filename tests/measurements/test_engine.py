"""The engine's bench at its smallest: the sides agree, and every figure is there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[1] / "bench" / "engine.py"


def test_both_sides_write_and_score_alike() -> None:
    command = [sys.executable, str(BENCH), "--json", "--size", "tiny", "--images", "4", "--rounds", "1", "--no-ray"]
    done = subprocess.run([*command, "--bf16", "--threads", "1"], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["greedy_captions_equal"] == 1
    assert found["itm_difference"] < 1e-5
    ratios = ("ratio_fp32", "ratio_bf16", "ratio_bf16_bf16", "gemm_share_fp32", "gemm_share_bf16", "candidates10_cost")
    assert all(found[name] > 0 for name in ratios)
