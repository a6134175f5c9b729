"""The caption and match steps of data-juicer beside this package's, start-up included on both sides.

    .venv/bin/python tests/bench/data_juicer.py --install [--json] [--venv DIR] [--images 64] [--repeat 1]

Makes a virtual environment for data-juicer (2 GB, some minutes; with --venv it stays there, and is used again without
--install). Draws pictures, saves a small random BLIP once as transformers folders, and runs `dj-process`
(image_captioning_mapper, image_text_matching_filter) and `blip-bootstrap run` on them, one after the other. Both read
the pictures from disk (ours over loopback HTTP, as everything that it downloads), write one caption for each by top-k
50 with at most 128 tokens, which is what the mapper has built in, and score web and synthetic text. Prints the ratios
of wall times, medians of --repeat: with `--ray none`, as data-juicer's own executor is not Ray, and with `--ray local`,
the default, which starts Ray once there is more than one block of pictures (--images above 512).
Without --install or --venv it does nothing but say so.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

from blip_bootstrap.config import ModelConfig
from blip_bootstrap.storage.parquet import parquet_files, read_parquet
from blip_bootstrap.world.scenes import draw_scene, sample_scene
from blip_bootstrap.world.wording import describe, vocabulary
from blip_training.checkpoint.store import save_captioner, save_filter
from blip_training.data.tokenizer import Tokenizer
from blip_training.model.med import Med

PINS = ("py-data-juicer==1.6.1", "transformers==4.57.1", "ray==2.55.1", "torch==2.13.0", "pandas<3")
PICTURE_PX, MAX_NEW_TOKENS = 256, 128
MODEL = {
    "vision": {"image_size": 224, "patch_size": 16, "width": 192, "depth": 6, "heads": 3},
    "text": {"width": 192, "depth": 4, "heads": 3, "intermediate": 768, "max_positions": 256},
    "embed_dim": 64,
}
END_BIAS = 2.6
"""Of [SEP] in the random LM head: captions then end after some ten tokens, as a trained captioner's do."""

QUIET = {
    "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--install", action="store_true", help="make data-juicer's virtual environment")
    parser.add_argument("--venv", type=Path, help="where it lies, or is to be made and kept")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=1, help="runs of each side, alternating")
    arguments = parser.parse_args()
    if not arguments.install and not arguments.venv:
        print("skipped: give --install to make data-juicer's virtual environment (2 GB), or --venv DIR that has it")
        return
    with tempfile.TemporaryDirectory(prefix="dj-") as scratch:
        venv = arguments.venv or Path(scratch) / "venv"
        if arguments.install:
            install(venv)
        found = measure(Path(scratch), venv.absolute(), arguments.images, arguments.repeat)
    if arguments.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:22} {value}")


def install(venv: Path) -> None:
    """A virtual environment with the pinned data-juicer; nothing is done where it has one already."""
    if (venv / "bin" / "dj-process").exists():
        return
    run([sys.executable, "-m", "venv", str(venv)], "making the virtual environment")
    run([str(venv / "bin" / "pip"), "install", "-q", *PINS], "installing data-juicer")


def measure(scratch: Path, venv: Path, num_images: int, repeat: int) -> dict[str, Any]:
    draw(scratch / "pictures", num_images)
    save_models(scratch)
    theirs: list[float] = []
    ours: dict[str, list[float]] = {"none": [], "local": []}
    for at in range(repeat):
        theirs.append(seconds(run_data_juicer, scratch, venv, at))
        for ray, taken in ours.items():
            taken.append(seconds(run_ours, scratch, at, ray))
    their_s, our_s, ray_s = map(statistics.median, (theirs, *ours.values()))
    return {
        "images": num_images,
        "ratio": round(their_s / our_s, 2),
        "ratio_local": round(their_s / ray_s, 2),
        "data_juicer_s": round(their_s, 2),
        "ours_s": round(our_s, 2),
        "ours_local_s": round(ray_s, 2),
        "data_juicer_words": their_words(scratch / "dj-0.jsonl"),
        "ours_words": our_words(scratch / "run-none-0"),
        "cpus": os.cpu_count(),
        "load_1min": round(os.getloadavg()[0], 2),
        "data_juicer_versions": versions(venv / "bin" / "python", "py-data-juicer", "transformers", "torch", "ray"),
        "our_versions": versions(Path(sys.executable), "blip-bootstrap", "transformers", "torch", "ray"),
        "machine": f"{platform.machine()}, python {platform.python_version()}",
    }


def draw(folder: Path, count: int) -> None:
    """Pictures of scenes with a text each: a list for each side."""
    folder.mkdir()
    rng, rows = random.Random(0), []
    for number in range(count):
        scene = sample_scene(rng, 1 + number % 3)
        name = f"{number:05d}.jpg"
        draw_scene(scene, PICTURE_PX).save(folder / name, quality=95)
        rows.append((name, describe(scene, rng)))
    lines = "".join(f"{name}\t{text}\n" for name, text in rows)
    (folder.parent / "list.tsv").write_text(f"url\tcaption\n{lines}")
    samples = [{"text": f"<__dj__image> {text} <|__dj__eoc|>", "images": [str(folder / name)]} for name, text in rows]
    (folder.parent / "list.jsonl").write_text("".join(f"{json.dumps(sample)}\n" for sample in samples))


def save_models(scratch: Path) -> None:
    """A small random captioner and filter, as transformers folders."""
    letters = [prefix + letter for letter in "abcdefghijklmnopqrstuvwxyz0123456789" for prefix in ("", "##")]
    pieces = dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *vocabulary(), *letters])
    tokenizer = Tokenizer(list(pieces))
    torch.manual_seed(0)
    med = Med(ModelConfig.model_validate(MODEL), tokenizer.num_tokens)
    with torch.no_grad():
        med.text.lm_head.bias[tokenizer.sep_id] = END_BIAS
    save_captioner(scratch / "captioner", med, tokenizer)
    save_filter(scratch / "filter", med, tokenizer)


def run_data_juicer(scratch: Path, venv: Path, number: int) -> None:
    limits = {"accelerator": "cpu", "memory": "1GB"}
    recipe = {
        "project_name": "bench",
        "dataset_path": str(scratch / "list.jsonl"),
        "export_path": str(scratch / f"dj-{number}.jsonl"),
        "np": os.cpu_count(),
        "use_cache": False,
        "process": [
            {"image_captioning_mapper": {"hf_img2seq": str(scratch / "captioner"), "caption_num": 1, **limits}},
            {"image_text_matching_filter": {"hf_blip": str(scratch / "filter"), "min_score": 0.0, **limits}},
        ],
    }
    (scratch / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    run([str(venv / "bin" / "dj-process"), "--config", str(scratch / "recipe.yaml")], "data-juicer", scratch)
    rows = (scratch / f"dj-{number}.jsonl").read_text().count("\n")
    check("data-juicer", rows, (scratch / "list.jsonl").read_text().count("\n"))


def run_ours(scratch: Path, number: int, ray: str) -> None:
    """A round on a root of its own; `ray` is none, as data-juicer's executor here is not Ray either, or local."""
    sampler = {"preset": "nucleus", "top_p": 1.0, "top_k": 50, "min_tokens": 0, "max_tokens": 1 + MAX_NEW_TOKENS}
    config = {
        "root": str(scratch / f"run-{ray}-{number}"),
        "download": {"urls": [{"path": str(scratch / "list.tsv"), "serve": str(scratch / "pictures")}]},
        "captioner": {"checkpoint": str(scratch / "captioner")},
        "filter": {"checkpoint": str(scratch / "filter")},
        "caption": {"prompt": "", "sampler": sampler, "device": "cpu"},
        "select": {"itm_threshold": 0.0, "drop_flagged": False},
        "pretrain": {"optimizer": {"steps": 0}},
    }
    (scratch / "config.yaml").write_text(yaml.safe_dump(config))
    command = [str(Path(sys.executable).with_name("blip-bootstrap")), "run", "--round", "1"]
    run([*command, "--ray", ray, "--config", str(scratch / "config.yaml")], "blip-bootstrap", scratch)
    pairs = scratch / f"run-{ray}-{number}" / "round-01" / "pairs"
    check("blip-bootstrap", sum(len(read_parquet(file)) for file in parquet_files(pairs)), num_lines(scratch))


def num_lines(scratch: Path) -> int:
    return (scratch / "list.jsonl").read_text().count("\n")


def check(side: str, rows: int, num_images: int) -> None:
    """Both sides must have scored the web text and one caption of every picture."""
    if rows != 2 * num_images:
        raise SystemExit(f"{side}: {rows} texts for {num_images} pictures, {2 * num_images} were expected")


def run(command: list[str], what: str, folder: Path | None = None) -> None:
    """Run to the end; on failure stop with one line, the last of what it said."""
    done = subprocess.run(command, cwd=folder, env=os.environ | QUIET, capture_output=True, text=True)
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise SystemExit(f"{what} failed with {done.returncode}: {said[-1] if said else 'it said nothing'}")


def seconds(work: Callable[..., None], *arguments: Any) -> float:
    started = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - started


def their_words(file: Path) -> float:
    """Mean words of the texts that data-juicer has, web and synthetic."""
    texts = [json.loads(line)["text"] for line in file.read_text().splitlines()]
    return mean_words([text.replace("<__dj__image>", "").replace("<|__dj__eoc|>", "") for text in texts])


def our_words(root: Path) -> float:
    tables = [read_parquet(file, ["caption"]) for file in parquet_files(root / "round-01" / "captions")]
    return mean_words([text for table in tables for text in table["caption"].to_pylist()])


def mean_words(texts: list[str]) -> float:
    return round(sum(len(text.split()) for text in texts) / len(texts), 2)


def versions(python: Path, *packages: str) -> str:
    code = "import sys, importlib.metadata as m; print(*(f'{p} {m.version(p)}' for p in sys.argv[1:]), sep=', ')"
    return subprocess.run([str(python), "-c", code, *packages], capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
