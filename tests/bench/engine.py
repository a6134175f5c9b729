"""The CapFilt engine beside plain transformers: captions and ITM scores of the same images, in one run.

    .venv/bin/python tests/bench/engine.py [--json] [--size base] [--images 32] [--rounds 3] [--threads 2]
    .venv/bin/python tests/bench/engine.py --device cuda --images 1024 --their-batch 64 --threads 8 --no-ray

Random weights; captioner and filter are two models, as after fine-tuning. From encoded pictures to rows, per image: one
nucleus caption of exactly 20 tokens ([DEC] and the prompt counted) and the ITM score of a web text and of that caption.
Ours is `CaptionWorker` as a run without Ray sets it up (parts of a batch side by side on the --threads cores), which
gives ITC scores too; theirs `generate` at batch 8 (--their-batch) with --threads of torch's threads, then
`BlipForImageTextRetrieval` once for each text. The sides alternate; medians of the rounds, each shown as it ends.
bfloat16 is measured where the device multiplies matrices faster in it than in float32 (or with --bf16), and is null
elsewhere.

`gemm_share_*`: useful flops an image / (seconds an image x matmul peak). Useful: two flops for each weight and row it
must meet (patches and [CLS] through the ViT, once for each of the two models; keys and values of the image once for
each; real tokens alone, no padding; the LM head where a token is drawn) and the products of attention. Few queries do
without keys and values on a CPU: what ours really does is 7 % less than that for the base size, and the share can pass
1. The peak is that of the best of three shapes of the ViT's own, measured before each round.
`candidates10_cost`: seconds for ten candidates an image, each scored, over those for one.
`ray_overhead`: what three more blocks of 512 images take the Ray Data job, over what they take the same worker in a
bare loop (reading, captioning, writing; small model), minus 1; `ray_startup_s` is the job of one block less
its bare loop: actors, models, and the merge of the file.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "HF_HUB_OFFLINE": "1"}
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
sys.path[:0] = [str(Path(__file__).parents[2] / part) for part in (".", "training", "pipelines")]

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

from blip_bootstrap.config import CaptionConfig, ModelConfig, RayConfig, SamplerConfig, TextConfig, VisionConfig  # noqa: E402
from blip_bootstrap.schemas.tables import CAPTIONS, IMAGES  # noqa: E402
from blip_bootstrap.storage.parquet import rows_to_table, write_parquet  # noqa: E402
from blip_pipelines.caption import blocks, step  # noqa: E402
from blip_pipelines.caption.worker import CaptionWorker  # noqa: E402
from blip_training.checkpoint.store import save_captioner, save_filter  # noqa: E402
from blip_training.data.tokenizer import Tokenizer  # noqa: E402
from blip_training.model.med import Med  # noqa: E402
from tests.support.plain_blip import NUM_TOKENS, PROMPT, Theirs  # noqa: E402

WEB_WORDS = (6, 12)
SIZES = {
    "base": ModelConfig(vision=VisionConfig(image_size=384)),
    "small": ModelConfig(
        vision=VisionConfig(image_size=96, width=192, depth=6, heads=6),
        text=TextConfig(width=192, depth=4, heads=6, intermediate=768),
    ),
    "tiny": ModelConfig(
        vision=VisionConfig(image_size=32, patch_size=8, width=32, depth=2, heads=4),
        text=TextConfig(width=32, depth=2, heads=4, intermediate=64),
    ),
}
VOCABULARY = {"base": 30_522, "small": 30_522, "tiny": 500}
FILES = (1, 4)
"""Blocks of the two files of images whose times are compared."""


def vocabulary(size: int) -> list[str]:
    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *PROMPT.split()]
    return [*known, *(f"w{i}" for i in range(size - len(known)))]


def save_models(folder: Path, size: str) -> tuple[Path, Path]:
    """A random captioner and a random filter, in folders that both sides load."""
    tokenizer = Tokenizer(vocabulary(VOCABULARY[size]))
    for seed, (name, save) in enumerate((("captioner", save_captioner), ("filter", save_filter))):
        torch.manual_seed(seed)
        save(folder / name, Med(SIZES[size], tokenizer.num_tokens), tokenizer)
    return folder / "captioner", folder / "filter"


def draw_rows(count: int, size: int) -> list[dict[str, Any]]:
    """Rows of the table `images`: coloured noise as JPEG, and a web text of 6 to 12 words."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(count):
        pixels = rng.integers(0, 255, (size // 8, size // 8, 3), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels).resize((size * 5 // 4, size), Image.Resampling.BICUBIC).save(stream, "JPEG")
        text = " ".join(f"w{j}" for j in rng.integers(0, 400, rng.integers(*WEB_WORDS, endpoint=True)))
        row = {"key": f"{i:010d}", "status": "success", "caption": text, "jpg": stream.getvalue()}
        rows.append(dict.fromkeys(IMAGES.schema.names) | row)
    return rows


def our_worker(models: tuple[Path, Path], arguments: argparse.Namespace, **settings: Any) -> CaptionWorker:
    """The engine as a run in one process sets it up on so many cores: parts of a batch side by side, a thread each."""
    sampler = {"min_tokens": NUM_TOKENS, "max_tokens": NUM_TOKENS} | settings.pop("sampler", {})
    config = CaptionConfig(prompt=PROMPT, device=arguments.device, sampler=SamplerConfig(**sampler), **settings)
    each = blocks.num_threads(config)
    return CaptionWorker(*models, config, each, max(1, arguments.threads // each))


def timed_ours(worker: CaptionWorker, table: pa.Table) -> float:
    """Seconds of the engine with its own number of torch's threads, which are the whole process's."""
    threads = torch.get_num_threads()
    torch.set_num_threads(blocks.num_threads(worker.config))
    try:
        return timed(lambda: worker(table))
    finally:
        torch.set_num_threads(threads)


def parity(ours: CaptionWorker, theirs: Theirs, rows: list[dict[str, Any]]) -> dict[str, float]:
    """Greedy captions token for token, and both models' ITM scores of the same texts."""
    made = ours(rows_to_table(rows, IMAGES)).to_pylist()
    pixels = theirs.pixels(rows)
    with torch.inference_mode():
        written = theirs.write(pixels, do_sample=False)
        differences = []
        for source in ("web", "synthetic"):
            own = [row for row in made if row["source"] == source]
            their_scores = theirs.match(pixels, [row["caption"] for row in own])
            differences += [abs(row["itm_score"] - score) for row, score in zip(own, their_scores, strict=True)]
    same = [row["caption"] == text for row, text in zip(own, written, strict=True)]
    return {"greedy_captions_equal": sum(same) / len(same), "itm_difference": max(differences)}


def useful_gflop(config: ModelConfig, num_patches: int, web_tokens: float, num_vocabulary: int) -> float:
    """Of one image: see the head of this file. Tokens of a text count [CLS] and [SEP]."""
    vision, text = config.vision, config.text
    v, t, states = vision.width, text.width, num_patches + 1
    block = 2 * states * 12 * v * v + 4 * states * states * v
    encode = 2 * num_patches * 3 * vision.patch_size**2 * v + vision.depth * block
    keys_values = text.depth * 2 * states * 2 * v * t

    def read(tokens: float, seen: float, grounded: bool = True) -> float:
        weights = 4 * t * t + 2 * t * text.intermediate + (2 * t * t if grounded else 0)
        attended = 4 * tokens * seen * t + (4 * tokens * states * t if grounded else 0)
        return text.depth * (2 * tokens * weights + attended)

    start = 1 + len(PROMPT.split())
    drawn, synthetic = NUM_TOKENS - start, NUM_TOKENS - start + 2
    written = read(NUM_TOKENS - 1, NUM_TOKENS / 2) + drawn * 2 * (t * t + t * num_vocabulary)
    matched = sum(read(n, n) + read(n, n, grounded=False) for n in (web_tokens, synthetic))
    return (2 * (encode + keys_values) + written + matched) / 1e9


def matmul_peak(config: ModelConfig, dtype: torch.dtype, device: str, seconds: float = 0.4) -> float:
    """GFLOP/s of the best of three shapes, torch's own linear layer; on a GPU of eight times as many rows."""
    width, best = config.vision.width, 0.0
    larger = 8 if device == "cuda" else 1
    with torch.inference_mode():
        for rows, inner, outer in ((4096, width, 4 * width), (4096, 4 * width, width), (2048, 2048, 2048)):
            x = torch.randn(rows * larger, inner, device=device).to(dtype)
            w = torch.randn(outer, inner, device=device).to(dtype)
            product = partial(torch.nn.functional.linear, x, w)
            timed(product, device)
            times: list[float] = []
            while sum(times) < seconds:
                times.append(timed(product, device))
            best = max(best, 2 * rows * larger * inner * outer / statistics.median(times) / 1e9)
    return best


def timed(work: Callable[[], object], device: str = "cpu") -> float:
    """Seconds until it is done; what ends in numbers on the CPU needs no `device`."""
    started = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def compare(models: tuple[Path, Path], arguments: argparse.Namespace, dtype: str) -> dict[str, float]:
    """Both sides in one dtype: seconds an image and the peak, medians of the rounds."""
    images, device, config = arguments.images, arguments.device, SIZES[arguments.size]
    rows = draw_rows(images, config.vision.image_size)
    batch_size = images if device == "cpu" else 0
    ours = our_worker(models, arguments, dtype=dtype, batch_size=batch_size)
    torch.set_num_threads(arguments.threads)
    theirs = Theirs(*models, getattr(torch, dtype), device)
    few = rows[: arguments.their_batch]
    found: dict[str, list[float]] = {"peak": [], "ours": [], "theirs": []}
    timed_ours(ours, rows_to_table(rows[:2], IMAGES))
    theirs(rows[:2])
    for _ in range(arguments.rounds):
        found["peak"].append(matmul_peak(config, getattr(torch, dtype), device))
        found["ours"].append(timed_ours(ours, rows_to_table(rows, IMAGES)) / images)
        found["theirs"].append(timed(partial(theirs, few)) / len(few))
        last = ", ".join(f"{name} {values[-1]:.5g}" for name, values in found.items())
        print(f"{dtype}: {last}", file=sys.stderr, flush=True)
    return {name: statistics.median(values) for name, values in found.items()}


def dtype_figures(models: tuple[Path, Path], arguments: argparse.Namespace) -> dict[str, float | None]:
    """Both sides in float32, and in bfloat16 where the processor has it."""
    config, num_vocabulary = SIZES[arguments.size], VOCABULARY[arguments.size] + 2
    num_patches = (config.vision.image_size // config.vision.patch_size) ** 2
    gflop = useful_gflop(config, num_patches, statistics.mean(WEB_WORDS) + 2, num_vocabulary)
    exact = compare(models, arguments, "float32")
    rough = compare(models, arguments, "bfloat16") if arguments.bf16 or has_bfloat16(config, arguments.device) else None
    found: dict[str, float | None] = {
        "ratio_fp32": exact["theirs"] / exact["ours"],
        "ratio_bf16": exact["theirs"] / rough["ours"] if rough else None,
        "ratio_bf16_bf16": rough["theirs"] / rough["ours"] if rough else None,
        "useful_gflop": gflop,
    }
    for name, figures in (("fp32", exact), ("bf16", rough)):
        found[f"gemm_share_{name}"] = gflop / (figures["ours"] * figures["peak"]) if figures else None
        found |= {f"{side}_{name}": figures[side] if figures else None for side in ("ours", "theirs", "peak")}
    return found


def has_bfloat16(config: ModelConfig, device: str) -> bool:
    """Whether matrix products in bfloat16 are faster here."""
    return matmul_peak(config, torch.bfloat16, device) > 1.2 * matmul_peak(config, torch.float32, device)


def candidates_cost(models: tuple[Path, Path], arguments: argparse.Namespace) -> float:
    """Seconds of ten candidates an image, each scored, over those of one."""
    images = max(1, arguments.images // 4)
    table = rows_to_table(draw_rows(images, SIZES[arguments.size].vision.image_size), IMAGES)
    one, ten = (our_worker(models, arguments, candidates=count, batch_size=images) for count in (1, 10))
    ratios = [timed_ours(ten, table) / timed_ours(one, table) for _ in range(arguments.rounds)]
    return statistics.median(ratios)


def ray_figures(folder: Path, size: str, rounds: int) -> dict[str, float]:
    """The Ray Data job beside a bare loop over the same files, one worker each."""
    from blip_pipelines.cluster.session import connect

    models, image_size = save_models(folder / "models", size), SIZES[size].vision.image_size
    rows = draw_rows(sum(FILES) * blocks.BLOCK_ROWS, image_size)
    for number, num_blocks in enumerate(FILES):
        path = folder / str(number) / "part-00000.parquet"
        write_parquet(path, rows_to_table(rows[: num_blocks * blocks.BLOCK_ROWS], IMAGES), IMAGES)
    config = CaptionConfig(device="cpu", num_actors=1, prompt=PROMPT)
    ray_config = RayConfig(object_store_bytes=200_000_000)
    connect(ray_config)
    lanes = step.idle_lanes(config, ray_config, 1)
    worker, found = CaptionWorker(*models, config, blocks.num_threads(config), lanes), []
    for turn in range(rounds):
        few, many = (timed(partial(bare_loop, worker, folder / f"{i}", folder / f"bare-{turn}-{i}")) for i in range(2))
        job = partial(step.caption_and_score, config=config, ray=ray_config)
        job_few, job_many = (
            timed(partial(job, folder / f"out-{turn}-{i}", folder / f"{i}", *models)) for i in range(2)
        )
        found.append(((job_many - job_few) / (many - few) - 1, job_few - few))
    overheads, startups = zip(*found, strict=True)
    return {"ray_overhead": statistics.median(overheads), "ray_startup_s": statistics.median(startups)}


def bare_loop(worker: CaptionWorker, images: Path, out: Path) -> None:
    """What an actor does with the blocks of a file, with nobody about."""
    part = images / "part-00000.parquet"
    with pq.ParquetFile(part) as file:
        num_rows = file.metadata.num_rows
    for first in range(0, num_rows, blocks.BLOCK_ROWS):
        made = worker(blocks.read_rows(part, first, blocks.BLOCK_ROWS))
        write_parquet(out / f"{first}.parquet", made, CAPTIONS, worker.metadata)


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(arguments.threads)
    models, size = save_models(folder, arguments.size), arguments.size
    greedy = our_worker(models, arguments, sampler={"preset": "greedy"})
    theirs = Theirs(*models, torch.float32, arguments.device)
    found: dict[str, Any] = parity(greedy, theirs, draw_rows(2, SIZES[size].vision.image_size))
    del greedy, theirs
    found |= dtype_figures(models, arguments)
    found["candidates10_cost"] = candidates_cost(models, arguments)
    if not arguments.no_ray:
        found |= ray_figures(folder / "ray", "tiny" if size == "tiny" else "small", arguments.rounds)
    rounded = {
        name: value if value is None else round(value, 7 if abs(value) < 1e-3 else 3) for name, value in found.items()
    }
    versions = f"torch {torch.__version__}, transformers {version('transformers')}, ray {version('ray')}"
    settings = (
        f"{size}, {arguments.images} images, {arguments.rounds} rounds, {arguments.threads} threads, "
        f"{arguments.device}, theirs in batches of {arguments.their_batch}"
    )
    return rounded | {"settings": settings, "versions": f"{versions}, python {platform.python_version()}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--size", choices=("base", "small", "tiny"), default="base")
    parser.add_argument("--images", type=int, default=32, help="ours; theirs takes the first --their-batch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--their-batch", type=int, default=8)
    parser.add_argument("--bf16", action="store_true", help="measure bfloat16 even where it is slow")
    parser.add_argument("--no-ray", action="store_true", help="leave out ray_overhead")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(Path(scratch), arguments)
    if arguments.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:22} {value}")


if __name__ == "__main__":
    main()
