"""The loop of every training: schedule, AdamW, accumulation, log, and checkpoints that resume to the bit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from blip_bootstrap.config import OptimizerConfig
from blip_bootstrap.errors import RunFailed
from blip_bootstrap.stores.store import publish
from blip_training.checkpoint.finite import not_finite
from blip_training.checkpoint.fresh import started_names
from blip_training.feed.batches import BatchT, StepBatches
from blip_training.model.med import Med
from blip_training.objective.momentum import MomentumEncoder
from blip_training.objective.running_mean import RunningMean
from blip_training.runtime.ahead import on_device
from blip_training.runtime.allocator import keep_freed_memory
from blip_training.runtime.gradients import LossesOf, SharedGradients
from blip_training.runtime.stall import Part, StallWatch
from blip_training.runtime.workers import Worker, average, wait_for_all
from blip_training.train.alike import begin_alike, check_data
from blip_training.train.best_model import Best
from blip_training.train.checkpoints import Checkpoints, weights_of
from blip_training.train.log import LOG_FILE, OnStep, TrainingLog
from blip_training.train.schedule import lr_at, make_optimizer, seed_step
from blip_training.watch.pace import Pace
from blip_training.watch.trackers import Trackers


def prepare(med: Med, config: OptimizerConfig) -> Med:
    """Put the model into training mode, with frozen weights, checkpointing and compilation as `config` says."""
    if config.started_lr_scale == 0:
        fixed = started_names(med)
        for name, parameter in med.named_parameters():
            parameter.requires_grad_(name not in fixed)
    if config.fix_stem and med.vision.top:
        med.vision.top.requires_grad_(False)
    med.set_activation_checkpointing(config.activation_checkpointing)
    if config.compile:
        compile_blocks(med)
    return med.train()


def compile_blocks(med: Med) -> None:
    """Compile block by block: blocks of one kind share one compilation, and the state dict keeps its names."""
    for block in (*med.vision.blocks, *med.text.layers):
        block.compile()


class Run:
    """One training: `for step, batches in run.steps(data)`, in it `run.update()` after, for each micro-batch,
    `run.backward(run.losses(losses_of))`.

    `out` holds metrics.jsonl and the checkpoint, from which the training resumes if there is one. `kept` are modules
    beside the model that the checkpoint saves too (momentum encoder, queue).
    """

    def __init__(
        self, out: Path, med: nn.Module, config: OptimizerConfig, worker: Worker,
        kept: Mapping[str, nn.Module] | None = None, on_step: OnStep | None = None,
    ) -> None:  # fmt: skip
        self.out, self.med, self.config, self.worker = out, med, config, worker
        if worker.device.type == "cpu":
            keep_freed_memory()
        self.optimizer = make_optimizer(med, config)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.mean = RunningMean(med, config.ema) if config.ema else None
        self.modules = {"model": med, **({"mean": self.mean} if self.mean else {}), **(kept or {})}
        if config.compile and isinstance(slow := self.modules.get("momentum"), MomentumEncoder):
            compile_blocks(slow.med)  # a copy of compiled blocks is not compiled
        self.pace = Pace(worker.device)
        trackers = Trackers(config.trackers, config.tracker_project)
        self.log = TrainingLog(out / LOG_FILE, worker.first, on_step, self.pace, trackers)
        self.checkpoints = Checkpoints(out, config)
        self.step, self._due = 0, False
        self.generator = torch.Generator(worker.device)
        self._resume()
        self._shared = SharedGradients(med, config.compile) if worker.world > 1 else None
        self._micro_batches = 0
        self._watch = StallWatch(worker, config.stall_timeout_s) if worker.world > 1 else None

    def steps(self, data: StepBatches[BatchT]) -> Iterator[tuple[int, list[BatchT]]]:
        """The steps still to do, each with its micro-batches on the device."""
        check_data(data, self.worker)
        feed = on_device(data.steps(self.step, self.config.steps), self.worker.device)
        for step, batches in zip(self.count(), self.pace.waiting(feed), strict=True):
            self._begins("the micro-batches")
            yield step, batches

    def count(self) -> Iterator[int]:
        """The steps still to do; seeds and learning rate are set before each, log and checkpoint written after it."""
        self.log.start(self.step)
        with self._watch or nullcontext():
            yield from self._counted()

    def _counted(self) -> Iterator[int]:
        while self.step < self.config.steps:
            self._begins("the feed")
            self.generator = seed_step(self.config.seed, self.step, self.worker.rank, self.worker.device)
            for group in self.optimizer.param_groups:
                group["lr"] = lr_at(self.config, self.step) * group.get("lr_scale", 1.0)
            yield self.step
            self._close_step()

    def autocast(self) -> AbstractContextManager[Any]:
        """Autocast to bfloat16 with `optimizer.dtype: bfloat16`; the weights stay float32."""
        return torch.autocast(self.worker.device.type, torch.bfloat16, enabled=self.config.dtype == "bfloat16")

    def losses(self, losses_of: LossesOf) -> Mapping[str, Tensor]:
        """The losses of the step's next micro-batch, which `losses_of` computes, under `autocast`.

        Several workers' gradients are averaged while the last micro-batch of the step goes backward.
        """
        self._micro_batches += 1
        self._begins("the micro-batches")
        with self.autocast():
            if self._shared is None:
                return losses_of()
            return self._shared.losses(losses_of, last=self._micro_batches == self.config.accumulate)

    def backward(self, losses: Mapping[str, Tensor]) -> None:
        """Add the gradients of the sum of one micro-batch's `losses` to those of the step."""
        total = torch.stack(list(losses.values())).sum()
        (total / self.config.accumulate).backward()  # type: ignore[no-untyped-call]
        means = {name: loss.detach() / self.config.accumulate for name, loss in {"loss": total, **losses}.items()}
        self.log.add(means)

    def update(self, **figures: Tensor | float) -> bool:
        """Clip the gradients and take the optimizer's step; log `figures` with it. Returns whether the step was taken.

        A step is skipped if its loss or the norm of its gradient is not finite on any worker: weights, moments and log
        stay as the last step left them, and the caller must leave what follows the weights (momentum encoder, queue) as
        it is. Raises RunFailed after `max_skipped_steps` in a row.
        """
        assert not self._shared or self._micro_batches == self.config.accumulate, "gradients are not exchanged"
        self._begins("the optimizer's step")
        loss = average({"loss": self.log.loss}, self.worker.world)["loss"]
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm or math.inf)
        taken = bool(torch.isfinite(norm + loss))
        if taken:
            self.optimizer.step()
            if self.mean:
                self.mean.follow()
            self.log.watch(self.step + 1, loss)
            self.log.note(lr=lr_at(self.config, self.step), grad_norm=norm, **figures)
        else:
            self.log.skip(self.step + 1)
        self.optimizer.zero_grad(set_to_none=True)
        self._micro_batches = 0
        self._check_skipped()
        return taken

    def published(self) -> AbstractContextManager[None]:
        """While the body runs, the model has the weights that are to be saved and validated: with `ema` their mean."""
        return self.mean.in_place() if self.mean else nullcontext()

    def measure(self, best: Best | None) -> None:
        """Let `best`, if there is one, measure the weights after the step that was taken last."""
        if best:
            with self.published():
                best.measure(self.step + 1, last=self.step + 1 == self.config.steps)

    def _check_skipped(self) -> None:
        """Raise RunFailed if too many steps in a row were skipped; at the end two are: the weights are in doubt."""
        in_a_row, last = self.log.skipped_in_a_row, self.step + 1 == self.config.steps
        if in_a_row >= (min(2, self.config.max_skipped_steps) if last else self.config.max_skipped_steps):
            steps = f"{in_a_row} steps in a row" if in_a_row > 1 else "a step"
            raise self._diverged(f"loss or gradient of {steps} up to step {self.step + 1} are not finite")

    def _diverged(self, what: str) -> RunFailed:
        kept = "its last good checkpoint is kept" if self.checkpoints.exist() else ""
        advice = "lower optimizer.lr, lengthen optimizer.warmup_steps or set optimizer.clip_norm"
        return RunFailed("; ".join(filter(None, (f"the training diverged: {what}", advice, kept))))

    def _begins(self, part: Part) -> None:
        """Note for the other workers which part of a step begins here."""
        if self._watch:
            self._watch.at(self.step + 1, part)

    def _close_step(self) -> None:
        self._begins("log and checkpoint")
        self.step += 1
        last = self.step == self.config.steps
        self._due = last or self._due or self.step % self.config.checkpoint_every_steps == 0
        # Amid skipped steps the weights may be what makes losses NaN: the checkpoint waits for a finite loss.
        saves = self._due and (last or not self.log.skipped_in_a_row)
        if saves and (names := not_finite(self._weights())):  # on every worker, so that none waits for another
            raise self._diverged(f"{len(names)} weights are not finite after step {self.step} ({names[0]})")
        writes = last or self.step % self.config.log_every_steps == 0
        if writes or saves:  # what a checkpoint keeps of the line under way is of all workers, too
            self.log.sums = average(self.log.sums, self.worker.world)
        if writes:
            self.log.write(self.step, self.config.batch_size)
        if saves:
            self._due = False
            if self.worker.first:
                self._save(last)

    def _weights(self) -> dict[str, Any]:
        return weights_of(self.modules, self.optimizer)

    def _save(self, last: bool = False) -> None:
        """Write the checkpoint; after the last step, too, until the model is published: it need only be saved again."""
        self.checkpoints.save(self.step, self._weights() | {"log": self.log.state()}, last)
        with suppress(RunFailed):  # people look at it, and the checkpoint has its lines
            publish(self.log.path)

    def _resume(self) -> None:
        """Go on from the checkpoint where there is one; all workers begin with what rank 0 has."""

        def restore() -> dict[str, Any] | None:
            return self.checkpoints.restore(self.modules, self.optimizer)

        if state := begin_alike(self.modules, self.optimizer, restore, self.worker):
            self.step = state["step"]
            self.log.restore(state["log"], self.worker.device)

    def finish(self) -> dict[str, int | float]:
        """The number of steps and the figures of the last line. The checkpoint of the last step stays.

        Who has put the saved model where nothing loses it deletes that (`delete_checkpoints`); until then the same
        training again finds it, and saves the model again. Waits for all workers, so that none goes on before the first
        one has saved the model.
        """
        if self.worker.first:
            publish(self.log.path)
        self.log.close()
        wait_for_all()
        watched = {"itm_at_rest": int(self.log.at_rest()), "skipped_steps": self.log.skipped}
        watched |= {"loss_spikes": self.log.spikes.count}
        watched |= {"checkpoints_failed": self.checkpoints.failed} if self.checkpoints.failed else {}
        return {"steps": self.step, **self.log.last, **watched}
