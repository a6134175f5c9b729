"""Swaps: never a true text, never ungrammatical by its article, the same by the same seed."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from blip_bootstrap.world.judge import judge
from blip_bootstrap.world.scenes import scene_from
from blip_bootstrap.world.world import WorldConfig, make_world
from blip_training.data.word_kinds import WordKinds, words_of
from blip_training.hard_texts.swaps import Swapper

SMALL = WorldConfig(num_web=1, num_human=130, num_held_out=1, num_validation=1, num_vision=0, manners={},
                    blank_share=0, duplicate_share=0, three_things_share=0.2)  # fmt: skip


def swapper_of(*captions: list[str]) -> Swapper:
    return Swapper(WordKinds(captions))


def all_swaps(swapper: Swapper, text: str, captions: list[str]) -> set[str | None]:
    return {swapper.swap(text, captions, random.Random(seed)) for seed in range(60)}


def test_a_listed_word_gives_way_to_another_of_the_human_set() -> None:
    swapper = swapper_of(["a red cat"], ["a green dog"], ["a blue dog"])
    assert all_swaps(swapper, "a red cat", ["a red cat"]) == {"a green cat", "a blue cat"}


def test_a_word_that_another_caption_of_the_picture_has_never_comes_in() -> None:
    swapper = swapper_of(["a red cat", "it is green"], ["a green dog"], ["a blue dog"])
    assert all_swaps(swapper, "a red cat", ["a red cat", "it is green"]) == {"a blue cat"}
    assert not swapper.can_swap("a red cat", ["a red cat", "green, or blue"])


def test_words_around_a_relation_are_exchanged_and_around_a_symmetric_one_are_not() -> None:
    swapper = swapper_of(["a red cat left of a blue cat"])
    captions = ["a red cat left of a blue cat", "red and blue"]
    assert all_swaps(swapper, captions[0], captions) == {"a blue cat left of a red cat"}
    assert all_swaps(swapper, "a red cat and a blue cat", ["a red cat and a blue cat", "red, blue"]) == {None}


def test_a_result_that_is_a_caption_of_the_picture_is_none() -> None:
    swapper = swapper_of(["a red cat left of a blue cat"])
    captions = ["a red cat left of a blue cat", "A blue cat left of a red cat ."]
    assert all_swaps(swapper, captions[0], captions) == {None}


def test_articles_and_capitals_follow() -> None:
    swapper = swapper_of(["An orange cat."], ["a red one"])
    assert all_swaps(swapper, "An orange cat.", ["An orange cat."]) == {"A red cat."}
    assert all_swaps(swapper, "Red , a red Cat", ["Red , a red Cat"]) == {"Orange , a red Cat", "Red , an orange Cat"}


def test_what_comes_in_is_drawn_by_how_often_the_human_set_has_it() -> None:
    swapper = swapper_of(["red"], *([["green"]] * 9), ["blue"])
    drawn = Counter(swapper.swap("red", ["red"], random.Random(seed)) for seed in range(1000))
    assert drawn["green"] / 1000 == pytest.approx(0.9, abs=0.04)


def test_no_swap_of_the_built_in_worlds_captions_is_true(tmp_path: Path) -> None:
    """The kinds are learned from 130 pictures alone; the judge knows what is in them."""
    world = make_world(tmp_path, SMALL)
    rows = [json.loads(line) for line in (world.folder / "human.jsonl").read_text(encoding="utf-8").splitlines()]
    swapper = Swapper(WordKinds(row["captions"] for row in rows))
    swapped = 0
    for row in rows:
        for text in row["captions"]:
            first, again = (swapper.swap(text, row["captions"], random.Random(text)) for _ in range(2))
            assert first == again
            assert first is not None
            assert words_of(first) not in [words_of(one) for one in row["captions"]]
            swapped += judge(scene_from(row["scene"]), first) == "false"
    assert swapped >= 0.98 * 2 * len(rows)
