"""Which change keeps ITM from resting at 0.6365: round 0 of the built-in world, one setting changed at a time.

    .venv/bin/python tests/bench/itm_collapse.py [--root DIR] [--steps 700] [--only WORDS] [--json]

Every arm trains the demo's model on the same pairs with the same seed. `itm` is the loss of the last logged steps
(0.6365: nothing learned), `auc` and `tr1` are of the validation pictures. Finished arms are kept under the root.
`--only` takes the arms whose names contain one of the words.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from blip_bootstrap.config import EvaluateConfig, PretrainConfig, load_config
from blip_bootstrap.demo.run import run_demo
from blip_bootstrap.world.world import WorldConfig
from blip_training.checkpoint.store import save_med
from blip_training.evaluate.evaluate import evaluate_model
from blip_training.runtime.workers import this_worker
from blip_training.train.pretrain import pretrain_model, start_model

PAPER: dict[str, Any] = {"itm": {"uniform_share": 0.0, "mask_duplicate_texts": False}}
HEAD = "itm_head"
"""No setting of the training: what the start of the ITM head is multiplied by."""
ARMS: dict[str, dict[str, Any]] = {
    "demo's setting": {},
    "no uniform negatives": {"itm": {"uniform_share": 0.0}},
    "equal texts as negatives of ITM": {"itm": {"mask_duplicate_texts": False}},
    "equal texts as negatives of ITC": {"itc": {"equal_texts": "negatives"}},
    "equal texts masked in ITC": {"itc": {"equal_texts": "masked"}},
    "queue of 2048": {"itc": {"queue_size": 2048}},
    "queue of 2048, equal texts masked in ITC": {"itc": {"queue_size": 2048, "equal_texts": "masked"}},
    "queue of 2048, equal texts as negatives of ITC": {"itc": {"queue_size": 2048, "equal_texts": "negatives"}},
    "ITM head starts at a tenth": {HEAD: 0.1},
    "ViT from random weights": {"model": {"vision": {"start": None}}},
    "ViT from random weights, neither of the ITM settings": {"model": {"vision": {"start": None}}, **PAPER},
    "the same, ITM head starts at a tenth": {"model": {"vision": {"start": None}}, **PAPER, HEAD: 0.1},
    "the same, ITC added to the ITM logit": {"model": {"vision": {"start": None}, "itc_in_itm": True}, **PAPER},
}


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with `changes` put in, section by section."""
    both = dict(base)
    for name, value in changes.items():
        both[name] = merge(both[name], value) if isinstance(value, dict) else value
    return both


def save_start(folder: Path, config: PretrainConfig, scale: float) -> Path:
    """The untrained model of the configuration, its ITM head times `scale`."""
    med, tokenizer = start_model(config, None, this_worker(config.optimizer.device))
    with torch.no_grad():
        for parameter in med.itm_head.parameters():
            parameter.mul_(scale)
    folder.mkdir(exist_ok=True)
    save_med(folder, med, tokenizer, {"pretrained_steps": 0})
    return folder


def run_arm(out: Path, root: Path, base: PretrainConfig, changes: dict[str, Any]) -> dict[str, float]:
    """Train one arm, and measure it on the validation pictures."""
    if not (out / "figures.json").exists():
        settings = {name: value for name, value in changes.items() if name != HEAD}
        config = PretrainConfig.model_validate(merge(base.model_dump(mode="json"), settings))
        out.mkdir(parents=True, exist_ok=True)
        start = None
        if HEAD in changes:
            start = save_start(out / "start", config, changes[HEAD])
            config = config.model_copy(update={"start_from": "previous"})
        folders = (root / "images", root / "round-00" / "pairs", root / "human")
        told = pretrain_model(out, *folders, config, previous=start)
        found = evaluate_model(out, root / "held_out", EvaluateConfig(sampler={"preset": "greedy"})).metrics
        figures = {"itm": told["itm"], "itc": told["itc"], "auc": found["itm_auc"], "tr1": found["tr1"]}
        (out / "figures.json").write_text(json.dumps(figures), encoding="utf-8")
    figures = json.loads((out / "figures.json").read_text(encoding="utf-8"))
    return dict(figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("runs/itm_collapse"))
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--only", nargs="+", metavar="WORDS", default=[""])
    parser.add_argument("--json", action="store_true", help="print one JSON object: arm, figure")
    arguments = parser.parse_args()
    root: Path = arguments.root
    given = [f"pretrain.optimizer.steps={arguments.steps}", f"held_out.path={root / 'world' / 'validation.jsonl'}"]
    run_demo(root, 0, given, None, lambda line: print(line, file=sys.stderr), WorldConfig(seed=0))
    base = load_config(root / "config.yaml").pretrain
    found = {}
    for arm, changes in ARMS.items():
        if not any(words in arm for words in arguments.only):
            continue
        found[arm] = run_arm(root / "arms" / arm.replace(" ", "-"), root, base, changes)
        print(arm, found[arm], file=sys.stderr, flush=True)
    if arguments.json:
        print(json.dumps(found))
        return
    print("| | ITM loss | ITC loss | ITM AUC | TR@1 |\n|---|---|---|---|---|")
    for arm, figures in found.items():
        print(f"| {arm} | {figures['itm']:.3f} | {figures['itc']:.3f} | {figures['auc']:.3f} | {figures['tr1']:.3f} |")


if __name__ == "__main__":
    main()
