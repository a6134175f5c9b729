from __future__ import annotations

from pathlib import Path

import pytest

from blip_bootstrap.config import WriterConfig, load_config
from blip_bootstrap.errors import ConfigError
from blip_bootstrap.loop.check import check_config
from blip_bootstrap.loop.layout import Layout
from blip_bootstrap.loop.whole import digest_of_input
from blip_pipelines.captioners.prompts import digest_of_prompt, seed_of_ask, wanted_of
from blip_pipelines.captioners.registry import BUILT_IN, KINDS, mistakes_of


def writer(**settings: object) -> WriterConfig:
    return WriterConfig.model_validate({"name": "one", "kind": "sure", **settings})


def test_packages_bring_kinds_and_take_no_built_in_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "other-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[blip_bootstrap.captioners]\nblip = nowhere:None\nnew = nowhere:Thing\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert KINDS.known()["blip"] == BUILT_IN["blip"]
    assert KINDS.known()["new"] == "nowhere:Thing"
    with pytest.raises(ConfigError, match=r"kind: new \(nowhere:Thing\) cannot be imported"):
        KINDS.make("new", {})


@pytest.mark.usefixtures("registered")
def test_mistakes_are_told_by_writer_and_option() -> None:
    assert mistakes_of(writer()) == []
    assert mistakes_of(writer(kind="sur"))[0].startswith(
        "caption.writers.one: kind: there is no captioner 'sur'; did you mean sure?"
    )
    assert mistakes_of(writer(options={"wrod": 1})) == ["caption.writers.one: options.wrod: there is no such option"]
    sampler = {"long": {"text": "hi", "sampler": {"top": 1}}}
    assert mistakes_of(writer(prompts=sampler)) == [
        "caption.writers.one: prompts.long.sampler: options.top: there is no such option"
    ]
    transformers = mistakes_of(writer(kind="transformers", options={"max_tokens": 0, "temprature": 1}))
    assert transformers == [
        "caption.writers.one: options.checkpoint: is needed, and is not given",
        "caption.writers.one: options.max_tokens: must be at least 1 (got 0)",
        "caption.writers.one: options.temprature: there is no such option; there are checkpoint, revision, system, "
        "temperature, top_p, top_k, min_tokens, max_tokens, batch_size, one_by_one, chat_template",
    ]
    beams = mistakes_of(writer(kind="blip", options={"checkpoint": "x/y", "preset": "beam"}))
    assert beams == ["caption.writers.one: options.preset: beam has beams; use nucleus, blip-official or greedy"]


@pytest.mark.usefixtures("registered")
def test_the_recipe_holds_the_digest_and_not_the_options(tmp_path: Path) -> None:
    """`calls` does not decide about texts, and `word` does: so says the captioner."""

    def input_of(**options: object) -> str:
        settings = [f"caption.writers=[{{name: one, kind: sure, options: {options}}}]"]
        writers = Layout(load_config(None, settings, root=tmp_path), 1).writers
        assert writers
        assert writers.keyword == "writers"
        return digest_of_input(writers)

    assert input_of(word="a") == input_of(word="a", at_most=3)
    assert input_of(word="a") != input_of(word="b")
    assert Layout(load_config(None, ["caption.writers=[{name: one, kind: sure}]"]), 0).writers is None
    assert Layout(load_config(), 1).writers is None
    assert len(KINDS.digest([writer(kind="gone")])) == 64  # what is wrong is said by who works with it


@pytest.mark.usefixtures("registered")
def test_without_its_own_writer_a_round_needs_no_captioner(tmp_path: Path) -> None:
    own = ["caption.writers=[{name: one, kind: sure}]", "caption.own_writer=false", "filter.checkpoint=f/f"]
    config = load_config(None, ["download.urls=[{path: x.tsv}]", *own, "pretrain.optimizer.steps=0"], root=tmp_path)
    assert config.models_given
    assert Layout(config, 1).captioner is None
    assert not [line for line in check_config(config, 1) if line.startswith(("captioner", "human"))]
    learning = load_config(None, [*own[:2], "filter.hard_texts.captioner=0.5"], root=tmp_path)
    assert learning.needs_captioner
    assert Layout(learning, 1).captioner


def test_prompts_are_asked_in_the_order_of_their_names() -> None:
    prompts = {"short": "a", "long": {"text": "b {alt_text}", "candidates": 2, "sampler": {"top_k": 3}}}
    wanted = list(wanted_of(writer(prompts=prompts)))
    assert [(one.prompt, one.candidate) for one in wanted] == [("long", 0), ("long", 1), ("short", 0)]
    assert wanted[0].filled("red {shoes}") == "b red {shoes}"
    digests = [digest_of_prompt(one.config) for one in wanted]
    assert digests[0] == digests[1] != digests[2]
    assert [len(one) for one in digests] == [16] * 3


def test_the_seed_is_of_run_picture_candidate_and_prompt() -> None:
    seeds = {seed_of_ask(*one) for one in [(0, "u", 0, "p"), (1, "u", 0, "p"), (0, "v", 0, "p"), (0, "u", 1, "p"),
                                           (0, "u", 0, "q")]}  # fmt: skip
    assert len(seeds) == 5
    assert all(0 <= seed < 2**63 for seed in seeds)
