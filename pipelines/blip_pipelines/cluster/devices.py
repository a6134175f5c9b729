"""Chooses the number format of each step for `dtype: auto`, and checks that there is a GPU where one is asked for.

`auto` becomes bfloat16 where the device is fast at it, else float32.
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
"""The section of the configuration that holds the `device` and `dtype` of each step."""

CPU_INFO = Path("/proc/cpuinfo")

BFLOAT16_FLAGS = re.compile(r"\b(avx512_bf16|amx_bf16|bf16)\b")
"""Flags in /proc/cpuinfo of processors with bfloat16 products (two of x86, one of ARM); others are slow at them."""

GPU_CAPABILITY = (8, 0)

GPU_FILES = ("nvidiactl", "kfd", "dxg")
"""Files under /dev of the drivers of NVIDIA, AMD and WSL: without one there is no GPU, and no need to import torch."""


def resolve_dtypes(config: Config, say: Say, steps: Sequence[str] | None = None) -> Config:
    """The configuration with bfloat16 or float32 in place of every `dtype: auto`, by the devices that will be used.

    A run that goes on under `config.root`, on whatever machine, keeps the format that it was begun with: no output
    mixes both, and `auto` makes nothing anew. Says in a line each which of `steps` (names of PLACES; None: those of a
    round) keep float32 for this reason although bfloat16 is fast, and which are set to bfloat16 on a CPU that is slow
    at it. With `device: cuda` and no GPU, raises ConfigError for this machine; for a cluster, says that the step waits.
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
    """The devices of all steps that may use bfloat16 (`dtype` auto or bfloat16)."""
    sections = [_at(data, place) for place in PLACES.values()]
    return {section["device"] for section in sections if section["dtype"] != "float32"}


def _check_gpus(steps: Sequence[str], ray_config: RayConfig, say: Say) -> None:
    """Raise ConfigError where `steps` need a GPU and this machine has none; a cluster may still add a node with one."""
    if not steps:
        return
    if _is_local(ray_config):
        import torch  # start-up: two seconds, only for cuda

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
    """The steps that a round of this configuration has."""
    trains = config.pretrain.optimizer.steps > 0
    left_out = {
        "pretrain": not trains,
        "captioner": bool(config.captioner.checkpoint) or not config.needs_captioner,
        "filter": bool(config.filter.checkpoint),
        "evaluate": not (trains and config.held_out),
        "vqa": True,
    }
    return [name for name in PLACES if not left_out.get(name)]


def _begun(root: Path) -> dict[str, Any]:
    """The configuration of the last run under `root`, `auto` resolved; empty where there is none."""
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
    """Whether `device` is fast at bfloat16: that of this machine, or of a machine of the cluster."""
    if _is_local(ray_config):
        return has_fast_bfloat16(device)
    connect(ray_config)
    import ray  # start-up: two seconds, only on clusters

    gpus = 1 if device != "cpu" and num_gpus() else 0
    remote = ray.remote(num_cpus=1, num_gpus=gpus)(has_fast_bfloat16)
    return bool(ray.get(remote.options(name="check dtype").remote(device)))


def has_fast_bfloat16(device: Device) -> bool:
    """Whether this machine multiplies bfloat16 faster than float32 on `device` (auto: its GPU where it has one)."""
    if device != "cpu" and any(Path("/dev", name).exists() for name in GPU_FILES):
        import torch  # start-up: two seconds, only where there may be a GPU

        if torch.cuda.is_available():
            return torch.cuda.get_device_capability() >= GPU_CAPABILITY
    try:
        return BFLOAT16_FLAGS.search(CPU_INFO.read_text(encoding="utf-8")) is not None
    except OSError:
        return False
