"""The pre-training step at base size, 224 px, beside the same step written with transformers' modules.

    .venv/bin/python tests/bench/training_step.py [--json] [--size base|tiny] [--batch 8] [--rounds 3] [--threads 2]

Both train ViT-B/16 with BERT-base (ITC with momentum and a queue, ITM, LM) on the same random batch, in turns, each
round beside large matrix products; figures are medians over the rounds. `ratio_fp32` is our samples per second by the
reference's in float32, `ratio_bf16` that of our bfloat16 step by the same; `gemm_share_*` is the rate of useful
floating-point operations by that of the matrix products of the round. Useful is what the mathematics needs, not what
the code does: real tokens, no padding; in the last layer the first token alone where nothing else is read; each image's
cross-attention keys and values once for ITM and LM together; the backward pass twice the forward one; the momentum
encoder forward alone; no element-wise work, optimizer or recomputing.
bfloat16 is left out where the processor multiplies it no faster than float32. Memory is the peak of a process of its
own that takes two steps.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "HF_HUB_OFFLINE": "1"}
sys.path[:0] = [str(Path(__file__).parents[2] / part) for part in (".", "training", "pipelines")]

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
import transformers  # noqa: E402

from blip_bootstrap.config import ItcConfig, ItmConfig, ModelConfig, OptimizerConfig  # noqa: E402
from blip_training.model.cross_attention import KeyValue  # noqa: E402
from blip_training.model.flops import contrastive_flops  # noqa: E402
from blip_training.model.med import Med  # noqa: E402
from blip_training.objective.contrast import Contrast  # noqa: E402
from blip_training.objective.losses import lm_loss  # noqa: E402
from blip_training.objective.micro_batches import MicroBatch  # noqa: E402
from blip_training.runtime.workers import Worker  # noqa: E402
from blip_training.train.contrastive_step import contrastive_step  # noqa: E402
from blip_training.train.run import Run, prepare  # noqa: E402
from tests.support.reference_step import ALPHA, Inputs, Reference  # noqa: E402

Step = Callable[[], object]

NUM_TOKENS = 30_524
CPU = Worker(torch.device("cpu"))
TINY = {
    "vision": {"image_size": 32, "patch_size": 8, "width": 32, "depth": 2, "heads": 4},
    "text": {"width": 32, "depth": 2, "heads": 4, "intermediate": 64},
}
PRODUCT = {"base": 2048, "tiny": 128}
PRODUCTS_EACH = 5


def make_batch(config: ModelConfig, size: int) -> MicroBatch:
    """Random pictures, and texts of 8 to 20 tokens, as web captions have."""
    generator = torch.Generator().manual_seed(0)
    side = config.vision.image_size
    pixels = torch.randint(0, 256, (size, 3, side, side), dtype=torch.uint8, generator=generator)
    lengths = torch.randint(8, 21, (size, 1), generator=generator)
    mask = (torch.arange(int(lengths.max())) < lengths).long()
    ids = torch.randint(5, NUM_TOKENS - 2, mask.shape, generator=generator) * mask
    return MicroBatch(0, pixels, torch.arange(size), ids, mask, torch.ones(()))


def our_step(config: ModelConfig, batch: MicroBatch, queue: torch.Tensor, dtype: str, out: Path) -> Step:
    """The body of pretrain_model's loop."""
    torch.manual_seed(0)
    optimizer = OptimizerConfig(batch_size=len(batch.ids), device="cpu", dtype=dtype)
    med = prepare(Med(config, NUM_TOKENS), optimizer)
    contrast = Contrast(med, ItcConfig(queue_size=len(queue[0])), ItmConfig(), CPU)
    contrast.queue.push(*queue, *torch.arange(10**6, 10**6 + len(queue[0])).expand(2, -1))
    run = Run(out, med, optimizer, CPU)

    def lm_of(batch: MicroBatch, states: torch.Tensor, keys: list[KeyValue] | None) -> torch.Tensor:
        return lm_loss(med, states, batch.ids, batch.mask, keys=keys)

    def step() -> None:
        contrastive_step(run, contrast, [batch], ALPHA, lm_of)

    return step


def reference_step(config: ModelConfig, batch: MicroBatch, queue: torch.Tensor) -> Step:
    torch.manual_seed(0)
    reference = Reference(config, NUM_TOKENS, (queue[0], queue[1])).train()
    pixels = Med(ModelConfig.model_validate(TINY), 10).vision.stem.normalise(batch.images)  # type: ignore[operator]
    return lambda: reference.train_step(Inputs(pixels, batch.ids, batch.mask))


def useful_flops(config: ModelConfig, batch: MicroBatch) -> float:
    """Floating-point operations of the step's matrix products, as the page's head counts them; ITC's are left out."""
    lengths = batch.mask.sum(1)
    flops = contrastive_flops(config, NUM_TOKENS, num_compared=0)
    return float(flops.of(len(lengths), lengths.sum(), lengths.square().sum()))


def product_rate(dtype: torch.dtype, size: str) -> float:
    """Operations per second of a large matrix product, the best of some."""
    side = PRODUCT[size]
    a, b = (torch.randn(side, side).to(dtype) for _ in range(2))
    return 2.0 * side**3 / min(seconds(lambda: F.linear(a, b)) for _ in range(PRODUCTS_EACH))


def seconds(work: Step) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def queue_of(config: ModelConfig, size: str) -> torch.Tensor:
    """The paper's queue, full."""
    rows = 57_600 if size == "base" else 64
    return F.normalize(torch.randn(2, rows, config.embed_dim, generator=torch.Generator().manual_seed(1)), dim=-1)


def make_steps(args: argparse.Namespace, names: list[str], out: Path) -> dict[str, Step]:
    config = ModelConfig() if args.size == "base" else ModelConfig.model_validate(TINY)
    batch, queue = make_batch(config, args.batch), queue_of(config, args.size)
    makers: dict[str, Callable[[], Step]] = {
        "fp32": lambda: our_step(config, batch, queue, "float32", out),
        "bf16": lambda: our_step(config, batch, queue, "bfloat16", out),
        "reference": lambda: reference_step(config, batch, queue),
    }
    return {name: makers[name]() for name in names}


def measure(args: argparse.Namespace, out: Path) -> dict[str, Any]:
    """All steps in turns, `rounds` times after a first round that is not counted."""
    with_bf16 = args.bf16 or product_rate(torch.bfloat16, args.size) > product_rate(torch.float32, args.size)
    ours = ["fp32", "bf16"] if with_bf16 else ["fp32"]
    steps = make_steps(args, [*ours, "reference"], out)
    config = ModelConfig() if args.size == "base" else ModelConfig.model_validate(TINY)
    flops = useful_flops(config, make_batch(config, args.batch))
    took: dict[str, list[float]] = {name: [] for name in steps}
    shares: dict[str, list[float]] = {name: [] for name in ours}
    for number in range(args.rounds + 1):
        for name, step in steps.items():
            rate = product_rate(torch.bfloat16 if name == "bf16" else torch.float32, args.size)
            one = seconds(step)
            if number:
                took[name].append(one)
            if number and name in shares:
                shares[name].append(flops / one / rate)
    return figures(args, flops, took, shares)


def figures(
    args: argparse.Namespace, flops: float, took: dict[str, list[float]], shares: dict[str, list[float]]
) -> dict[str, Any]:
    median = {name: statistics.median(times) for name, times in took.items()}
    found: dict[str, Any] = {f"samples_per_s_{name}": args.batch / median[name] for name in median}
    found |= {f"step_s_{name}": times for name, times in took.items()}
    for name in ("fp32", "bf16"):
        known = name in median
        found[f"ratio_{name}"] = median["reference"] / median[name] if known else None
        found[f"gemm_share_{name}"] = statistics.median(shares[name]) if known else None
    return found | {"useful_gflop": flops / 1e9}


def peak_of(name: str, args: argparse.Namespace) -> int:
    """The peak resident bytes of a process that takes two steps."""
    command = [sys.executable, __file__, "--peak-of", name, "--size", args.size, "--batch", str(args.batch)]
    said = subprocess.run([*command, "--threads", str(args.threads)], check=True, capture_output=True, text=True)
    return int(said.stdout.split()[-1])


def own_peak() -> int:
    """Peak resident bytes of this process. Not `ru_maxrss`, which starts at the peak of the process that started it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def hardware() -> dict[str, object]:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(), "threads": torch.get_num_threads(),
        "load_before": os.getloadavg()[0], "torch": torch.__version__, "transformers": transformers.__version__,
        "python": platform.python_version(),
    }  # fmt: skip


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--size", choices=["base", "tiny"], default="base")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bf16", action="store_true", help="measure bfloat16 where the processor lacks it, too")
    parser.add_argument("--peak-of", choices=["fp32", "bf16", "reference"], help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        if args.peak_of:
            step = make_steps(args, [args.peak_of], Path(folder))[args.peak_of]
            step(), step()
            print(own_peak())
            return
        machine = hardware()
        found = measure(args, Path(folder))
    measured = [name for name in ("fp32", "bf16", "reference") if f"samples_per_s_{name}" in found]
    found |= {f"peak_bytes_{name}": peak_of(name, args) for name in measured}
    found |= {"size": args.size, "batch": args.batch, "rounds": args.rounds, **machine}
    print(json.dumps(found) if args.json else "\n".join(f"{key:24} {shown(value)}" for key, value in found.items()))


def shown(value: object) -> str:
    if isinstance(value, list):
        return " ".join(f"{one:.3g}" for one in value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
