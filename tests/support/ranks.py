"""Workers of one training as processes of this machine, which exchange over gloo."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

LIMIT_S = 240

SAID = "said"


def run_ranks(world: int, work: Callable[..., None], *arguments: object) -> list[int]:
    """The exit statuses of `world` processes that each call `work(*arguments)` as one of a group; 1: it raised.

    They are forked from a process that has imported the trainings, so that each costs a second. What they say on
    stderr is said again here: that process's stderr is that of the test which began it.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["blip_training.train.finetune", "blip_training.train.pretrain"])
    with tempfile.TemporaryDirectory() as folder:
        meeting = Path(folder) / "meeting"
        ranks = [context.Process(target=_rank, args=(meeting, rank, world, work, arguments)) for rank in range(world)]
        for one in ranks:
            one.start()
        for one in ranks:
            one.join(LIMIT_S)
            one.kill()
            one.join()
        if (said := Path(folder) / SAID).exists():
            sys.stderr.write(said.read_text())
    return [one.exitcode if one.exitcode is not None else -1 for one in ranks]


def _rank(meeting: Path, rank: int, world: int, work: Callable[..., None], arguments: tuple[object, ...]) -> None:
    import torch
    import torch.distributed as dist

    os.dup2(os.open(meeting.with_name(SAID), os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    torch.set_num_threads(1)
    os.environ.pop("MASTER_ADDR", None)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    work(*arguments)
    dist.destroy_process_group()
