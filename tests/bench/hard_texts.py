"""What hard texts do to a filter's eye: filters fine-tuned with one kind at a time, on finished runs of the demo.

    .venv/bin/python tests/bench/hard_texts.py --root DIR [--seeds 3] [--out DIR] [--only WORDS] [--set a.b=c] [--json]

DIR/seed-N are demo runs of round 1 (tests/bench/arms.py makes them); they are read alone. Every arm fine-tunes the
filter of round 1 anew, from that run's round-0 model and with its captioner, and is measured on the world's validation
pictures, of which no model has seen any. AUC by ITM and by ITC, true texts against all others, of:

    web        alt texts as the world writes them, one true one and four others a picture; judged by the scenes
    synthetic  two texts that the captioner writes by the demo's sampler; judged by the scenes
    swapped    human captions against the same captions after one swap, where that made them false
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from blip_bootstrap.config import Config, load_config
from blip_bootstrap.labels.truth import Truth
from blip_bootstrap.world.scenes import Scene, scene_from
from blip_bootstrap.world.wording import alt_text
from blip_bootstrap.world.world import WorldConfig
from blip_training.checkpoint.store import load_med
from blip_training.data.pixels import decode_pixels
from blip_training.decoding.generate import generate
from blip_training.decoding.sampler import resolve_sampler
from blip_training.evaluate.retrieval import area_under_curve
from blip_training.feed.shards import annotated_shards
from blip_training.hard_texts.human_pictures import HumanPictures
from blip_training.hard_texts.swaps import Swapper
from blip_training.objective.micro_batches import encode_texts
from blip_training.train.finetune import finetune_filter_model

ARMS: dict[str, dict[str, float]] = {
    "none": {},
    "swapped .5": {"swapped": 0.5}, "swapped 1": {"swapped": 1.0},
    "captioner .5": {"captioner": 0.5}, "captioner 1": {"captioner": 1.0},
    "near .5": {"near": 0.5}, "near 1": {"near": 1.0},
    "all .5": {"swapped": 0.5, "captioner": 0.5, "near": 0.5}, "all 1": {"swapped": 1.0, "captioner": 1.0, "near": 1.0},
}  # fmt: skip
SETS = ("web", "synthetic", "swapped")
FIGURES = tuple(f"auc_{name}_{score}" for name in SETS for score in ("itm", "itc"))
OTHER_TEXTS, BATCH = 4, 50


@dataclass(frozen=True)
class Judged:
    """The texts of one picture: is each true of it? By the set that they are of."""

    jpg: bytes
    texts: dict[str, list[tuple[str, bool]]]


def judged_pictures(root: Path, config: Config) -> list[Judged]:
    """The validation pictures of a run's world with all their texts."""
    folder = root / "world"
    rows = [json.loads(line) for line in (folder / "validation.jsonl").read_text(encoding="utf-8").splitlines()]
    truth = Truth({}, {row["image"]: row["scene"] for row in rows})
    jpgs = [(folder / row["image"]).read_bytes() for row in rows]
    swapper = Swapper(HumanPictures(annotated_shards(root / "human")).kinds)
    scenes = [scene_from(row["scene"]) for row in rows]
    found = []
    for row, jpg, written in zip(rows, jpgs, written_texts(root, config, jpgs), strict=True):
        rng = random.Random(row["image"])
        swapped = [text for own in row["captions"] if (text := swapper.swap(own, row["captions"], rng))]
        candidates = {"web": list(web_texts(scene_from(row["scene"]), scenes, rng)), "synthetic": written}
        candidates["swapped"] = [*row["captions"], *swapped]
        judged = {
            name: [(text, truth.verdict(row["image"], "synthetic", text) == "true") for text in texts]
            for name, texts in candidates.items()
        }
        judged["swapped"] = [(text, true) for text, true in judged["swapped"] if true == (text in row["captions"])]
        found.append(Judged(jpg, judged))
    return found


def web_texts(scene: Scene, others: Sequence[Scene], rng: random.Random) -> Iterator[str]:
    """A true alt text of a scene, and others by the world's own shares."""
    kinds = {kind: share for kind, share in WorldConfig().kinds.items() if kind != "full"}
    yield alt_text("full", scene, scene, rng)
    for kind in rng.choices(list(kinds), list(kinds.values()), k=OTHER_TEXTS):
        yield alt_text(kind, scene, rng.choice(others), rng)


@torch.inference_mode()
def written_texts(root: Path, config: Config, jpgs: Sequence[bytes]) -> Iterator[list[str]]:
    """The texts that the run's captioner writes about each picture."""
    med, tokenizer = load_med(root / "round-01" / "captioner")
    sampler, count = resolve_sampler(config.caption.sampler), config.caption.candidates
    for start in range(0, len(jpgs), BATCH):
        states = med.encode_image(pixels_of(jpgs[start : start + BATCH], med.config.vision.image_size))
        seeds = [[start * 1000 + row * 10 + candidate for candidate in range(count)] for row in range(len(states))]
        for own in generate(med, tokenizer, states, config.caption.prompt, sampler, seeds):
            yield [one.text for one in own]


def pixels_of(jpgs: Sequence[bytes], size: int) -> torch.Tensor:
    return torch.stack([decode_pixels(jpg, size, "a validation picture") for jpg in jpgs])


@torch.inference_mode()
def measure(model: Path, pictures: Sequence[Judged]) -> dict[str, float]:
    """AUC by ITM and ITC of each set of texts."""
    med, tokenizer = load_med(model)
    scores: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in FIGURES}
    for start in range(0, len(pictures), BATCH):
        some = pictures[start : start + BATCH]
        states = med.encode_image(pixels_of([one.jpg for one in some], med.config.vision.image_size))
        for name in SETS:
            rows = [(at, text, true) for at, one in enumerate(some) for text, true in one.texts[name]]
            ids, mask = encode_texts(med, tokenizer, [text for _, text, _ in rows])
            of_picture = torch.tensor([at for at, _, _ in rows])
            itm = med.match(states, ids, mask, of_picture).softmax(1)[:, 1].tolist()
            itc = med.cosines(states, ids, mask, of_picture).tolist()
            for (_, _, true), by_itm, by_itc in zip(rows, itm, itc, strict=True):
                scores[f"auc_{name}_itm"][0 if true else 1].append(by_itm)
                scores[f"auc_{name}_itc"][0 if true else 1].append(by_itc)
    return {name: area_under_curve(right, wrong) for name, (right, wrong) in scores.items()}


def run_arm(out: Path, root: Path, config: Config, shares: dict[str, float], pictures: Sequence[Judged]) -> Any:
    """Fine-tune one filter and measure it; finished ones are kept."""
    done = out / "figures.json"
    if not done.exists():
        out.mkdir(parents=True, exist_ok=True)
        hard = config.filter.hard_texts.model_copy(update=shares)
        own = config.filter.model_copy(update={"hard_texts": hard})
        inputs = root / "round-00" / "model", root / "human", own, None, root / "same_pictures"
        counts = finetune_filter_model(out, *inputs, root / "round-01" / "captioner")
        texts = {name: value for name, value in counts.items() if name.startswith("hard_texts")}
        done.write_text(json.dumps({**measure(out, pictures), "itm_loss": counts["itm"], **texts}), encoding="utf-8")
    return json.loads(done.read_text(encoding="utf-8"))


def print_table(found: dict[str, dict[int, dict[str, float]]]) -> None:
    """A Markdown table: mean over the seeds (lowest to highest), an arm a row."""
    print("| arm | " + " | ".join(name.removeprefix("auc_").replace("_", ", ") for name in FIGURES) + " |")
    print("|---" * (len(FIGURES) + 1) + "|")
    for arm, by_seed in found.items():
        columns = [[one[name] for one in by_seed.values()] for name in FIGURES]
        cells = [f"{statistics.fmean(own):.3f} ({min(own):.3f}-{max(own):.3f})" for own in columns]
        print(f"| {arm} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("runs/arms"))
    parser.add_argument("--out", type=Path, default=Path("runs/hard_texts"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", metavar="WORDS", default=[""])
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="a.b=c")
    parser.add_argument("--json", action="store_true", help="print one JSON object: arm, seed, figure")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, dict[int, dict[str, float]]] = {}
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        root = arguments.root / f"seed-{seed}"
        config = load_config(root / "config.yaml", arguments.settings)
        pictures = judged_pictures(root, config)
        for arm, shares in ARMS.items():
            if not any(words in arm for words in arguments.only):
                continue
            out = arguments.out / f"seed-{seed}" / arm.replace(" ", "-")
            found.setdefault(arm, {})[seed] = run_arm(out, root, config, shares, pictures)
            print(seed, arm, found[arm][seed], file=sys.stderr, flush=True)
    if arguments.json:
        print(json.dumps(found))
    else:
        print_table(found)


if __name__ == "__main__":
    main()
