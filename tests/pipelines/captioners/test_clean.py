from __future__ import annotations

import pytest

from blip_pipelines.captioners.clean import cleaned


@pytest.mark.parametrize(
    ("text", "caption"),
    [
        ("The image shows a dog.", "A dog."),
        ("this photo depicts two cats\n\nsleeping", "two cats sleeping"),
        ('Sure! Here is a caption: "A red circle"', "A red circle"),
        ("**A dog** on a _mat_", "A dog on a _mat_"),
        ("<think>a dog?\nyes</think> a dog", "a dog"),
        ("Description: The picture is of a house", "A house"),
        ("The image is a close-up of a cat.", "A cat."),
        ("- a list\n- of things", "a list of things"),
        ("Here is a dog: it runs", "Here is a dog: it runs"),
        ("'A' and 'B'", "'A' and 'B'"),
        ("The image shows ", "The image shows"),
        ("The image of a dog is red", "The image of a dog is red"),
        ("", ""),
        (" \n", ""),
    ],
)
def test_what_chat_models_put_around_a_caption_is_taken_off(text: str, caption: str) -> None:
    assert cleaned(text, "default") == caption
    assert cleaned(caption, "default") == caption


def test_none_folds_whitespace_alone() -> None:
    assert cleaned(" The image  shows\na dog ", "none") == "The image shows a dog"
