"""Where `target_noise` ends over many draws of labels, in drawn worlds whose truth is known: bias, spread, intervals.

    .venv/bin/python tests/bench/target_noise.py [--draws 200] [--json]

Each world has 5,000 web texts with scores of right, wrong and half-right (counted wrong) ones drawn by their log-odds.
Each draw answers 200 of them, half above .5, and asks for 10 % noise; `best curve` is the same with the single curve of
maximum likelihood. In the worlds of human pairs 500 right and 500 wrong pairs are drawn instead, the wrong ones as
human captions or as web texts on another picture are scored.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from blip_bootstrap.select import calibrate
from blip_bootstrap.select.calibrate import Floats, bin_of, find_threshold

Rows = list[dict[str, Any]]
Kind = tuple[float, float, float]
Cut = tuple[float, float, float]
Way = Callable[[Rows, Mapping[str, Floats], float], Cut]
End = tuple[float, float, bool] | None
NUM_TEXTS = 5000


@dataclass(frozen=True)
class World:
    """Share of all texts, mean and spread of the log-odds: of right, mismatched, unrelated and half-right texts."""

    right: Kind
    mismatched: Kind
    unrelated: Kind
    half_right: Kind


WORLDS = {
    "no half-right": World((0.45, 1.5, 1.2), (0.40, -1.8, 1.5), (0.15, -0.8, 0.6), (0, 0, 1)),
    "mild": World((0.45, 1.5, 1.2), (0.35, -1.8, 1.5), (0.15, -0.8, 0.6), (0.05, 0.0, 1.5)),
    "sharp": World((0.45, 4, 2), (0.35, -4, 2.5), (0.15, -2, 1), (0.05, 1, 2.5)),
    "half-right": World((0.45, 4, 2), (0.30, -4, 2.5), (0.15, -2, 1), (0.10, 2, 3)),
    "at the floor": World((0.45, 1.7, 1.8), (0.34, -2.6, 1.8), (0.15, -0.2, 0.6), (0.06, 0.3, 2.2)),
}


def drawn_rows(rng: np.random.Generator, number: int, world: World, source: str = "web") -> Rows:
    """Answered texts of a world."""
    kinds = (world.right, world.mismatched, world.unrelated, world.half_right)
    kind = rng.choice(4, size=number, p=[share for share, _, _ in kinds])
    log_odds = rng.normal(np.array([kind[1] for kind in kinds])[kind], np.array([kind[2] for kind in kinds])[kind])
    scores = (1 / (1 + np.exp(-log_odds))).tolist()
    return [
        {"source": source, "itm_score": score, "kind": which, "answer": "no" if which else "yes"}
        for score, which in zip(scores, kind.tolist(), strict=True)
    ]


def stratified(rng: np.random.Generator, rows: Rows, size: int = 200) -> Rows:
    """As `audit sample` draws: as many above .5 as below."""
    above = [row for row in rows if row["itm_score"] >= 0.5]
    below = [row for row in rows if row["itm_score"] < 0.5]
    return [part[at] for part in (above, below) for at in rng.choice(len(part), size=size // 2, replace=False)]


def human_pairs(rng: np.random.Generator, world: World, web_texts: bool) -> Rows:
    """500 right and 500 wrong pairs; a web text on another picture is mismatched, or as unrelated as on its own."""
    apart = world.unrelated[0] + world.half_right[0] / 2 if web_texts else 0.0
    right = World((1, *world.right[1:]), *[(0, 0, 1)] * 3)
    wrong = World((0, 0, 1), (1 - apart, *world.mismatched[1:]), (apart, *world.unrelated[1:]), (0, 0, 1))
    return [row for kind in (right, wrong) for row in drawn_rows(rng, 500, kind, "human")]


def counted(rows: Rows) -> dict[str, Floats]:
    """How many of these texts lie in each bin, as calibration counts them."""
    bins = bin_of(np.array([row["itm_score"] for row in rows]))
    return {"web": np.bincount(bins, minlength=calibrate.NUM_BINS).astype(np.float64)}


def noise_above(rows: Rows, threshold: float) -> float:
    """True noise of what a threshold keeps."""
    wrong = [row["answer"] == "no" for row in rows if row["itm_score"] >= threshold]
    return sum(wrong) / len(wrong)


def by_best_curve(labels: Rows, counts: Mapping[str, Floats], target: float) -> Cut:
    """The threshold by the curve of maximum likelihood alone. Raises ValueError where it reaches none."""
    weights, _ = calibrate.fit_curve(labels)
    probability = calibrate.curve_at_bins(weights[None])[:, 0]
    kept, good = np.cumsum(counts["web"][::-1])[::-1], np.cumsum((counts["web"] * probability)[::-1])[::-1]
    reached = np.flatnonzero(1 - good / np.maximum(kept, 1e-9) <= target)
    if not len(reached):
        raise ValueError("no threshold")
    return calibrate.threshold_of(int(reached[0])), 0.0, 1.0


def measure(world: World, draws: int, target: float = 0.1) -> dict[str, dict[str, float]]:
    """By name of the way to a threshold: where it ended (`_figures`)."""
    rng = np.random.default_rng(0)
    ends: dict[str, list[End]] = {}
    for _ in range(draws):
        rows = drawn_rows(rng, NUM_TEXTS, world)
        counts, labels = counted(rows), stratified(rng, rows)
        pairs = {texts: human_pairs(rng, world, texts == "web texts") for texts in ("human texts", "web texts")}
        ways = [("best curve", by_best_curve, labels), ("posterior", by_posterior, labels)]
        ways += [(f"human pairs, {texts}", by_posterior, some) for texts, some in pairs.items()]
        for name, way, given in ways:
            ends.setdefault(name, []).append(end_of(way, given, counts, target, rows))
    return {name: _figures(some, target) for name, some in ends.items()}


def by_posterior(labels: Rows, counts: Mapping[str, Floats], target: float) -> Cut:
    """The threshold that a selection takes, with the interval that it states."""
    cut = find_threshold(labels, counts, target)
    return cut.threshold, cut.noise_low, cut.noise_high


def end_of(way: Way, labels: Rows, counts: Mapping[str, Floats], target: float, rows: Rows) -> End:
    """True noise, the same without half-right texts, and whether the stated interval holds it; None where refused."""
    try:
        threshold, low, high = way(labels, counts, target)
    except ValueError:
        return None
    noise = noise_above(rows, threshold)
    return noise, noise_above([row for row in rows if row["kind"] != 3], threshold), low <= noise <= high


def _figures(ends: Sequence[End], target: float) -> dict[str, float]:
    if not any(ends):
        return {"refused": 1.0}
    noise, others, holds = np.array([end for end in ends if end]).T
    return {
        "mean": round(float(noise.mean()), 4),
        "spread": round(float(noise.std()), 4),
        "within_5_points": round(float((abs(noise - target) <= 0.05).mean()), 3),
        "refused": round(1 - len(noise) / len(ends), 3),
        "interval_holds": round(float(holds.mean()), 3),
        "mean_without_half_right": round(float(others.mean()), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    found = {name: measure(world, options.draws) for name, world in WORLDS.items()}
    if options.json:
        print(json.dumps(found))
        return
    for name, ways in found.items():
        for way, figures in ways.items():
            print(f"{name:14} {way:25}", *(f"{figure} {value:<7}" for figure, value in figures.items()))


if __name__ == "__main__":
    main()
