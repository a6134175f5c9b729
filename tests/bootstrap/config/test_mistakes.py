"""Mistakes in the configuration: what is wrong in plain words, and what to write instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from blip_bootstrap.config import load_config
from blip_bootstrap.errors import ConfigError, InputError

PYDANTICS_WORDS = (
    "input should be",
    "string should",
    "valid dictionary",
    "instance of",
    "tuple",
    "unable to",
    "got none",
    "field required",
)


def mistakes_of(tmp_path: Path, text: str) -> list[str]:
    (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "c.yaml")
    assert not any(words in str(caught.value).lower() for words in PYDANTICS_WORDS)
    assert all("\n" not in mistake for mistake in caught.value.mistakes)
    return caught.value.mistakes


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("caption:\n  # candidates: 3\n", "caption: is empty; write a value, or leave the line out"),
        ("pretrain:\n  optimizer:\n", "pretrain.optimizer: is empty; write a value, or leave the line out"),
        ("select: {itm_threshold: }", "select.itm_threshold: is empty; write a value"),
        ("download: {urls: a.tsv}",
         "download.urls: a list was expected, found the text 'a.tsv'; write urls: [{path: a.tsv}]"),
        ("download: {urls: {path: a.tsv}}",
         "download.urls: a list was expected, found one mapping; put the entry in brackets"),
        ("download: {urls: [a.tsv]}",
         "download.urls.0: settings were expected, found the text 'a.tsv'; write {path: a.tsv}"),
        ("download: {urls: [[a.tsv]]}", "download.urls.0: settings were expected, found a list"),
        ("download: {urls: [{dataset: a}]}", "download.urls.0.path: is needed, and is not given"),
        ("download: {urls: [{path: a, url_column: 3}]}",
         'url_column: a text was expected, found 3; put it in quotes: url_column: "3"'),
        ("download: {urls: [{path: a, dataset: 2026-01-02}]}",
         'dataset: a text was expected, found 2026-01-02; put it in quotes'),
        ("download: {urls: [{path: a, dataset: no}]}",
         'found false (so YAML reads yes, no, on and off); put the text in quotes'),
        ("download: {resize_mode: no}",
         'download.resize_mode: YAML reads a bare no as false; put it in quotes: resize_mode: "no"'),
        ("download: {resize_mode: bord}", "download.resize_mode: is one of no, border, keep_ratio"),
        ("filter: {num_workers: 2, min_workers: 4}", "filter: min_workers 4 is more than num_workers 2; lower it"),
        (
            "pretrain: {num_workers: 7, optimizer: {batch_size: 24, accumulate: 2}}",
            "pretrain: optimizer.batch_size 24 cannot be shared out evenly over num_workers 7 x accumulate 2; take a "
            "multiple of 14",
        ),
        ("select: {strategy: 3}", "select.strategy: is one of threshold, best_per_image"),
        ("select: [itm_threshold]", "select: settings were expected, found a list; write the settings below it"),
        ("select: threshold", "select: settings were expected, found the text 'threshold'"),
        ("caption: {candidates: many}", "caption.candidates: a whole number was expected (got 'many')"),
        ("caption: {candidates: 1.5}", "caption.candidates: a whole number was expected (got 1.5)"),
        ("caption: {compile: perhaps}", "caption.compile: true or false was expected (got 'perhaps')"),
        ("caption: {captioners: a/b}",
         "caption.captioners: a list was expected, found the text 'a/b'; write captioners: [a/b]"),
        ("select: {itm_threshold: 7}", "select.itm_threshold: must be at most 1"),
        ("caption: {candidates: 0}", "caption.candidates: must be at least 1 (got 0)"),
        ("download: {timeout_s: 0}", "download.timeout_s: must be more than 0"),
        ("download: {timeout_s: [1]}", "download.timeout_s: a number was expected (got a list)"),
        ("human: h.jsonl", "human: settings were expected, found the text 'h.jsonl'"),
        ("select: {1: 2}", "a key is a text; write it in quotes"),
        ("download: {timeout_s: .inf}", "download.timeout_s: a finite number was expected (got inf)"),
        ("pretrain: {optimizer: {lr: .inf}}", "pretrain.optimizer.lr: a finite number was expected (got inf)"),
        ('download: {contact: "é"}', "download.contact: plain letters, digits and signs (ASCII) on one line"),
        ("text_rules: cc13m", "text_rules: is one of cc12m, boilerplate,"),
        ("text_rules: [language, file_names]", "(got 'file_names'); did you mean file_name?"),
        ("text_rules: [[language]]", "text_rules.rules.0: is one of boilerplate,"),
        ("download.image_size: 3", "a dot is for --set; in the file write download: {image_size: ...}"),
    ],
)  # fmt: skip
def test_what_to_write(tmp_path: Path, text: str, said: str) -> None:
    (mistake,) = mistakes_of(tmp_path, text)
    assert said in mistake


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("select: {top_k: 1}\ncaption: {}\nselect: {top_k: 2}\n", "the key 'select' is there twice in one mapping"),
        ("select:\n  top_k: 1\n  top_k: 2\n", "line 2: the key 'top_k' is there twice"),
        ("[" * 5000, "nested too deep"),
        ("a: 2026-13-45", "not YAML (month must be in 1..12"),
    ],
)
def test_what_yaml_takes_amiss(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError) as caught:
        load_config(tmp_path / "c.yaml")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings_reach_into_lists(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("download: {urls: [{path: a.tsv}, {path: b.tsv}]}")
    config = load_config(tmp_path / "c.yaml", ["download.urls.1.url_column=URL", "download.urls.0.caption_column=null"])
    assert [one.url_column for one in config.download.urls] == ["url", "URL"]
    assert [one.caption_column for one in config.download.urls] == [None, "caption"]
    for setting, said in (
        ("download.urls.2.path=x", "has 2 entries"),
        ("download.urls.0=x", "names no single setting"),
    ):
        with pytest.raises(ConfigError, match=said):
            load_config(tmp_path / "c.yaml", [setting])


def test_anchors_and_merges_stay_yaml(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("captioner: &a {word_dropout: 0.1, prompt: x}\nfilter: {<<: *a, prompt: y}\n")
    config = load_config(tmp_path / "c.yaml")
    assert (config.filter.word_dropout, config.filter.prompt, config.captioner.prompt) == (0.1, "y", "x")
