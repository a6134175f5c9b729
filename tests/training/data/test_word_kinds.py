"""Kinds of words that a small human set teaches: no word lists of the set's own are known beforehand."""

from __future__ import annotations

from itertools import product

import pytest

from blip_training.data.word_kinds import LISTS, WordKinds, words_of

ANIMALS, PLACES = ("zib", "wug", "dax", "fep"), ("glorp", "snell", "tarn")


def made_up_set() -> list[list[str]]:
    """Twelve scenes, an animal somewhere, each told of three times; a tarn is called a mere as often."""
    texts = []
    for animal, place in product(ANIMALS, PLACES):
        other = "mere" if place == "tarn" else place
        texts.append([f"a {animal} in a {place}", f"there is the {animal} in the {other}", f"one {animal}"])
        for name in (place, other):
            texts.append([f"one {animal} near a {name}", f"the {animal} near the {name} .", f"there is a {animal}"])
    return texts


def test_words_that_stand_in_the_same_places_are_of_one_kind() -> None:
    kinds = WordKinds(made_up_set())
    assert kinds.others("zib") == ("dax", "fep", "wug")
    assert kinds.others("glorp") == ("mere", "snell", "tarn")
    assert kinds.others("never") == ()


def test_two_words_for_the_same_thing_never_stand_for_each_other() -> None:
    kinds = WordKinds(made_up_set())
    assert kinds.others("tarn") == kinds.others("mere") == ("glorp", "snell")


def test_words_that_say_nothing_of_the_picture_are_of_no_kind() -> None:
    kinds = WordKinds(made_up_set())
    for word in ("a", "the", "one", "there", "is", "in", "near"):
        assert kinds.others(word) == ()
    assert [kinds.tells(word) for word in ("zib", "tarn", "the", "there", "unheard")] == [
        True,
        True,
        False,
        False,
        True,
    ]


def test_listed_words_need_no_contexts_but_stand_in_the_human_set() -> None:
    kinds = WordKinds([["a small grey cat left of a dog"], ["Two big gray cats right of a black dog"], ["three rows"]])
    assert kinds.others("small") == ("big",)
    assert kinds.others("left") == ("right",)
    assert kinds.others("two") == ("three",)
    assert kinds.others("grey") == kinds.others("gray") == ("black",)
    assert kinds.others("red") == ()
    assert kinds.others("cat") == (), "with one caption a picture nothing is learned beside the lists"


def test_a_colour_that_no_list_has_is_learned_beside_those_that_one_has() -> None:
    texts = [[f"a {colour} {thing}", f"the {thing} is a {colour} {thing}"]
             for colour in ("red", "blue", "mauve") for thing in ("ball", "box", "cup")]  # fmt: skip
    kinds = WordKinds(texts)
    assert kinds.others("mauve") == ("blue", "red")
    assert kinds.others("red") == ("blue", "mauve")


def test_the_order_of_the_pictures_changes_nothing() -> None:
    first, second = WordKinds(made_up_set()), WordKinds(made_up_set()[::-1])
    for word in first.counts:
        assert first.others(word) == second.others(word)


def test_no_word_is_in_two_lists() -> None:
    words = [word for kind in LISTS for group in kind for word in group]
    assert len(words) == len(set(words))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A man's T-shirt, two_toned .", ["a", "man's", "t", "shirt", "two", "toned"]),
        ("Zwölf Äpfel!", ["zwölf", "äpfel"]),
        ("", []),
    ],
)
def test_words_are_in_lower_case_and_without_marks(text: str, words: list[str]) -> None:
    assert words_of(text) == words
