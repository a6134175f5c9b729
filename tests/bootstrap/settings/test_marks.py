from __future__ import annotations

from typing import Annotated

from pydantic import Field

from blip_bootstrap.config import (
    Config,
    FinetuneConfig,
    OptimizerConfig,
    Section,
    TextConfig,
    VisionConfig,
    load_config,
)
from blip_bootstrap.settings.marks import ByContent, IdleWhere, Later, Speed, mark_of


class Marked(Section):
    plain: int = 0
    fast: Annotated[int, Field(ge=0), Speed()] = Field(0, description="has a mark and a limit")
    several: tuple[Annotated[str, ByContent()], ...] = ()
    optional: Annotated[str, ByContent()] | None = None
    idle: Annotated[int, IdleWhere("plain", 0)] = 0


def test_a_mark_is_found_on_a_field_and_on_a_type_within_its_type() -> None:
    fields = Marked.model_fields
    assert mark_of(fields["fast"], Speed) == Speed()
    assert mark_of(fields["fast"], Later) is None
    assert mark_of(fields["plain"], Speed) is None
    assert [name for name, field in fields.items() if mark_of(field, ByContent)] == ["several", "optional"]
    assert mark_of(fields["idle"], IdleWhere) == IdleWhere("plain", 0)


def test_every_model_and_tokenizer_counts_by_its_content() -> None:
    assert mark_of(TextConfig.model_fields["tokenizer"], ByContent)
    assert mark_of(VisionConfig.model_fields["start"], ByContent)
    assert mark_of(FinetuneConfig.model_fields["checkpoint"], ByContent)


def test_the_seed_of_the_run_reaches_every_section_that_has_one_and_does_not_set_it() -> None:
    config = load_config(None, ["seed=5", "filter.optimizer.seed=7", "report={}"])
    seeds = {
        "pretrain": config.pretrain.optimizer.seed, "captioner": config.captioner.optimizer.seed,
        "caption": config.caption.seed, "select": config.select.seed, "evaluate": config.evaluate.seed,
        "report": config.report.seed, "vqa": config.vqa.optimizer.seed,
    }  # fmt: skip
    assert seeds == dict.fromkeys(seeds, 5)
    assert config.filter.optimizer.seed == 7


def test_the_seed_leaves_a_section_alone_that_is_made_already() -> None:
    given = FinetuneConfig(optimizer=OptimizerConfig(seed=3))
    assert Config.model_validate({"seed": 5, "captioner": given}).captioner.optimizer.seed == 3
