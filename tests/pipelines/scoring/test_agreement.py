"""Agreement of an image's texts, by the words that they share."""

from __future__ import annotations

import pytest

from blip_pipelines.scoring.agreement import set_agreement, word_f1, words_of
from blip_pipelines.scoring.rows import TOO_LONG, CaptionRow


@pytest.mark.parametrize(
    ("one", "other", "f1"),
    [
        ("A red  ball!", "a red ball", 1.0),
        ("a red ball", "two dogs", 0.0),
        ("a dog and a cat", "a dog", 2 * 2 / 7),
        ("dog dog dog", "dog", 2 / 4),
        ("snake_case x-2", "snake case X 2", 1.0),
        ("Äpfel", "äpfel", 1.0),
        ("...", "a dog", 0.0),
        ("...", "!", 0.0),
    ],
)
def test_word_f1(one: str, other: str, f1: float) -> None:
    assert word_f1(words_of(one), words_of(other)) == word_f1(words_of(other), words_of(one)) == pytest.approx(f1)


def test_agreement_is_with_the_other_synthetic_texts() -> None:
    def row(source: str, text: str, *flags: str) -> CaptionRow:
        return CaptionRow("0", source, 0, text, 3, list(flags))

    web, first, second, empty = (
        row("web", "a red ball"), row("synthetic", "a red ball"), row("synthetic", "a dog"), row("synthetic", ""),
    )  # fmt: skip
    set_agreement([[web, first, second, empty]])
    assert [one.agreement for one in (web, first, second, empty)] == [
        pytest.approx((1 + 0.4) / 2), pytest.approx(0.4), pytest.approx(0.4), None,
    ]  # fmt: skip
    alone = [row("web", "a dog"), row("synthetic", "a dog")]
    set_agreement([alone, [row("web", "a dog")], []])
    assert [one.agreement for one in alone] == [1.0, None]
    cut = [row("web", "a dog", TOO_LONG), row("synthetic", "a dog")]
    set_agreement([cut])
    assert [one.agreement for one in cut] == [None, None]
