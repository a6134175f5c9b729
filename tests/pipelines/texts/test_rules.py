"""The rules over web texts, each with texts that it drops and texts like them that it keeps."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from blip_bootstrap.config import RayConfig, TextRulesConfig, load_config
from blip_bootstrap.errors import ConfigError
from blip_bootstrap.schemas.closed_lists import TEXT_RULES
from blip_bootstrap.schemas.tables import IMAGES, TEXT_CHECKS
from blip_bootstrap.storage.notes import NOTES
from blip_bootstrap.storage.parquet import read_parquet, rows_to_table, write_parquet
from blip_pipelines.cluster import each_file
from blip_pipelines.texts.rules import RULES, check_text, language_of, num_words
from blip_pipelines.texts.step import check_texts

DROPPED = {
    "boilerplate": [
        "Click to enlarge", "click here to view larger image", "Image may contain: one or more people",
        "No photo description available.", "image not available", "Stock photo", "Embedded image permalink",
        "profile picture", "Photo 3 of 12", "image 7", "Featured Image", "alt text", "Pin it on Pinterest",
        "Loading...", "Image for the post", "Thumbnail", "placeholder image", "Photo of this product",
        "Royalty Free Stock Photo", "Click image to see it larger", "Hover to zoom", "Image for this news article",
    ],
    "file_name": [
        "IMG_20190504_1234.jpg", "DSC00123", "https://example.com/a.png?w=3", "my holiday photo.JPG", "1234567890",
        "product_48213_large", "b7e23ec29af22b0b4e41da31e868d572", "123e4567-e89b-12d3-a456-426614174000",
        "uploads/2019/05/cat-3.webp",
    ],
    "text_length": ["dog", "red shoes", "word " * 257],
    "repeated_words": ["cheap shoes cheap shoes cheap shoes online", "Berlin Berlin Berlin hotel"],
    "contact_details": [
        "write to jane.doe@example.org for prints", "mail jane (at) example.co.uk", "call +49 30 1234567 now",
        "Plumber in Austin (512) 555-0123", "ring 555-123-4567 today", "Tel. 020 7946 0958", "whatsapp: 07700 900123",
    ],
    "few_letters": ["12 x 34 x 56 cm (2)", "$$$ 50% !!! 99", "★★★★★ 4.8/5 (1234)"],
}  # fmt: skip

KEPT = {
    "boilerplate": [
        "a man clicks his camera to photograph a bird", "photo of a brown dog on the beach", "home of the brave",
        "stock photo of two cats", "loading hay onto a cart", "picture frame on a white wall", "a screenshot of a map",
        "Photo of this old house on a hill", "Press photographers see the queen", "Tap dancers on a larger stage",
        "click beetle with an open shell",
    ],
    "file_name": [
        "a dog named jpg", "Boeing 747-400 at the gate", "5 red apples", "e-bike", "Mercedes", "well-known street",
        "The 1969 moon landing",
    ],
    "text_length": ["a red dog", "word " * 256, "一只狗在海滩上奔跑"],
    "repeated_words": [
        "a man in a red shirt and a woman in a blue dress on a bench in a park",
        "the cat and the dog and the bird in the tree", "New York, New York skyline at night",
    ],
    "contact_details": [
        "the 1936 Olympics in Berlin", "5,000,000 people at 12:30", "iso 9001 2015 10 12 certificate",
        "price 1.299.000 euro", "follow @jane on the beach", "born 12-05-1998 in Rome", "size 100-200-3000",
    ],
    "few_letters": ["Boeing 747-400", "五只狗", "नमस्ते दुनिया", "7 dogs", "café à 5 €"],
}  # fmt: skip


@pytest.mark.parametrize(("rule", "text"), [(rule, text) for rule, texts in DROPPED.items() for text in texts])
def test_a_rule_drops(rule: str, text: str) -> None:
    assert RULES[rule](text, TextRulesConfig())
    assert check_text(text, TextRulesConfig(rules=(rule,)))[0] == rule


@pytest.mark.parametrize(("rule", "text"), [(rule, text) for rule, texts in KEPT.items() for text in texts])
def test_a_rule_keeps(rule: str, text: str) -> None:
    assert not RULES[rule](text, TextRulesConfig())


def test_a_language_is_dropped_where_it_is_sure() -> None:
    rule = TextRulesConfig.model_validate("language")
    german = "ein kleiner brauner Hund läuft über die grüne Wiese hinter dem Haus"
    reason, language, probability = check_text(german, rule)
    assert (reason, language) == ("language", "de")
    assert (probability or 0) > 0.8
    assert check_text("a small brown dog runs over the green meadow behind the house", rule)[:2] == (None, "en")
    assert check_text(german, rule.model_copy(update={"languages": ("en", "de")}))[0] is None
    unsure = "Mercedes Benz"
    assert check_text(unsure, rule)[0] is None or language_of(unsure)[1] >= 0.8


def test_pidgin_counts_as_english_and_entities_as_their_letters() -> None:
    rule = TextRulesConfig(rules=("language", "repeated_words"))
    names = "The Season, fashion plate for 'The Queen', Septemb Pin"
    assert language_of(names)[0] == "pcm"
    assert check_text(names, rule)[:2] == (None, "pcm")
    assert check_text(names, rule.model_copy(update={"languages": ("de",)}))[0] == "language"
    assert check_text("Gotrek &amp; Felix &amp; Snorri &amp; friends in a boat", rule)[0] is None


def test_rules_are_named_in_several_ways() -> None:
    cc12m = ("boilerplate", "file_name", "text_length", "repeated_words", "language")
    for given in ("cc12m", ["cc12m"], {"rules": "cc12m"}, {"rules": [*cc12m]}, ",".join(cc12m)):
        assert TextRulesConfig.model_validate(given).rules == cc12m
    assert TextRulesConfig.model_validate(["few_letters", "cc12m"]).in_order == (*cc12m, "few_letters")
    assert TextRulesConfig().rules == ()


def test_a_rule_that_is_none_is_told(tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("text_rules: [boilerplates]\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="text_rules"):
        load_config(config)
    config.write_text("text_rules: {rules: cc12m, min_words: 4}\n", encoding="utf-8")
    assert load_config(config).text_rules.min_words == 4


def test_the_first_rule_in_the_order_of_reasons_counts() -> None:
    every = TextRulesConfig(rules=TEXT_RULES)
    assert check_text("IMG_0001.jpg", every)[0] == "file_name"
    assert check_text("call call", every)[0] == "text_length"
    assert [check_text(empty, every) for empty in (None, "", "  ")] == [(None, None, None)] * 3


def test_letters_count_as_words_where_there_are_no_spaces() -> None:
    assert num_words("a red dog") == 3
    assert num_words("红色的狗") == 4
    assert num_words("Nike 运动鞋") == 4


def test_the_step_writes_a_row_for_each_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["a brown dog on the beach", "IMG_0001.jpg", None, "dog"]
    rows: list[dict[str, Any]] = [{"key": f"00000{i:05d}", "caption": text} for i, text in enumerate(texts)]
    for name, some in (("part-00000.parquet", rows), ("part-00001.parquet", [])):
        write_parquet(tmp_path / "images" / name, rows_to_table(some, IMAGES), IMAGES)
    config = TextRulesConfig(rules=("file_name", "text_length"))
    args = tmp_path / "out", tmp_path / "images"
    counts = check_texts(*args, config=config, ray=RayConfig(address="none"))
    assert counts == {"rows": 4, "file_name": 1, "text_length": 1}
    table = read_parquet(tmp_path / "out" / "part-00000.parquet")
    assert table.schema.names == TEXT_CHECKS.schema.names
    assert table["reason"].to_pylist() == [None, "file_name", None, "text_length"]
    assert table["language"].null_count == 4
    monkeypatch.setattr(each_file, "read_parquet", lambda path, columns: pytest.fail(f"{path} was read"))
    before = (tmp_path / "out" / "part-00000.parquet").stat().st_mtime_ns
    assert check_texts(*args, config=config, ray=RayConfig(address="none")) == counts
    assert (tmp_path / "out" / "part-00000.parquet").stat().st_mtime_ns == before
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "out" / NOTES)  # as an earlier version left it
    assert check_texts(*args, config=config, ray=RayConfig(address="none")) == counts
