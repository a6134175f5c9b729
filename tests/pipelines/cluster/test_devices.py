"""`dtype: auto`: what it becomes, that it stays so, and the line about slow bfloat16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from blip_bootstrap.config import Config, RayConfig, dump_yaml
from blip_bootstrap.errors import ConfigError
from blip_bootstrap.loop.layout import Layout
from blip_bootstrap.storage.manifest import recipe_of
from blip_pipelines.cluster import devices
from blip_pipelines.cluster.devices import PLACES, resolve_dtypes

WITH = "flags\t\t: fpu sse2 avx512_bf16 amx_tile\n"
WITHOUT = "flags\t\t: fpu sse2 avx2 avx512f avx512_vbmi2\n"
ALL_AUTO: dict[str, Any] = {
    "pretrain": {"optimizer": {"dtype": "auto", "device": "cpu"}},
    "captioner": {"optimizer": {"dtype": "auto", "device": "cpu"}},
    "filter": {"optimizer": {"dtype": "auto", "device": "cpu"}},
    "caption": {"dtype": "auto", "device": "cpu"},
    "evaluate": {"dtype": "auto", "device": "cpu"},
    "vqa": {"optimizer": {"dtype": "auto", "device": "cpu"}},
}


@pytest.fixture
def cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in the place of the kernel's description of the processor."""
    monkeypatch.setattr(devices, "CPU_INFO", tmp_path / "cpuinfo")
    return tmp_path / "cpuinfo"


def found(config: Config) -> set[str]:
    data = config.model_dump()
    sections = []
    for place in PLACES.values():
        node = data
        for name in place:
            node = node[name]
        sections.append(node["dtype"])
    return set(sections)


@pytest.mark.parametrize(
    ("flags", "expected"), [(WITH, "bfloat16"), (WITHOUT, "float32"), ("Features : fp asimd bf16 i8mm\n", "bfloat16")]
)
def test_auto_goes_by_the_processor(tmp_path: Path, cpu: Path, flags: str, expected: str) -> None:
    cpu.write_text(flags)
    said: list[str] = []
    resolved = resolve_dtypes(Config.model_validate({"root": tmp_path / "run", **ALL_AUTO}), said.append)
    assert (found(resolved), said) == ({expected}, [])


def test_a_run_goes_on_elsewhere_as_it_began(tmp_path: Path, cpu: Path) -> None:
    """The recipe of the captions is the same on both machines, so that they are neither mixed nor made anew."""
    config = Config.model_validate({"root": tmp_path / "run", **ALL_AUTO})
    cpu.write_text(WITH)
    began = resolve_dtypes(config, lambda line: None)
    config.root.mkdir()
    (config.root / "config.yaml").write_text(dump_yaml(began))
    cpu.write_text(WITHOUT)
    said: list[str] = []
    resumed = resolve_dtypes(config, said.append)
    recipes = [recipe_of("caption", Layout(one, 1).captions.section, {}) for one in (began, resumed)]  # type: ignore[union-attr]
    assert recipes[0] == recipes[1]
    assert recipes[0]["config"]["dtype"] == "bfloat16"
    assert len(said) == 1
    assert said[0].startswith("pretrain, captioner, filter, caption: bfloat16 is many times slower")


def test_a_run_begun_in_float32_stays_so_and_says_how_to_change_it(tmp_path: Path, cpu: Path) -> None:
    """Also where float32 was named then and the configuration says auto now: auto alone makes nothing anew."""
    cpu.write_text(WITH)
    config = Config.model_validate({"root": tmp_path / "run", "caption": {"dtype": "auto", "device": "cpu"}})
    config.root.mkdir()
    named = config.model_copy(update={"caption": config.caption.model_copy(update={"dtype": "float32"})})
    (config.root / "config.yaml").write_text(dump_yaml(named))
    said: list[str] = []
    assert resolve_dtypes(config, said.append).caption.dtype == "float32"
    assert said == ["caption: float32, as this run was begun; set `dtype: bfloat16` to make it anew, and faster"]
    fresh = config.model_copy(update={"root": tmp_path / "fresh"})
    assert resolve_dtypes(fresh, said.append).caption.dtype == "bfloat16"
    assert len(said) == 1


def test_slow_bfloat16_is_said_of_the_steps_that_run(tmp_path: Path, cpu: Path) -> None:
    cpu.write_text(WITHOUT)
    given = {"captioner": {"checkpoint": "a/b"}, "filter": {"checkpoint": "a/c"}}
    stop = {"pretrain": {"optimizer": {"steps": 0, "dtype": "bfloat16"}}, "evaluate": {"dtype": "bfloat16"}}
    config = {"root": tmp_path, **given, **stop, "caption": {"dtype": "bfloat16", "device": "cpu"}}
    said: list[str] = []
    assert resolve_dtypes(Config.model_validate(config), said.append).caption.dtype == "bfloat16"
    assert [line.split(":")[0] for line in said] == ["caption"]
    config["caption"] = {"dtype": "float32"}
    resolve_dtypes(Config.model_validate(config), said.append)
    assert len(said) == 1


@pytest.mark.ray
def test_on_a_cluster_its_workers_are_asked(tmp_path: Path, ray_config: RayConfig) -> None:
    """The session's Ray is the cluster here, and it has this machine's processor."""
    asked = ray_config.model_copy(update={"address": "auto"})
    config = Config.model_validate({"root": tmp_path, "caption": {"dtype": "auto", "device": "cpu"}, "ray": asked})
    expected = "bfloat16" if devices.has_fast_bfloat16("cpu") else "float32"
    assert resolve_dtypes(config, lambda line: None).caption.dtype == expected


ASKS_FOR_CUDA: dict[str, Any] = {
    "pretrain": {"optimizer": {"device": "cuda"}},
    "evaluate": {"device": "cuda"},  # left out: there is no held-out set
    "caption": {"device": "cuda"},
}


def test_cuda_where_there_is_none_is_refused_before_any_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = Config.model_validate({"root": tmp_path, **ASKS_FOR_CUDA})
    with pytest.raises(ConfigError) as refused:
        resolve_dtypes(config, lambda line: None)
    assert [line.split(":")[0] for line in refused.value.mistakes] == ["pretrain.optimizer.device", "caption.device"]
    assert resolve_dtypes(config, lambda line: None, ["filter"]) == config
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_dtypes(config, lambda line: None) == config


@pytest.mark.ray
def test_a_cluster_may_still_get_a_gpu(tmp_path: Path, ray_config: RayConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ray_config.model_copy(update={"address": "auto"})
    config = Config.model_validate({"root": tmp_path, "ray": asked, **ASKS_FOR_CUDA})
    said: list[str] = []
    for count in (0.0, 1.0):
        monkeypatch.setattr(devices, "num_gpus", lambda count=count: count)
        assert resolve_dtypes(config, said.append) == config
    assert [line.split(" (")[0] for line in said] == ["pretrain, caption: waiting for a GPU"]
