"""The learning rate, ITC's alpha, AdamW and the seed of each step (section 4.1)."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import nn

from blip_bootstrap.config import ItcConfig, OptimizerConfig
from blip_training.checkpoint.fresh import started_names


def lr_at(config: OptimizerConfig, step: int) -> float:
    """The learning rate of a step, from 0: linear warm-up, then cosine or exponential to `min_lr`, or constant.

    With `decay_every_steps` it falls in stairs, which count from step 0, the warm-up included, as the epochs of the
    released code.
    """
    if step < config.warmup_steps:
        return _warm_up(config, step)
    if config.schedule == "constant":
        return config.lr
    if config.decay_rate is not None:
        return max(config.min_lr, config.lr * math.pow(config.decay_rate, step // config.decay_every_steps))
    done = _done(config, step)
    if config.schedule == "cosine":
        return config.min_lr + (config.lr - config.min_lr) * 0.5 * (1 + math.cos(math.pi * done))
    floor = max(config.min_lr, config.lr * 1e-2)
    return config.lr * math.pow(floor / config.lr, done)


def _warm_up(config: OptimizerConfig, step: int) -> float:
    """From `warmup_lr`, as the released code; without it the first step has a share of `lr`, and the last all of it."""
    if config.warmup_lr:
        return min(config.lr, config.warmup_lr + (config.lr - config.warmup_lr) * step / config.warmup_steps)
    return config.lr * (step + 1) / config.warmup_steps


def _done(config: OptimizerConfig, step: int) -> float:
    """The share (0..1) of the way that the learning rate has to fall."""
    if config.decay_every_steps > 1:
        return (step - step % config.decay_every_steps) / config.steps
    return (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)


def alpha_at(config: ItcConfig, step: int) -> float:
    """The weight of the momentum encoder's soft targets at a step: it rises linearly to `alpha` (section 4.1)."""
    return config.alpha * min(1.0, step / config.alpha_ramp_steps) if config.alpha_ramp_steps else config.alpha


def make_optimizer(module: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over the trained weights; those of less than two dimensions (biases, LayerNorms, temperature) do not decay,
    unless `decayed` is `all`.

    Each group has an `lr_scale`: weights that `vision.start` or `text.start` put in have groups of their own with
    `started_lr_scale`, unless that is 0 or 1.
    """
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    scale = config.started_lr_scale
    slow = started_names(module) if scale not in (0, 1) else frozenset()
    decay_of_vectors = config.weight_decay if config.decayed == "all" else 0.0
    groups = []
    for names, lr_scale in ((trained.keys() - slow, 1.0), (trained.keys() & slow, scale)):
        own = [p for name, p in trained.items() if name in names]
        groups += [
            {"params": [p for p in own if p.ndim >= 2], "weight_decay": config.weight_decay, "lr_scale": lr_scale},
            {"params": [p for p in own if p.ndim < 2], "weight_decay": decay_of_vectors, "lr_scale": lr_scale},
        ]
    return torch.optim.AdamW(groups[: 4 if slow else 2], lr=config.lr, fused=True)


def seed_step(seed: int, step: int, rank: int, device: torch.device) -> torch.Generator:
    """Seed torch for a step from (seed, step, rank), so that a resumed run repeats its random numbers.

    Returns a generator seeded from (seed, step), for draws that all workers must agree on.
    """
    torch.manual_seed(_hash(seed, step, rank))
    return torch.Generator(device).manual_seed(_hash(seed, step))


def _hash(*numbers: int) -> int:
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
