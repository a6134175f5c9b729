"""The demo's loop and the arms of BLIP's Table 1 on the built-in world, each seed with a world and draws of its own.

    .venv/bin/python tests/bench/arms.py [--seeds 3] [--first-seed 0] [--split held_out] [--root DIR] [--set a.b=c]

Every arm has the same number of optimizer steps. `raw` is round 0: human and all web pairs; `C+F` is round 1's model.
Settings are chosen with `--split validation`; figures to be shown come from `held_out`. Finished steps are kept under
the root, so that a run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from blip_bootstrap.demo.run import run_demo
from blip_bootstrap.world.judge import judge
from blip_bootstrap.world.world import WorldConfig

ARMS = {
    "raw": "round-00/evaluation", "human": "round-01/controls/human_only", "C": "round-01/controls/captioner_only",
    "F": "round-01/controls/filter_only", "C+F": "round-01/evaluation", "oracle": "round-01/controls/oracle",
}  # fmt: skip
FIGURES = ("cider", "tr1", "ir1", "itm_auc", "captions_true", "true_in", "true_near", "true_out")
CONTROLS = "controls.arms=[human_only, captioner_only, filter_only, oracle]"


def run_seed(root: Path, seed: int, split: str, settings: Sequence[str]) -> dict[str, dict[str, float]]:
    """Run both rounds and all arms in the world of `seed`; the figures of each arm."""
    world = root / "world"
    given = [CONTROLS, f"seed={seed}", f"held_out.path={world / f'{split}.jsonl'}", *settings]
    run_demo(root, 1, given, None, lambda line: print(f"[{seed}] {line}", file=sys.stderr), WorldConfig(seed=seed))
    rows = [json.loads(line) for line in (world / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]
    scenes = {row["image"]: row["scene"] for row in rows}
    return {arm: figures_of(root / folder, scenes) for arm, folder in ARMS.items()}


def figures_of(folder: Path, scenes: Mapping[str, Any]) -> dict[str, float]:
    """An arm's own figures, and the share of its captions that are true, in all and by domain."""
    figures = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    true: dict[str, list[bool]] = {"captions_true": []}
    for row in pq.read_table(folder / "captions.parquet").to_pylist():
        verdict = judge(scenes[row["name"]], row["caption"]) == "true"
        true["captions_true"].append(verdict)
        true.setdefault(f"true_{row['domain']}", []).append(verdict)
    figures |= {name: statistics.fmean(verdicts) for name, verdicts in true.items()}
    return {name: figures[name] for name in FIGURES}


def print_table(found: Mapping[int, Mapping[str, Mapping[str, float]]]) -> None:
    """A Markdown table: mean and standard deviation over the seeds, an arm a row."""
    print("| arm | " + " | ".join(FIGURES) + " |")
    print("|---" * (len(FIGURES) + 1) + "|")
    for arm in ARMS:
        cells = []
        for name in FIGURES:
            values = [arms[arm][name] for arms in found.values()]
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{statistics.fmean(values):.3f}{spread}")
        print(f"| {arm} | " + " | ".join(cells) + " |")
    for rival in ("raw", "human", "F"):
        for name in ("cider", "tr1"):
            margins = [arms["C+F"][name] - arms[rival][name] for arms in found.values()]
            print(f"C+F over {rival}, {name}: " + "  ".join(f"{margin:+.3f}" for margin in margins))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--split", choices=["held_out", "validation"], default="held_out")
    parser.add_argument("--root", type=Path, default=Path("runs/arms"))
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="a.b=c")
    parser.add_argument("--json", action="store_true", help="print one JSON object: seed, arm, figure")
    arguments = parser.parse_args()
    found = {
        seed: run_seed(arguments.root / f"seed-{seed}", seed, arguments.split, arguments.settings)
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    }
    if arguments.json:
        print(json.dumps(found))
    else:
        print_table(found)


if __name__ == "__main__":
    main()
