"""One caption of several: the one that the others agree with, and ITC's say in it."""

from __future__ import annotations

import pytest

from blip_training.evaluate.caption_metrics import score_captions
from blip_training.evaluate.consensus import agreement, choose

CANDIDATES = {
    "a": ["a red car on a road", "a brown dog runs in the snow"],
    "b": ["two men play football", "a woman sits on a bench"],
}
DRAWN = {
    "a": ["a brown dog runs", "the dog plays in the snow", "a dog in the snow"],
    "b": ["a woman on a bench", "a woman sits down", "two men talk"],
}


def test_agreement_is_cider_with_the_drawn_captions_as_references() -> None:
    found = agreement(CANDIDATES, DRAWN)
    # As many pictures as candidates: the document frequencies are those of the drawn texts, each once a candidate.
    places = {f"{key}{at}": (key, at) for key, texts in CANDIDATES.items() for at in range(len(texts))}
    expected = score_captions(
        {name: CANDIDATES[key][at] for name, (key, at) in places.items()},
        {name: DRAWN[key] for name, (key, _) in places.items()},
    ).cider
    for name, (key, at) in places.items():
        assert found[key][at] == pytest.approx(expected[name])


def test_the_caption_that_the_others_agree_with_is_taken() -> None:
    assert choose(CANDIDATES, DRAWN) == {"a": CANDIDATES["a"][1], "b": CANDIDATES["b"][1]}


def test_itc_decides_where_it_weighs_enough() -> None:
    similar = {"a": [0.9, 0.1], "b": [0.2, 0.2]}
    assert choose(CANDIDATES, DRAWN, similar, 0.0) == choose(CANDIDATES, DRAWN)
    assert choose(CANDIDATES, DRAWN, similar, 100.0) == {"a": CANDIDATES["a"][0], "b": CANDIDATES["b"][1]}


def test_equal_candidates_leave_the_first() -> None:
    assert choose({"a": ["x", "y"]}, {"a": ["z"]}) == {"a": "x"}
