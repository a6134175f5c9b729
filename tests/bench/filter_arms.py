"""What the next model gains by each selection rule: arms of one round on the built-in world, and further rounds.

    .venv/bin/python tests/bench/filter_arms.py [--seeds 5] [--first-seed 0] [--split held_out] [--root DIR]
                                                [--arms NAME ...] [--rounds 3 --rule NAME ...] [--parallel 2] [--json]

Each seed has a world, a human set and a web of its own, and every arm of it has equal optimizer steps. All arms of a
seed share one pre-training, captioner and filter (`hard` tunes a filter of its own) and the captions with their scores.
Answers come from the truth file, by `audit sample` and its answers as a person would give them. Settings are chosen
with `--split validation`; figures to be shown come from `held_out`. What is finished is kept under the root, so that
a run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import shutil
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import torch
from scipy import stats

from blip_bootstrap.config import AnnotatedSet, Config, HardTextsConfig, RayConfig, SelectConfig, load_config
from blip_bootstrap.demo.run import run_demo
from blip_bootstrap.labels.sample import answer_by_truth, draw_sample
from blip_bootstrap.labels.truth import Truth, judged_pairs, load_truth
from blip_bootstrap.report.figures import truth_figures
from blip_bootstrap.select.pairs import select_pairs
from blip_bootstrap.storage.run_folder import labels_path
from blip_bootstrap.world.judge import Verdict
from blip_bootstrap.world.world import WorldConfig
from blip_pipelines.caption.step import caption_and_score
from blip_pipelines.ingest.annotated import ingest_annotated
from blip_pipelines.train.calls import call_evaluate, call_pretrain
from blip_training.train.finetune import finetune_filter_model

HERE = RayConfig(address="none")
FIGURES = ("cider", "tr1", "ir1", "caption_truth", "kept_truth_synthetic", "kept")
PAPER = {"strategy": "threshold"}
CONTROLS = "controls.arms=[human_only, filter_only, captioner_only, oracle]"
SHARED = {
    "none": ("round-00/model", "round-00/pairs"),
    "human": ("round-01/controls/human_only/model", ""),
    "F": ("round-01/controls/filter_only/model", "round-01/controls/filter_only/pairs"),
    "C": ("round-01/controls/captioner_only/model", "round-01/controls/captioner_only/pairs"),
    "C+F itm": ("round-01/model", "round-01/pairs"),
    "oracle": ("round-01/controls/oracle/model", "round-01/truth_pairs"),
}
"""Arms that the run itself makes: where their models and pairs lie."""


SCORES = {"web": ["itc", "logprob_per_token"], "synthetic": ["itc", "logprob"]}
"""What ranks texts where there are no labels, or too few of a source."""

Rule = Callable[[Path, Mapping[str, float]], dict[str, Any]]


def ranked(labels: Path, share: Mapping[str, float]) -> dict[str, Any]:
    """By rank, without a label: as many texts of each source as ITM keeps."""
    return {"strategy": "fraction", "score": SCORES, "keep_fraction": dict(share)}


def learned(number: int, **more: Any) -> Rule:
    """By the rule learned from `number` answers a source, cut by share as ITM's."""

    def settings(labels: Path, share: Mapping[str, float]) -> dict[str, Any]:
        file = str(labels / f"labels-{number}.parquet")
        own = {"strategy": "learned", "labels": file, "score": SCORES, "cut_by": "share", "keep_fraction": dict(share)}
        return own | more

    return settings


def half(rule: Rule) -> Rule:
    """A rule cut so that it keeps half of the synthetic texts, and as many web texts as ITM does."""
    return lambda labels, share: rule(labels, {"web": share["web"], "synthetic": 0.5})


RULES: dict[str, Rule] = {
    "rank": ranked,
    "rank half": half(ranked),
    "learned50": learned(50),
    "half50": half(learned(50)),
    "half200": half(learned(200)),
    "various50": half(learned(50, variety=0.5)),
    "informative50": half(learned(50, most_per_image=1, informative_weight=0.5)),
    "hard": lambda labels, share: PAPER,
    "weighed50": lambda labels, share: learned(50, weights="rule")(labels, {"web": 1.0, "synthetic": 1.0}),
}
"""The rule of each arm that this script trains, from the folder of labels and the share of each source ITM keeps."""


def make_base(root: Path, seed: int, settings: Sequence[str]) -> None:
    """Round 1 by the paper's rule with its control arms, in the world of `seed`, answered samples, validation set."""
    given = [CONTROLS, f"seed={seed}", "select={strategy: threshold}", *settings]
    run_demo(root, 1, given, None, lambda line: print(f"[{seed}] {line}", file=sys.stderr), WorldConfig(seed=seed))
    for number in (50, 200):
        answered(root, number, seed)
    if not (root / "validation" / "part-00000.parquet").exists():
        world = root / "world" / "validation.jsonl"
        ingest_annotated(root / "validation", world, config=AnnotatedSet(path=world))


@dataclass(frozen=True)
class Strict(Truth):
    """Truth as somebody answers who wants captions to train on: what has junk words or breaks off is wrong, too."""

    def verdict(self, name: str, source: str, caption: str) -> Verdict | None:
        found = super().verdict(name, source, caption)
        return "false" if found == "partial" else found


def answered(root: Path, number: int, seed: int, strict: bool = True) -> None:
    """A sample with `number` answers of each source, drawn by the seed."""
    kept = root / "labels" / f"{'labels' if strict else 'fits'}-{number}.parquet"
    if kept.exists():
        return
    path, truth = labels_path(root, 1), load_truth(root / "world" / "truth.jsonl")
    path.unlink(missing_ok=True)
    draw_sample(root, 1, 2 * number, seed)
    answer_by_truth(root, 1, Strict(truth.kinds, truth.scenes) if strict else truth)
    shutil.move(path, kept)


def train_arm(root: Path, name: str, split: str) -> dict[str, float]:
    """Select by the arm's rule, train the next model on it, and measure; kept under `root/arms`."""
    torch.set_num_threads(1)
    out, config = root / "arms" / name, load_config(root / "config.yaml", [])
    captions = hard_captions(root, config) if name == "hard" else root / "round-01" / "captions"
    if not (out / "selected.json").exists():
        rule = SelectConfig.model_validate(RULES[name](root / "labels", shares_of_itm(root)))
        shutil.rmtree(out / "pairs", ignore_errors=True)
        counts = select_pairs(out / "pairs", captions, config=rule)
        (out / "selected.json").write_text(json.dumps(counts, indent=1))
    if not (out / "model" / "counts.json").exists():
        (out / "model").mkdir(exist_ok=True)
        counts = call_pretrain(out / "model", root / "images", out / "pairs", root / "human", config.pretrain)
        (out / "model" / "counts.json").write_text(json.dumps(counts))
    return measured(root, out / "model", out, split, config) | truth_of(root, out / "pairs")


def measured(root: Path, model: Path, out: Path, split: str, config: Config) -> dict[str, float]:
    """The figures of a model on a split, kept under `out`."""
    file = out / split / "metrics.json"
    if not file.exists():
        call_evaluate(file.parent, model, root / split, config.evaluate)
    found: dict[str, float] = json.loads(file.read_text())
    return found


def hard_captions(root: Path, config: Config) -> Path:
    """The round's captions scored by a filter tuned with hard texts."""
    filter, captions = root / "arms" / "hard" / "filter", root / "arms" / "hard" / "captions"
    if not (filter / "config.json").exists():
        filter.mkdir(parents=True, exist_ok=True)
        tuned = config.filter.model_copy(update={"hard_texts": HardTextsConfig(swapped=0.5, captioner=0.5)})
        models = root / "round-00" / "model", root / "human"
        finetune_filter_model(filter, *models, tuned, captioner=root / "round-01" / "captioner")
    if not (captions / "part-00005.parquet").exists():
        caption_and_score(captions, root / "images", root / "round-01" / "captioner", filter, config.caption, HERE)
    return captions


def shares_of_itm(root: Path) -> dict[str, float]:
    """The share of the scored texts of each source that the paper's rule keeps."""
    counts = json.loads((root / "round-01" / "pairs" / "MANIFEST.json").read_text())["counts"]
    return {s: counts[f"kept_{s}"] / (counts[f"kept_{s}"] + counts[f"dropped_{s}"]) for s in ("web", "synthetic")}


def truth_of(root: Path, pairs: Path) -> dict[str, float]:
    """How true the kept texts are, by the truth file."""
    with duckdb.connect() as connection:
        judged = judged_pairs(load_truth(root / "world" / "truth.jsonl"), root / "images", pairs)
        found = truth_figures(connection, judged)
    kept = sum(sum(fates.get("kept", {}).values()) for fates in found["truth_counts"].values())
    return {name: found[name] for name in ("caption_truth", "kept_truth_web", "kept_truth_synthetic")} | {"kept": kept}


def shared_arms(root: Path, split: str) -> dict[str, dict[str, float]]:
    """The figures of the arms that the run itself made."""
    torch.set_num_threads(1)
    config, found = load_config(root / "config.yaml", []), {}
    for arm, (model, pairs) in SHARED.items():
        found[arm] = measured(root, root / model, root / "arms" / arm, split, config)
        found[arm] |= truth_of(root, root / pairs) if pairs else {}
    return found


def run_rounds_by(root: Path, base: Path, rule: str, seed: int, last: int, settings: Sequence[str]) -> list[Any]:
    """Rounds 1 to `last` by one rule, from the models of `base`; cider, tr1, ir1 and truth of each round."""
    if not root.exists():
        shutil.copytree(base, root, ignore=shutil.ignore_patterns("arms", "controls", "truth_pairs"))
    select = PAPER if rule == "itm" else RULES[rule](root / "labels", shares_of_itm(base))
    given = ["controls.arms=[]", f"seed={seed}", f"held_out.path={root / 'world' / 'held_out.jsonl'}",
             f"select={json.dumps(select)}", *settings]  # fmt: skip
    run_demo(root, last, given, "none", lambda line: print(f"[{seed} {rule}] {line}", file=sys.stderr),
             WorldConfig(seed=seed))  # fmt: skip
    rounds = [json.loads((root / f"round-{n:02d}" / "metrics.json").read_text()) for n in range(1, last + 1)]
    return [{name: one.get(name) for name in ("cider", "tr1", "ir1", "caption_truth")} for one in rounds]


def paired(values: Sequence[float]) -> str:
    """Mean of paired differences with its 95 % interval by Student's t."""
    if len(values) < 2:
        return f"{values[0]:+.3f}"
    half = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.fmean(values):+.3f} ± {half:.3f}"


def print_tables(found: Mapping[int, Mapping[str, Mapping[str, float]]]) -> None:
    """Markdown: mean and standard deviation of each arm, then paired differences over the seeds."""
    arms = [arm for arm in next(iter(found.values())) if all(arm in one for one in found.values())]
    print("| arm | " + " | ".join(FIGURES) + " |\n" + "|---" * (len(FIGURES) + 1) + "|")
    for arm in arms:
        cells = []
        for name in FIGURES:
            values = [one[arm][name] for one in found.values() if one[arm].get(name) is not None]
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{statistics.fmean(values):.3f}{spread}" if values else "")
        print(f"| {arm} | " + " | ".join(cells) + " |")
    rivals = [rival for rival in ("human", "C", "C+F itm") if rival in arms]
    print("\n| arm | figure | " + " | ".join(f"less {rival}" for rival in rivals) + " |\n" + "|---" * 5 + "|")
    for arm in arms:
        for name in ("cider", "tr1", "ir1"):
            cells = [paired([one[arm][name] - one[rival][name] for one in found.values()]) for rival in rivals]
            print(f"| {arm} | {name} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--split", choices=["held_out", "validation"], default="held_out")
    parser.add_argument("--root", type=Path, default=Path("runs/filter_arms"))
    parser.add_argument("--arms", nargs="*", default=list(RULES), choices=list(RULES), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=0, help="further rounds by `--rule`, instead of the arms")
    parser.add_argument("--rule", nargs="*", default=["itm", "half50"])
    parser.add_argument("--parallel", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="a.b=c")
    parser.add_argument("--json", action="store_true", help="print one JSON object: seed, arm, figure")
    arguments = parser.parse_args()
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    roots = {seed: arguments.root / f"seed-{seed}" for seed in seeds}
    for seed, root in roots.items():
        make_base(root, seed, arguments.settings)
    with ProcessPoolExecutor(arguments.parallel, multiprocessing.get_context("spawn")) as pool:
        if arguments.rounds:
            jobs = {
                (seed, rule): pool.submit(
                    run_rounds_by, arguments.root / f"rounds-{rule}-{seed}", root, rule, seed, arguments.rounds,
                    arguments.settings,
                )
                for seed, root in roots.items()
                for rule in arguments.rule
            }  # fmt: skip
            for (seed, rule), job in jobs.items():
                print(json.dumps({"seed": seed, "rule": rule, "rounds": job.result()}))
            return
        arms, split = arguments.arms, arguments.split
        trained = {(seed, arm): pool.submit(train_arm, roots[seed], arm, split) for seed in seeds for arm in arms}
        found = {
            seed: shared_arms(roots[seed], split) | {arm: trained[seed, arm].result() for arm in arms} for seed in seeds
        }
    if arguments.json:
        print(json.dumps(found))
    else:
        print_tables(found)


if __name__ == "__main__":
    main()
