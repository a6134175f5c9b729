"""The number format of each step: `dtype: auto` becomes bfloat16 where the device multiplies it fast, else float32.

And whether there is the device that a step asks for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from blip_bootstrap.config import Config, Device, RayConfig
from blip_bootstrap.errors import ConfigError
from blip_pipelines.cluster.resources import NO_RAY, num_gpus
from blip_pipelines.cluster.session import connect

Say = Callable[[str], None]

PLACES = {
    "pretrain": ("pretrain", "optimizer"), "captioner": ("captioner", "optimizer"), "filter": ("filter", "optimizer"),
    "caption": ("caption",), "evaluate": ("evaluate",), "vqa": ("vqa", "optimizer"),
}  # fmt: skip
"""Where each step has its `device` and `dtype`."""

CPU_INFO = Path("/proc/cpuinfo")

BFLOAT16_FLAGS = re.compile(r"\b(avx512_bf16|amx_bf16|bf16)\b")
"""How Linux names a processor's bfloat16 products: x86's two, ARM's. Without them torch computes them one by one."""

GPU_CAPABILITY = (8, 0)

GPU_FILES = ("nvidiactl", "kfd", "dxg")
"""Under /dev, of NVIDIA's driver, AMD's and Windows' for WSL: torch is imported only where there may be a GPU."""


def resolve_dtypes(config: Config, say: Say, steps: Sequence[str] | None = None) -> Config:
    """The configuration with bfloat16 or float32 for every `dtype: auto`, by the devices that will do the work.

    What the run under `config.root` was begun with stays, found by `auto` or named, and also where it goes on
    elsewhere: one output never holds both, and `auto` alone makes nothing anew. Says in one line which of `steps`
    (names of PLACES; None: those of a round) stay float32 for that where bfloat16 is fast, and which are to use
    bfloat16 on a CPU that is slow at it. Where a device is cuda and there is no GPU, raises ConfigError on this
    machine, and says of a cluster that the step will wait until it has one.
    """
    data, begun = config.model_dump(), _begun(config.root)
    steps = steps or _used(config)
    _check_gpus([name for name in steps if _at(data, PLACES[name])["device"] == "cuda"], config.ray, say)
    fast = {device: _fast_bfloat16(device, config.ray) for device in _devices(data)}
    kept: list[str] = []
    for name, place in PLACES.items():
        section = _at(data, place)
        if section["dtype"] == "auto":
            found = "bfloat16" if fast[section["device"]] else "float32"
            section["dtype"] = _at(begun, place).get("dtype") or found
            kept += [name] if name in steps and (section["dtype"], found) == ("float32", "bfloat16") else []
    if kept:
        say(f"{', '.join(kept)}: float32, as this run was begun; set `dtype: bfloat16` to make it anew, and faster")
    slow = [name for name in steps if _is_slow(_at(data, PLACES[name]), fast)]
    if slow:
        say(f"{', '.join(slow)}: bfloat16 is many times slower than float32 on this CPU; `dtype: auto` is never slow")
    return Config.model_validate(data)


def _devices(data: Mapping[str, Any]) -> set[Device]:
    """The devices of steps for which it matters whether they are fast at bfloat16."""
    sections = [_at(data, place) for place in PLACES.values()]
    return {section["device"] for section in sections if section["dtype"] != "float32"}


def _check_gpus(steps: Sequence[str], ray_config: RayConfig, say: Say) -> None:
    """Refuse `steps`, which ask for a GPU, where this machine has none; a cluster may still start a node with one."""
    if not steps:
        return
    if _is_local(ray_config):
        import torch  # two seconds, only for cuda

        if not torch.cuda.is_available():
            why = "cuda, but this machine has no GPU that torch can use; set auto or cpu"
            raise ConfigError([f"{'.'.join(PLACES[name])}.device: {why}" for name in steps])
        return
    connect(ray_config)
    if not num_gpus():
        say(f"{', '.join(steps)}: waiting for a GPU (device: cuda), of which the cluster has none now")


def _is_local(ray_config: RayConfig) -> bool:
    return ray_config.address in ("local", NO_RAY)


def _is_slow(section: Mapping[str, Any], fast: Mapping[Device, bool]) -> bool:
    return section["dtype"] == "bfloat16" and not fast[section["device"]]


def _used(config: Config) -> list[str]:
    """The steps of a round that this configuration does not leave out."""
    trains = config.pretrain.optimizer.steps > 0
    left_out = {
        "pretrain": not trains,
        "captioner": bool(config.captioner.checkpoint),
        "filter": bool(config.filter.checkpoint),
        "evaluate": not (trains and config.held_out),
        "vqa": True,
    }
    return [name for name in PLACES if not left_out.get(name)]


def _begun(root: Path) -> dict[str, Any]:
    """The configuration that the run under `root` was last run with, `auto` resolved; empty where there is none."""
    try:
        found = yaml.safe_load((root / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def _at(data: Mapping[str, Any], place: tuple[str, ...]) -> Any:
    """The section at `place`; empty where it is not there."""
    found: Any = data
    for name in place:
        found = found.get(name, {})
    return found


def _fast_bfloat16(device: Device, ray_config: RayConfig) -> bool:
    """Asked of this machine where Ray is local, else of one of the cluster's."""
    if _is_local(ray_config):
        return has_fast_bfloat16(device)
    connect(ray_config)
    import ray  # two seconds, on clusters alone

    gpus = 1 if device != "cpu" and num_gpus() else 0
    return bool(ray.get(ray.remote(num_cpus=1, num_gpus=gpus)(has_fast_bfloat16).remote(device)))


def has_fast_bfloat16(device: Device) -> bool:
    """Whether this machine multiplies bfloat16 faster than float32 on `device` (auto: its GPU where it has one)."""
    if device != "cpu" and any(Path("/dev", name).exists() for name in GPU_FILES):
        import torch  # two seconds, only beside a GPU

        if torch.cuda.is_available():
            return torch.cuda.get_device_capability() >= GPU_CAPABILITY
    try:
        return BFLOAT16_FLAGS.search(CPU_INFO.read_text(encoding="utf-8")) is not None
    except OSError:
        return False
