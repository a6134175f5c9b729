"""What a pre-training on many GPUs takes, worked out from sizes and given figures; nothing is measured."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

from blip_bootstrap.config import ModelConfig, PretrainConfig
from blip_bootstrap.errors import InputError
from blip_bootstrap.planning.cost import duration, size
from blip_bootstrap.planning.vocabulary import BERTS_TOKENS
from blip_training.model.flops import contrastive_flops
from blip_training.runtime.gpus import PEAKS, peak_of

TOKENS = 16
"""Tokens of a caption, special ones included."""

NODE_GPUS, CORES_PER_GPU = 8, 12
"""What most machines with such GPUs have."""

NVLINK_BYTES_PER_S = 300e9
"""What a GPU of one machine takes from the others, as A100s have it; later ones take half as much again."""

FLOAT_BYTES = 4


@dataclass(frozen=True)
class Cluster:
    """The GPUs: how many, of which kind, the share (0..1) of their peak that is reached, and the network of each node.

    `samples_per_s` of one GPU, where it was measured, counts in place of kind and share.
    """

    gpus: int
    gpu: str
    share: float
    node_gbit: float
    samples_per_s: float | None = None

    @property
    def link_bytes_per_s(self) -> float:
        """The slowest link on the way of the gradients around all GPUs."""
        return NVLINK_BYTES_PER_S if self.gpus <= NODE_GPUS else min(self.node_gbit / 8 * 1e9, NVLINK_BYTES_PER_S)


@dataclass(frozen=True)
class Pictures:
    """The pictures of the pre-training: how many, bytes of each as stored, and core time to decode and augment one."""

    count: int
    bytes_each: float
    decode_ms: float


def work_out(
    config: PretrainConfig, cluster: Cluster, pictures: Pictures, num_tokens: int = BERTS_TOKENS
) -> dict[str, float | str]:
    """The figures of the pre-training `config` by name, times in seconds, sizes in bytes.

    `num_tokens` are the model's word pieces, with [DEC] and [ENC].
    Compute, exchange of gradients and decoding run beside each other: a step takes as long as the longest of them.
    Raises InputError for a GPU whose peak is not known, and for GPUs that cannot share out a batch.
    """
    _check_shares(config, cluster.gpus)
    batch, steps = config.optimizer.batch_size, config.optimizer.steps
    flops = flops_of_sample(config, num_tokens)
    num_weights, num_momentum = _weights(config, num_tokens)
    parts = {
        "compute": batch / cluster.gpus / _rate(cluster, flops),
        "exchange of gradients": _exchange_s(cluster, num_weights),
        "CPU decode": batch * pictures.decode_ms / 1000 / (cluster.gpus * CORES_PER_GPU),
    }
    step_s = max(parts.values())
    rate = batch / step_s
    return {
        "gflop_per_sample": flops / 1e9,
        "samples_per_s": rate,
        "samples": float(batch * steps),
        "epochs": batch * steps / pictures.count,
        "step_s": step_s,
        "compute_s": parts["compute"],
        "exchange_s": parts["exchange of gradients"],
        "seconds": steps * step_s,
        "epoch_s": pictures.count / rate,
        "gpu_hours": steps * step_s * cluster.gpus / 3600,
        "stored_bytes": float(pictures.count * pictures.bytes_each),
        "read_bytes_per_s": rate * pictures.bytes_each,
        "decode_cores": rate * pictures.decode_ms / 1000,
        "exchanged_bytes": 2 * FLOAT_BYTES * num_weights * (cluster.gpus - 1) / cluster.gpus,
        "checkpoint_bytes": _checkpoint_bytes(config, num_weights, num_momentum),
        "bound_by": max(parts, key=lambda part: parts[part]),
    }


def flops_of_sample(config: PretrainConfig, num_tokens: int = BERTS_TOKENS) -> float:
    """Operations of one image with a text of `TOKENS` tokens, in a step of ITC, ITM and LM."""
    compared = config.optimizer.batch_size + config.itc.queue_size
    return float(contrastive_flops(_model(config), num_tokens, compared).of(1, TOKENS, TOKENS**2))


def _model(config: PretrainConfig) -> ModelConfig:
    """The model, with pictures as large as this pre-training has them."""
    if not config.image_size:
        return config.model
    vision = config.model.vision.model_copy(update={"image_size": config.image_size})
    return config.model.model_copy(update={"vision": vision})


def _check_shares(config: PretrainConfig, gpus: int) -> None:
    """Raise InputError, with the numbers next to `gpus`, if so many workers cannot share out a batch."""
    batch, accumulate = config.optimizer.batch_size, config.optimizer.accumulate
    if batch % (gpus * accumulate) == 0:
        return
    each = 0 if batch % accumulate else batch // accumulate
    low = [count for count in range(1, math.isqrt(each) + 1) if each % count == 0]
    can = [*low, *(each // count for count in reversed(low))]
    near = [*[count for count in can if count < gpus][-1:], *[count for count in can if count > gpus][:1]]
    parts = f" in {accumulate} micro-batches" if accumulate > 1 else ""
    raise InputError(
        f"--gpus {gpus}: cannot share out pretrain.optimizer.batch_size {batch:,}{parts}; "
        + (f"{' or '.join(f'{count:,}' for count in near)} can" if near else "no number of GPUs can")
        + ", or set another batch_size"
    )


def _rate(cluster: Cluster, flops: float) -> float:
    """Samples a second of one GPU."""
    if cluster.samples_per_s:
        return cluster.samples_per_s
    if (peak := peak_of(cluster.gpu)) is None:
        raise InputError(f"--gpu {cluster.gpu}: its peak is not known; one of {', '.join(PEAKS)}, or --samples-per-s")
    return cluster.share * peak / flops


def _weights(config: PretrainConfig, num_tokens: int) -> tuple[int, int]:
    """The numbers of weights of the model, and of its momentum encoder."""
    import torch  # start-up: a second of torch, for this plan alone

    from blip_training.model.med import Med  # as above
    from blip_training.objective.momentum import MomentumEncoder  # as above

    with torch.device("meta"), warnings.catch_warnings():  # shapes without memory
        warnings.simplefilter("ignore", UserWarning)  # of an EfficientNet's weights, which go nowhere here
        med = Med(_model(config), num_tokens)
        slow = MomentumEncoder(med)
    return sum(p.numel() for p in med.parameters()), sum(p.numel() for p in slow.parameters())


def _exchange_s(cluster: Cluster, num_weights: int) -> float:
    """Seconds of averaging all gradients around a ring: each link carries them twice."""
    carried = 2 * FLOAT_BYTES * num_weights * (cluster.gpus - 1) / cluster.gpus
    return carried / cluster.link_bytes_per_s


def _checkpoint_bytes(config: PretrainConfig, num_weights: int, num_momentum: int) -> float:
    """Weights, AdamW's two moments, momentum encoder, running mean where there is one, and queue."""
    copies = 4 if config.optimizer.ema else 3
    queue = 2 * config.itc.queue_size * config.model.embed_dim
    return float(FLOAT_BYTES * (copies * num_weights + num_momentum + queue))


def for_people(found: Mapping[str, float | str]) -> list[dict[str, str]]:
    """The figures as rows `what` and `figure`, with units that people read."""
    amount = {key: value for key, value in found.items() if isinstance(value, float)}
    rows = {
        "operations of a sample": f"{amount['gflop_per_sample']:,.0f} GFLOP",
        "samples": f"{amount['samples']:,.0f} ({amount['epochs']:.3g} epochs)",
        "samples a second": f"{amount['samples_per_s']:,.0f}",
        "a step": f"{_ms(amount['step_s'])} ms ({_ms(amount['compute_s'])} of compute, {_ms(amount['exchange_s'])} of "
        "exchange beside it)",
        "time": duration(amount["seconds"]),
        "time of an epoch": duration(amount["epoch_s"]),
        "GPU-hours": f"{amount['gpu_hours']:,.0f}",
        "pictures": size(amount["stored_bytes"]),
        "read": f"{size(amount['read_bytes_per_s'])} a second",
        "cores that decode": f"{amount['decode_cores']:,.0f}",
        "gradients that each GPU exchanges": f"{size(amount['exchanged_bytes'])} a step",
        "a checkpoint": size(amount["checkpoint_bytes"]),
        "bound by": str(found["bound_by"]),
    }
    return [{"what": what, "figure": figure} for what, figure in rows.items()]


def _ms(seconds: float) -> str:
    """Milliseconds with three digits, and never as a power of ten."""
    return f"{seconds * 1000:,.0f}" if seconds >= 0.1 else f"{seconds * 1000:.3g}"
