"""A test run checks the shapes in signatures (tests/support/shapes.py)."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import TypeCheckError

from blip_training.evaluate import matching
from blip_training.model.attention import attend
from blip_training.model.onednn import over_patches
from blip_training.model.text_stack import FeedForward


def test_a_function_wants_its_sizes_to_agree() -> None:
    q = torch.zeros(1, 2, 3, 4)
    assert attend(q, q, q).shape == q.shape
    with pytest.raises(TypeCheckError, match="n h s e"):
        attend(q, q, torch.zeros(1, 2, 5, 4))


def test_a_method_wants_its_number_of_dimensions() -> None:
    forward = FeedForward(8, 16, 0.0)
    assert forward(torch.zeros(1, 2, 8)).shape == (1, 2, 8)
    with pytest.raises(TypeCheckError, match="n t d"):
        forward(torch.zeros(2, 8))


class Flat(torch.nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return input.flatten(1)


def test_a_result_is_checked() -> None:
    with pytest.raises(TypeCheckError, match="return value"):
        over_patches(Flat(8, 8), torch.zeros(1, 2, 8))


def test_modules_that_import_a_function_have_the_checked_one() -> None:
    with pytest.raises(TypeCheckError, match="q c"):
        vars(matching)["first_of"](torch.zeros(2, 3, dtype=torch.int64), 1)
