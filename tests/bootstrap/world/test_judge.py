from __future__ import annotations

import random

import pytest

from blip_bootstrap.world.judge import judge
from blip_bootstrap.world.scenes import Scene, Thing, sample_scene
from blip_bootstrap.world.wording import alt_text, describe

SMALL_RED_CIRCLE = Thing("red", "circle", "small", 0.5, 0.25, 0.13, 0.0)
LARGE_BLUE_SQUARE = Thing("blue", "square", "large", 0.5, 0.75, 0.22, 0.0)
ONE = Scene((SMALL_RED_CIRCLE,))
TWO = Scene((SMALL_RED_CIRCLE, LARGE_BLUE_SQUARE))
BESIDE = Scene(
    (Thing("red", "star", "small", 0.25, 0.5, 0.13, 0.0), Thing("red", "ring", "small", 0.75, 0.5, 0.13, 0.0))
)


@pytest.mark.parametrize(
    "caption",
    [
        "a red circle", "A small red circle.", "circle", "there is a red thing", "a red circle above a blue square",
        "a big blue square is under a little circle", "a blue square with a red circle above it",
        "a circle and a square", "a square at the bottom and a circle at the top", "an object over a large square",
    ],
)  # fmt: skip
def test_true_captions(caption: str) -> None:
    assert judge(TWO, caption) == "true"


@pytest.mark.parametrize(
    "caption",
    [
        "red shop sale 2024", "red circle photo blue", "square circle jpg red", "a red", "red", "a red above a square",
        "a red circle and a", "a red circle above", "a red circle for sale", "above a red circle",
    ],
)  # fmt: skip
def test_partial_captions(caption: str) -> None:
    assert judge(TWO, caption) == "partial"


@pytest.mark.parametrize(
    "caption",
    [
        "", "click here to enlarge the image", "there is a", "a green circle", "a large red circle",
        "a red circle below a blue square", "a blue square with a red circle under it", "a red square",
        "a red circle and a red circle", "a red blue circle", "a circle at the bottom", "green shop sale",
        "a circle and a square and a star", "a circle to the left of a square",
    ],
)  # fmt: skip
def test_false_captions(caption: str) -> None:
    assert judge(TWO, caption) == "false"


def test_each_mention_is_another_thing() -> None:
    assert judge(ONE, "a red circle and a red thing") == "false"
    assert judge(BESIDE, "a red star and a red thing") == "true"


def test_sides_and_relations_are_seen_from_the_picture() -> None:
    assert judge(BESIDE, "a red star on the left and a red ring on the right") == "true"
    assert judge(BESIDE, "a red ring on the left and a red star on the right") == "false"
    assert judge(BESIDE, "a ring with a star on the left") == "true"
    assert judge(BESIDE, "a red thing to the right of a star") == "true"
    assert judge(BESIDE, "a red star above a red ring") == "false"


@pytest.mark.parametrize("num_things", [1, 2, 3])
def test_agrees_with_what_was_written(num_things: int) -> None:
    """The judge and the writer are two readings of one grammar: each alt text is judged as its kind says."""
    rng = random.Random(num_things)
    for _ in range(400):
        scene, other = sample_scene(rng, num_things), sample_scene(rng, num_things)
        assert judge(scene.as_dict(), describe(scene, rng)) == "true"
        assert judge(scene, alt_text("full", scene, other, rng)) == "true"
        assert judge(scene, alt_text("partial", scene, other, rng)) == "partial"
        assert judge(scene, alt_text("unrelated", scene, other, rng)) == "false"
        assert judge(other, alt_text("swapped", scene, other, rng)) == "true"


def test_a_caption_of_another_relation_is_false() -> None:
    rng = random.Random(5)
    for _ in range(200):
        scene = sample_scene(rng, 2)
        first, second = scene.things
        swapped = Scene((first, second), 1)
        caption = describe(scene, rng, size_share=0.0)
        exchanged = Scene(
            (
                Thing(first.colour, first.shape, first.size, second.x, second.y, first.radius, 0.0),
                Thing(second.colour, second.shape, second.size, first.x, first.y, second.radius, 0.0),
            )
        )
        assert judge(swapped, caption) == "true"
        says_where = any(w in caption for w in ("left", "right", "above", "below", "over", "under", "top", "bottom"))
        assert judge(exchanged, caption) == ("false" if says_where else "true")
