"""How near `blip-bootstrap plan` comes: plans a round on the built-in world, then runs it, and prints both.

    .venv/bin/python tests/bench/plan.py [--json] [--images 1500] [--sample 256]

Every step is planned and run: download, annotated sets, both fine-tunes, captioning, selection, pre-training,
evaluation and one control arm. Round 0, which the run makes first, is left out of the run's figures; Ray's start is
in those of the download. Each line has the predicted and the actual seconds, rows and bytes, and predicted / actual.
Nothing is trained before: the plan knows no model, as at a user's first run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from blip_bootstrap.demo.settings import demo_config
from blip_bootstrap.storage.run_folder import manifests
from blip_bootstrap.world.server import WorldServer
from blip_bootstrap.world.world import WorldConfig, make_world

MADE = {
    "download": "images", "human": "human", "held_out": "held_out", "same pictures": "same_pictures",
    "captioner": "round-01/captioner", "filter": "round-01/filter", "caption + score": "round-01/captions",
    "select": "round-01/pairs",
    "pretrain": "round-01/model", "evaluate": "round-01/evaluation", "controls": "round-01/controls",
    "report": "round-01/report.html",
}  # fmt: skip
"""What each planned step leaves."""

ANNOTATED = {"num_human": 130, "num_held_out": 400, "num_validation": 1, "num_vision": 0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--sample", type=int, default=256)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="plan-") as folder:
        found = measure(Path(folder), arguments.images, arguments.sample)
    if arguments.json:
        print(json.dumps(found))
        return
    for step, figures in found["steps"].items():
        print(f"{step:16}" + "".join(f"  {name} {value:,}" for name, value in figures.items()))
    print({name: value for name, value in found.items() if name != "steps"})


def measure(folder: Path, num_images: int, sample: int) -> dict[str, Any]:
    world = make_world(folder / "world", WorldConfig.model_validate({"num_web": num_images, **ANNOTATED}))
    num_rows = len(world.url_list.read_text().splitlines()) - 1
    config = demo_config(folder / "run", world) | {"controls": {"arms": ["human_only"]}}
    config["pretrain"]["optimizer"] |= {"steps": 300}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    asked = ["plan", "--images", str(num_rows), "--sample", str(sample), "--json"]
    with WorldServer(world.pictures, world.port):
        plan_s, printed = command([*asked, "--config", str(folder / "config.yaml")])
    with WorldServer(world.pictures, world.port):  # anew: a busy page is so for the first visit
        run_s, _ = command(["run", "--round", "1", "--config", str(folder / "config.yaml")])
    planned = json.loads(printed)
    made = {one["name"]: one for one in manifests(folder / "run")}
    start, *others = planned["steps"]
    others[0]["seconds"] += start["seconds"]  # a run's first step starts Ray
    steps = {row["step"]: beside(row, made.get(MADE.get(row["step"], ""))) for row in others}
    round_0_s = sum(one["seconds"] for name, one in made.items() if name.startswith("round-00"))
    total = ratio("seconds", planned["all"]["seconds"], run_s - round_0_s)
    return {
        "images": num_rows,
        "steps": steps | {"all": total},
        "plan_took_s": round(plan_s, 1),
        "cpus": os.cpu_count(),
        "load_1min": round(os.getloadavg()[0], 2),
        "machine": f"{platform.machine()}, python {platform.python_version()}, torch {torch.__version__}",
    }


def command(arguments: list[str]) -> tuple[float, str]:
    """Seconds and standard output of a blip-bootstrap command; its failure ends this."""
    started = time.perf_counter()
    program = [sys.executable, "-m", "blip_bootstrap", *arguments]
    done = subprocess.run(program, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"blip-bootstrap {arguments[0]} failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return time.perf_counter() - started, done.stdout


def beside(row: dict[str, Any], made: dict[str, Any] | None) -> dict[str, Any]:
    """The predicted figures of a step and those of what was made."""
    if made is None:
        return {"seconds": round(row["seconds"], 2)}
    actual_rows = sum(file.get("rows", 0) for file in made["files"])
    figures = ratio("seconds", row["seconds"], made["seconds"])
    figures |= ratio("bytes", row["size_bytes"], sum(file["bytes"] for file in made["files"]))
    return figures | (ratio("rows", row["rows"], actual_rows) if row["rows"] else {})


def ratio(name: str, predicted: float, actual: float) -> dict[str, Any]:
    shown = (round(predicted, 2), round(actual, 2), round(predicted / actual, 2) if actual else None)
    return dict(zip((name, f"actual_{name}", f"{name}_ratio"), shown, strict=True))


if __name__ == "__main__":
    main()
