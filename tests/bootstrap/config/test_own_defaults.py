"""A section that is set in part has its place's own defaults for the rest, not those of its class."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from blip_bootstrap.config import (
    Config,
    EvaluateConfig,
    FinetuneConfig,
    ItcConfig,
    OptimizerConfig,
    SamplerConfig,
    Section,
    VqaConfig,
    load_config,
)

TUNED = {"captioner": (5_000, 1e-5, 0), "filter": (5_000, 1e-5, 0), "vqa": (5_000, 2e-5, 0)}
"""Steps, learning rate and warm-up of each place that has another optimizer than pre-training."""


class Inner(Section):
    size: int = 1
    speed: int = 1
    colour: str = "grey"


class Middle(Section):
    first: Inner = Inner(size=2, speed=2)
    second: Inner = Inner()
    name: str = "middle"


class Outer(Section):
    middle: Middle = Middle(first=Inner(size=3), name="outer")
    maybe: Inner | None = None


@pytest.mark.parametrize("place", TUNED)
def test_one_setting_leaves_the_others_as_they_are_by_default(place: str) -> None:
    optimizer = load_config(None, [f"{place}.optimizer.batch_size=8"]).model_dump()[place]["optimizer"]
    assert (optimizer["steps"], optimizer["lr"], optimizer["warmup_steps"]) == TUNED[place]
    assert optimizer["batch_size"] == 8


@pytest.mark.parametrize("place", TUNED)
def test_the_seed_of_the_run_changes_the_seed_alone(place: str) -> None:
    with_seed, without = (load_config(None, settings).model_dump()[place] for settings in (["seed=1"], []))
    assert with_seed["optimizer"].pop("seed") == 1
    assert without["optimizer"].pop("seed") == 0
    assert with_seed == without


def test_it_is_the_same_in_yaml_by_set_and_in_python(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("captioner: {optimizer: {lr: 1.0e-4}, itc: {alpha: 0.2}}\n", encoding="utf-8")
    by_set = ["captioner.optimizer.lr=1e-4", "captioner.itc.alpha=0.2"]
    configs = [
        load_config(tmp_path / "c.yaml"),
        load_config(None, by_set),
        load_config(captioner__optimizer__lr=1e-4, captioner__itc__alpha=0.2),
        Config.model_validate({"captioner": {"optimizer": {"lr": 1e-4}, "itc": {"alpha": 0.2}}}),
        Config.model_validate_json('{"captioner": {"optimizer": {"lr": 1e-4}, "itc": {"alpha": 0.2}}}'),
    ]
    assert all(config == configs[0] for config in configs)
    captioner = configs[0].captioner
    assert (captioner.optimizer.steps, captioner.optimizer.lr, captioner.optimizer.warmup_steps) == (5000, 1e-4, 0)
    assert (captioner.itc.alpha_ramp_steps, captioner.itc.alpha) == (0, 0.2)


def test_what_is_set_wins_also_where_it_is_the_default_of_the_class() -> None:
    usual = OptimizerConfig()
    given = {"steps": usual.steps, "lr": usual.lr, "warmup_steps": usual.warmup_steps}
    assert FinetuneConfig.model_validate({"optimizer": given}).optimizer == usual


def test_pretraining_has_the_defaults_of_the_class() -> None:
    assert load_config(None, ["pretrain.optimizer.batch_size=256"]).pretrain == Config().pretrain


def test_evaluation_writes_by_beams_unless_told_otherwise() -> None:
    sampler = load_config(None, ["evaluate.sampler.max_tokens=24"]).evaluate.sampler
    assert sampler == SamplerConfig(preset="beam", max_tokens=24)
    assert load_config(None, ["evaluate.consensus_samples=4", "evaluate.sampler.max_tokens=24"])
    assert load_config(None, ["evaluate.sampler.preset=greedy"]).evaluate.sampler == SamplerConfig(preset="greedy")
    assert load_config(None, ["caption.sampler.max_tokens=24"]).caption.sampler.preset == "nucleus"


def test_a_section_made_in_python_is_taken_as_it_is() -> None:
    assert FinetuneConfig(optimizer=OptimizerConfig(lr=1e-4)).optimizer == OptimizerConfig(lr=1e-4)
    assert VqaConfig(optimizer=OptimizerConfig()).optimizer.steps == 100_000
    assert EvaluateConfig(sampler=SamplerConfig()).sampler.preset == "nucleus"


@pytest.mark.parametrize("settings", [[], ["seed=1"], ["captioner.optimizer.lr=1e-4", "filter.itc.queue_size=0"]])
def test_a_resolved_configuration_comes_back_unchanged(settings: list[str]) -> None:
    config = load_config(None, settings)
    assert Config.model_validate(config.model_dump()) == config
    assert Config.model_validate_json(config.model_dump_json()) == config
    assert Config.model_validate(json.loads(config.model_dump_json())) == config
    whole = FinetuneConfig(optimizer=OptimizerConfig(), itc=ItcConfig())
    assert FinetuneConfig.model_validate_json(whole.model_dump_json()) == whole


def test_it_goes_through_sections_within_sections() -> None:
    assert Outer.model_validate({"middle": {"first": {"speed": 5}}}).middle == Middle(
        first=Inner(size=3, speed=5), name="outer"
    )
    assert Outer.model_validate({"middle": {"second": {"size": 9}}}).middle == Middle(
        first=Inner(size=3), second=Inner(size=9), name="outer"
    )
    assert Middle.model_validate({"first": {"speed": 5}}).first == Inner(size=2, speed=5)
    assert Outer.model_validate({"maybe": {"size": 4}}).maybe == Inner(size=4)


def test_defaults_are_not_changed_by_what_is_given() -> None:
    before = Config().model_dump()
    load_config(None, ["seed=1", "captioner.optimizer.lr=1", "evaluate.sampler.top_k=3"])
    assert Config().model_dump() == before


@pytest.mark.parametrize("wrong", ["3", "[]", "text", "null"])
def test_what_is_no_mapping_is_a_mistake_as_before(wrong: str) -> None:
    with pytest.raises(Exception, match=r"captioner\.optimizer: "):
        load_config(None, [f"captioner.optimizer={wrong}"])
