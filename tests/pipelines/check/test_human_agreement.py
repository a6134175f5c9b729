"""Which synthetic captions count as right, judged by human captions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from blip_pipelines.check.human_agreement import LEAST_QUANTILE, HumanAgreement, quantile

CAPTIONS = {
    "dog": ("a brown dog", "a brown dog runs", "the dog"),
    "cat": ("a black cat", "the black cat sleeps"),
    "boat": ("a boat", "the boat"),
}


def test_a_words_weight_is_the_log_of_how_rare_it_is() -> None:
    """By hand: `a` is in the captions of all three pictures and counts for nothing, `dog` and `brown` in one's."""
    agreement = HumanAgreement(CAPTIONS)
    rare, unknown = math.log(3), math.log(3)
    # of `a brown dog`: brown, dog, (a brown), (brown dog); of `the dog`: dog, (the dog); shared: dog
    own = 2 * rare / (4 * rare + 2 * rare)
    # of `a brown dog runs`: runs, (dog runs) beside the same four
    longer = 2 * 4 * rare / (4 * rare + 6 * rare)
    assert agreement.of("dog", "a brown dog") == pytest.approx((longer + own) / 2)
    # of `a dog`: dog, (a dog), which nobody says
    with_first = 2 * rare / (rare + unknown + 4 * rare)
    with_second = 2 * rare / (rare + unknown + 6 * rare)
    with_third = 2 * rare / (rare + unknown + 2 * rare)
    assert agreement.with_all("dog", "A dog.") == pytest.approx((with_first + with_second + with_third) / 3)


def test_a_text_of_another_picture_agrees_less() -> None:
    agreement = HumanAgreement(CAPTIONS)
    right, wrong = agreement.with_all("dog", "a brown dog"), agreement.with_all("dog", "a black cat")
    assert right > 0.5 > wrong == 0
    assert agreement.is_right(right)
    assert agreement.is_right(wrong) is False
    assert agreement.with_all("dog", "") == 0


def test_the_least_agreement_is_a_quantile_of_peoples_own() -> None:
    agreement = HumanAgreement(CAPTIONS)
    own = [agreement.of(key, text) for key, texts in CAPTIONS.items() for text in texts]
    assert agreement.least_agreement == pytest.approx(np.quantile(np.array(own, float), LEAST_QUANTILE))


@pytest.mark.parametrize("share", [0.0, 0.15, 0.5, 1.0])
@pytest.mark.parametrize("values", [[0.3], [0.1, 0.9], [0.0, 0.2, 0.2, 0.7, 1.0]])
def test_quantiles_are_numpys(values: list[float], share: float) -> None:
    assert quantile(values, share) == pytest.approx(np.quantile(values, share))


def test_one_caption_a_picture_tells_nothing() -> None:
    agreement = HumanAgreement({"dog": ("a dog",), "cat": ("a cat",)})
    assert agreement.of("dog", "a dog") is None
    assert agreement.least_agreement is None
    assert agreement.is_right(1.0) is None


def test_a_caption_that_two_people_wrote_is_left_out_once() -> None:
    agreement = HumanAgreement({"dog": ("a dog", "a dog"), "cat": ("a cat", "the cat")})
    assert agreement.of("dog", "a dog") == 1
