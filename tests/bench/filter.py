"""How well each rule tells the true texts of a round from the false ones, and what it keeps of them.

    .venv/bin/python tests/bench/filter.py [--seeds 3] [--root DIR] [--json]

On the built-in world, each seed with a world and draws of its own: the area under the ROC curve of the filter's ITM
score, of the ranks of scores without a label, and of the rule learned from 50 answers a source; and the share of true
texts among the synthetic ones that each keeps, at the number that the paper's rule (ITM .5) keeps. Truth is the drawn
world's own; the answers are a sample's, as `audit sample` draws it. A text counts as right where it is not false, as a
truth file answers a sample: right words among junk are right, too.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from blip_bootstrap.config import SelectConfig
from blip_bootstrap.demo.run import run_demo
from blip_bootstrap.labels.truth import judged_pairs, load_truth
from blip_bootstrap.select.logistic import auc as area
from blip_bootstrap.select.pairs import select_pairs
from blip_bootstrap.world.world import WorldConfig
from tests.bench.filter_arms import RULES, answered, shares_of_itm


def figures(root: Path, seed: int) -> dict[str, float]:
    """The figures of one seed's world; finished steps are kept under `root`."""
    settings = ["controls.arms=[]", f"seed={seed}", "select={strategy: threshold}"]
    run_demo(root, 1, settings, None, lambda line: print(f"[{seed}] {line}", file=sys.stderr), WorldConfig(seed=seed))
    answered(root, 50, seed, strict=False)
    share = shares_of_itm(root)
    itm = rows_of(root, root / "round-01" / "pairs")
    number = round(share["synthetic"] * len(of(itm, "synthetic")))
    found = {"auc_synthetic_itm": auc(itm, "synthetic", "itm_score"), "auc_web_itm": auc(itm, "web", "itm_score")}
    found["kept_true_itm"] = best_true(itm, "itm_score", number)
    for name in ("rank", "learned50"):
        out = root / "rules" / name
        rule = RULES[name](root / "labels", share)
        rule |= {"labels": str(root / "labels" / "fits-50.parquet")} if "labels" in rule else {}
        shutil.rmtree(out, ignore_errors=True)
        select_pairs(out, root / "round-01" / "captions", config=SelectConfig.model_validate(rule))
        rows = rows_of(root, out)
        found |= {f"auc_{source}_{name}": auc(rows, source, "rule_score") for source in ("synthetic", "web")}
        found[f"kept_true_{name}"] = best_true(rows, "rule_score", number)
    return found


def rows_of(root: Path, pairs: Path) -> list[dict[str, Any]]:
    """The rows of `pairs` whose truth is known."""
    judged = judged_pairs(load_truth(root / "world" / "truth.jsonl"), root / "images", pairs)
    return [row for row in judged.to_pylist() if row["verdict"] is not None]


def of(rows: Sequence[dict[str, Any]], source: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["source"] == source]


def auc(rows: Sequence[dict[str, Any]], source: str, column: str) -> float:
    """The probability that a text that is not false scores higher than a false one; equal scores count half."""
    mine = [row for row in of(rows, source) if row[column] is not None]
    scores, good = np.array([[row[column], row["verdict"] != "false"] for row in mine], dtype=np.float64).T
    return area(scores, good)


def best_true(rows: Sequence[dict[str, Any]], column: str, number: int) -> float:
    """The share of true texts among the `number` synthetic texts of the highest scores."""
    mine = sorted((r for r in of(rows, "synthetic") if r[column] is not None), key=lambda row: -row[column])[:number]
    return statistics.fmean(row["verdict"] == "true" for row in mine)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--root", type=Path, default=Path("runs/filter"))
    parser.add_argument("--json", action="store_true", help="print one JSON object: figures, means over the seeds")
    arguments = parser.parse_args()
    found = [figures(arguments.root / f"seed-{seed}", seed) for seed in range(arguments.seeds)]
    means = {name: statistics.fmean(one[name] for one in found) for name in found[0]}
    if arguments.json:
        print(json.dumps(means))
        return
    print("| figure | mean | by seed |\n|---|---|---|")
    for name, mean in means.items():
        print(f"| {name} | {mean:.3f} | {' '.join(f'{one[name]:.3f}' for one in found)} |")


if __name__ == "__main__":
    main()
