from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from blip_bootstrap.config import Config, dump_yaml, load_config
from blip_bootstrap.errors import ConfigError, InputError


def mistakes_of(*settings: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(None, settings)
    return caught.value.mistakes


def test_every_mistake_is_listed_at_once_with_a_guess() -> None:
    mistakes = mistakes_of("selct.itm_threshold=.6", "select.itm_treshold=.6", "select.itm_threshold=7")
    assert any("selct: unknown key; did you mean select?" in m for m in mistakes)
    assert any("select.itm_treshold: unknown key; did you mean itm_threshold?" in m for m in mistakes)
    assert any(m.startswith("select.itm_threshold: ") and "(got 7)" in m for m in mistakes)
    assert len(mistakes) == 3
    assert not any("\n" in m for m in mistakes)


def test_a_guess_reaches_into_lists_and_optional_sections() -> None:
    mistakes = mistakes_of("download.urls=[{path: a.tsv, caption_colum: alt}]", "human={path: h.jsonl, imge_root: x}")
    assert "download.urls.0.caption_colum: unknown key; did you mean caption_column?" in mistakes
    assert "human.imge_root: unknown key; did you mean image_root?" in mistakes


def test_an_unknown_key_far_from_all_names_the_known_ones() -> None:
    (mistake,) = mistakes_of("select.zzzzzz=1")
    assert "known keys: " in mistake
    assert "itm_threshold" in mistake


def test_a_setting_without_equals_sign_is_a_mistake() -> None:
    assert mistakes_of("select.itm_threshold") == ["--set select.itm_threshold: expected section.key=value"]


def test_settings_win_over_the_file_and_overrides_over_both(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("root: a\nselect: {itm_threshold: 0.3}\n")
    config = load_config(file, ["select.itm_threshold=0.7"], root=Path("b"), download__limit=5)
    assert (config.select.itm_threshold, config.root, config.download.limit) == (0.7, Path("b"), 5)


@pytest.mark.parametrize(("text", "word"), [("a: [", "not YAML"), ("- a\n", "mapping"), ("a: \xff", "not YAML")])
def test_a_file_that_is_no_config_is_one_line(tmp_path: Path, text: str, word: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=word) as caught:
        load_config(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("seed", "why"),
    [
        (-1, "must be at least 0 (got -1)"),
        (2**63, f"must be under 2^63, as torch has it (got {2**63})"),
        ("x", "a whole number was expected (got 'x')"),
    ],
)
def test_a_wrong_seed_is_told_once(seed: object, why: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_config(None, [f"seed={seed}"])
    assert raised.value.mistakes == [f"seed: {why}"]
    with pytest.raises(ConfigError) as raised:
        load_config(None, [f"caption.seed={seed}"])
    assert raised.value.mistakes == [f"caption.seed: {why}"]


def test_the_seed_reaches_sections_that_set_none() -> None:
    config = load_config(None, ["seed=7", "caption.seed=3"])
    assert (config.pretrain.optimizer.seed, config.filter.optimizer.seed, config.caption.seed) == (7, 7, 3)


def test_what_is_dumped_loads_to_the_same(tmp_path: Path) -> None:
    config = load_config(None, ["seed=7", "download.urls=[{path: a.tsv}]", "human.path=h.jsonl"])
    file = tmp_path / "c.yaml"
    file.write_text(dump_yaml(config))
    assert load_config(file) == config
    assert Config.model_validate(yaml.safe_load(dump_yaml(config))) == config


@pytest.mark.parametrize("setting", ["pretrain.model.vision.heads=7", "pretrain.model.text.max_tokens=600"])
def test_parts_that_do_not_fit_are_refused(setting: str) -> None:
    (mistake,) = mistakes_of(setting)
    assert mistake.startswith(setting.rsplit(".", 1)[0])


def test_what_an_evaluation_needs_is_asked_for() -> None:
    by_lm = ["evaluate.rerank_top_k=4", "evaluate.rerank_by=lm"]
    assert mistakes_of(*by_lm) == ["config: evaluate.rerank_by lm needs a human set (human)"]
    assert load_config(None, [*by_lm, "human.path=h.jsonl"]).evaluate.wants_references
    (mistake,) = mistakes_of("evaluate.consensus_samples=5", "evaluate.sampler={preset: greedy}")
    assert mistake.startswith("evaluate: consensus_samples chooses among beams")
    assert load_config(None, ["evaluate.consensus_samples=5"]).evaluate.consensus_samples == 5


SHIPPED = sorted((Path(__file__).parents[3] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_configurations_have_no_mistake(path: Path) -> None:
    assert load_config(path).root != load_config().root


def test_annotated_sets_are_stored_as_the_webs_pictures_where_they_say_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        "download: {image_size: 192, resize_mode: border, max_pixels: 9, timeout_s: 3}\n"
        "human: {path: human.jsonl}\nheld_out: {path: held_out.jsonl, image_size: 384, resize_mode: center_crop}\n"
    )
    config = load_config(file, ["download.encode_quality=80", "human.decode_timeout_s=2"])
    assert config.human
    assert config.held_out
    rule = ("image_size", "resize_mode", "encode_quality", "max_pixels", "decode_timeout_s")
    assert [getattr(config.human, name) for name in rule] == [192, "border", 80, 9, 2.0]
    assert [getattr(config.held_out, name) for name in rule] == [384, "center_crop", 80, 9, 10.0]
    again = Config.model_validate(config.model_dump())
    assert again == config
    assert "human.image_size: " in mistakes_of("human.path=x", "human.image_size=0")[0]


def test_a_sample_of_the_human_set_is_drawn_by_the_runs_seed() -> None:
    human = {"path": "human.jsonl", "sample": 300}
    drawn = [
        Config.model_validate({"seed": 3, "human": human}),
        Config.model_validate({"seed": 3, "human": human | {"sample_seed": 5}}),
        Config.model_validate({"seed": 3, "human": {"path": "human.jsonl"}}),
    ]
    assert [one.human.sample_seed for one in drawn if one.human] == [3, 5, 0]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"captioner": {"shared": True}}, "set filter.shared"),
        ({"filter": {"shared": True}, "captioner": {"checkpoint": "x"}}, "leave out captioner.checkpoint"),
        ({"filter": {"shared": True, "checkpoint": "x"}}, "filter.shared is of a model that is tuned"),
    ],
)
def test_a_shared_model_is_one_that_is_tuned(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Config.model_validate(settings)
