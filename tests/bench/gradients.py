"""What two workers exchange in a pre-training step, and what it costs to do so beside the backward pass or after it.

    .venv/bin/python tests/bench/gradients.py [--json] [--world 2] [--rounds 5] [--width 256] [--depth 4]

Processes of this machine train MED (ITC, ITM, LM) over gloo, a thread each. Steps are taken in turns: with the buckets
of DistributedDataParallel as trainings have them (`overlapped`), with one exchange of all gradients after the backward
pass (`after`), and without any (`none`). Figures are medians over the rounds, of rank 0. Over gloo an exchange takes
the processors that the backward pass wants, too: on a network card or NVLink it does not.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
sys.path[:0] = [str(Path(__file__).parents[2] / part) for part in (".", "training", "pipelines")]

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from torch import Tensor  # noqa: E402

from blip_bootstrap.config import ItcConfig, ItmConfig, ModelConfig, OptimizerConfig  # noqa: E402
from blip_training.model.cross_attention import KeyValue  # noqa: E402
from blip_training.model.med import Med  # noqa: E402
from blip_training.objective.contrast import Contrast  # noqa: E402
from blip_training.objective.losses import lm_loss  # noqa: E402
from blip_training.objective.micro_batches import MicroBatch  # noqa: E402
from blip_training.runtime.gradients import LossesOf, SharedGradients  # noqa: E402
from blip_training.runtime.workers import this_worker  # noqa: E402
from blip_training.train.contrastive_step import contrastive_step  # noqa: E402
from blip_training.train.run import Run, prepare  # noqa: E402
from tests.support.ranks import run_ranks  # noqa: E402

NUM_TOKENS, BATCH, SIDE = 4000, 4, 64

WAYS = ("none", "after", "overlapped")


def model_config(width: int, depth: int) -> ModelConfig:
    return ModelConfig.model_validate(
        {
            "vision": {"image_size": SIDE, "patch_size": 16, "width": width, "depth": depth, "heads": 4},
            "text": {"width": width, "depth": depth, "heads": 4, "intermediate": 4 * width, "dropout": 0.0},
        }
    )


def make_batch(rank: int) -> MicroBatch:
    generator = torch.Generator().manual_seed(rank)
    pixels = torch.randint(0, 256, (BATCH, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
    mask = torch.ones(BATCH, 16, dtype=torch.int64)
    ids = torch.randint(5, NUM_TOKENS - 2, mask.shape, generator=generator)
    return MicroBatch(0, pixels, torch.arange(BATCH) + BATCH * rank, ids, mask, torch.ones(()))


class Counted:
    """Bytes that this worker puts into exchanges of tensors outside of DistributedDataParallel."""

    def __init__(self) -> None:
        self.bytes = 0

    @contextmanager
    def while_(self) -> Iterator[None]:
        gather, reduce = dist.all_gather, dist.all_reduce

        def gathered(rows: list[Tensor], own: Tensor) -> Any:
            self.bytes += own.nbytes
            return gather(rows, own)

        def reduced(own: Tensor, *rest: Any) -> Any:
            self.bytes += own.nbytes
            return reduce(own, *rest)

        with patch.object(dist, "all_gather", gathered), patch.object(dist, "all_reduce", reduced):
            yield


def measure(out: Path, rounds: int, width: int, depth: int) -> None:
    """In each worker; rank 0 writes the figures into `out`."""
    worker = this_worker("cpu")
    torch.manual_seed(0)
    optimizer = OptimizerConfig(batch_size=BATCH * worker.world, device="cpu", log_every_steps=10**6, lr=1e-6)
    med = prepare(Med(model_config(width, depth), NUM_TOKENS), optimizer)
    contrast = Contrast(med, ItcConfig(queue_size=256), ItmConfig(), worker)
    (out / f"{worker.rank}").mkdir()
    run = Run(out / f"{worker.rank}", med, optimizer, worker)
    batch, counted = make_batch(worker.rank), Counted()
    losses, backward = SharedGradients.losses, Run.backward

    def lm_of(batch: MicroBatch, states: Tensor, keys: list[KeyValue] | None) -> Tensor:
        return lm_loss(med, states, batch.ids, batch.mask, keys=keys)

    def exchanged_after(run: Run, found: Any) -> None:
        backward(run, found)
        flat = torch.cat([p.grad.reshape(-1) for p in run.parameters if p.grad is not None])
        dist.all_reduce(flat)

    def step(way: str) -> float:
        def chosen(shared: SharedGradients, losses_of: LossesOf, last: bool) -> Any:
            return losses(shared, losses_of, last and way == "overlapped")

        exchanging = exchanged_after if way == "after" else backward
        with patch.object(SharedGradients, "losses", chosen), patch.object(Run, "backward", exchanging):
            dist.barrier()
            began = time.perf_counter()
            contrastive_step(run, contrast, [batch], 0.4, lm_of)
            return time.perf_counter() - began

    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(rounds + 1):
        for way in WAYS:
            took = step(way)
            if number:  # the first round warms up
                seconds[way].append(took)
    with counted.while_():
        step("overlapped")
    if worker.first:
        found = {f"seconds_{way}": statistics.median(seconds[way]) for way in WAYS}
        trained = sum(p.numel() for p in run.parameters)
        (out / "found.json").write_text(
            json.dumps(
                {
                    **found,
                    "ratio_after": found["seconds_after"] / found["seconds_none"],
                    "ratio_overlapped": found["seconds_overlapped"] / found["seconds_none"],
                    "gradient_bytes": 4 * trained,
                    "other_bytes": counted.bytes,
                }
            )
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--world", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--depth", type=int, default=4)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        codes = run_ranks(args.world, measure, Path(folder), args.rounds, args.width, args.depth)
        assert codes == [0] * args.world, codes
        found = json.loads((Path(folder) / "found.json").read_text())
    found |= {"world": args.world, "rounds": args.rounds, "load_before": os.getloadavg()[0], "torch": torch.__version__}
    print(json.dumps(found) if args.json else "\n".join(f"{name:20} {value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
