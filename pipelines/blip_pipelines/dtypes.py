"""The number format of each step: `dtype: auto` becomes bfloat16 where the device multiplies it fast, else float32."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from blip_bootstrap.config import Config, Device, RayConfig
from blip_pipelines.ray_session import NO_RAY, connect, num_gpus

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


def resolve_dtypes(config: Config, say: Say, steps: Sequence[str] | None = None) -> Config:
    """The configuration with bfloat16 or float32 for every `dtype: auto`, by the devices that will do the work.

    What the run under `config.root` was begun with stays, found by `auto` or named, and also where it goes on
    elsewhere: one output never holds both, and `auto` alone makes nothing anew. Says in one line which of `steps`
    (names of PLACES; None: those of a round) stay float32 for that where bfloat16 is fast, and which are to use
    bfloat16 on a CPU that is slow at it.
    """
    data, begun = config.model_dump(), _begun(config.root)
    fast = {device: _fast_bfloat16(device, config.ray) for device in _devices(data)}
    steps, kept = steps or _used(config), []
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
    if ray_config.address in ("local", NO_RAY):
        return has_fast_bfloat16(device)
    connect(ray_config)
    import ray

    gpus = 1 if device != "cpu" and num_gpus() else 0
    return bool(ray.get(ray.remote(num_cpus=1, num_gpus=gpus)(has_fast_bfloat16).remote(device)))


def has_fast_bfloat16(device: Device) -> bool:
    """Whether this machine multiplies bfloat16 faster than float32 on `device` (auto: its GPU where it has one)."""
    if device != "cpu" and any(Path("/dev", name).exists() for name in ("nvidiactl", "kfd")):
        import torch

        if torch.cuda.is_available():
            return torch.cuda.get_device_capability() >= GPU_CAPABILITY
    try:
        return BFLOAT16_FLAGS.search(CPU_INFO.read_text(encoding="utf-8")) is not None
    except OSError:
        return False
