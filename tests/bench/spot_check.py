"""Spot checks and target noise against a truth that is known: the Flickr8k web, or the built-in world.

    .venv/bin/python tests/bench/spot_check.py --root runs/flickr8k --truth web_truth.tsv [--json]

For each of several seeds, 200 web texts of the round are drawn and answered by the truth file instead of by people.
Prints how often the estimate of noise holds the true ratio, and the true noise of what a selection with
`target_noise` keeps, calibrated on those answers and, where `audit calibrate` was run, on human pairs. The run is not
changed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from pathlib import Path

from blip_bootstrap.config import SelectConfig
from blip_bootstrap.errors import InputError
from blip_bootstrap.labels.estimates import estimates
from blip_bootstrap.labels.sample import answer_by_truth, draw_sample
from blip_bootstrap.labels.truth import Truth, judged_pairs, load_truth
from blip_bootstrap.select.pairs import select_pairs
from blip_bootstrap.storage.run_folder import round_folder

Figures = dict[str, object]


def kept_by_kind(root: Path, pairs: Path, truth: Truth) -> dict[str, int]:
    """Kept web texts by what the truth file calls them: what a cut leaves of each kind of noise."""
    rows = judged_pairs(truth, root / "images", pairs).to_pylist()
    return dict(Counter(truth.kinds.get(row["name"], "") for row in rows if row["source"] == "web" and row["kept"]))


def true_noise(root: Path, pairs: Path, truth: Truth, kept_only: bool) -> float:
    """False texts of the web texts of `pairs` whose truth is known; `partial` counts as true, as in spot checks."""
    rows = [row for row in judged_pairs(truth, root / "images", pairs).to_pylist() if row["source"] == "web"]
    verdicts = [row["verdict"] for row in rows if row["verdict"] and (row["kept"] or not kept_only)]
    return verdicts.count("false") / len(verdicts) if verdicts else float("nan")


def beside(root: Path, number: int, folder: Path) -> Path:
    """A run that shares the round's tables, and has labels of its own."""
    here = folder / "run"
    round_folder(here, number).mkdir(parents=True)
    for name in ("images", *(f"round-{number:02d}/{table}" for table in ("captions", "pairs"))):
        (here / name).symlink_to((root / name).resolve())
    return here


def check_estimates(here: Path, number: int, truth: Truth, seed: int, size: int) -> tuple[Path, Figures]:
    """One spot check: its labels, and for noise of all and of the kept texts share, interval and truth."""
    labels = draw_sample(here, number, size, seed, ["web"])
    answer_by_truth(here, number, truth)
    pairs = round_folder(here, number) / "pairs"
    found: Figures = {}
    for one in estimates(here, number):
        if one.name in ("noise", "noise_kept") and one.source == "web" and one.low is not None and one.high is not None:
            true = true_noise(here, pairs, truth, one.name == "noise_kept")
            found |= {one.name: [one.share, one.low, one.high], f"{one.name}_true": true}
            found[f"{one.name}_held"] = one.low <= true <= one.high
    return labels, found


def select_by(here: Path, number: int, truth: Truth, labels: Path, target: float) -> Figures:
    """A selection of web texts by target noise: its cut, what it expected, and what is true."""
    config = SelectConfig(strategy="target_noise", labels=labels, target_noise=target, sources=("web",))
    with tempfile.TemporaryDirectory() as out:
        try:
            counts = select_pairs(Path(out), round_folder(here, number) / "captions", config=config)
        except InputError as error:
            return {"refused": str(error).split(": ", 1)[-1]}
        names = ("itm_threshold", "expected_noise", "expected_noise_low", "expected_noise_high", "kept")
        found = {name: counts[name] for name in names} | {"noise_true": true_noise(here, Path(out), truth, True)}
        return found | {"kept_by_kind": kept_by_kind(here, Path(out), truth)}


def measure(root: Path, number: int, truth: Truth, seeds: int, size: int, target: float) -> Figures:
    checks, cuts = [], []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            here = beside(root, number, Path(folder))
            labels, found = check_estimates(here, number, truth, seed, size)
            checks.append(found)
            cuts.append(select_by(here, number, truth, labels, target))
    human = root / "labels" / f"human-round-{number:02d}.parquet"
    return {
        "seeds": seeds,
        "noise_held": sum(bool(one["noise_held"]) for one in checks),
        "noise_kept_held": sum(bool(one.get("noise_kept_held")) for one in checks),
        "noise_true": checks[0]["noise_true"],
        "noise_kept_true": checks[0].get("noise_kept_true"),
        "first_check": checks[0],
        "by_sample": [one.get("noise_true") for one in cuts],
        "first_cut": cuts[0],
        "by_human_pairs": select_by(root, number, truth, human, target) if human.is_file() else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--round", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--size", type=int, default=200)
    parser.add_argument("--target", type=float, default=0.1)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    truth = load_truth(options.truth)
    found = measure(options.root, options.round, truth, options.seeds, options.size, options.target)
    if options.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:16} {value}")


if __name__ == "__main__":
    main()
