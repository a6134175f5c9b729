"""Models made without drawing the weights that a checkpoint is about to replace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.overrides import TorchFunctionMode

DRAWS = frozenset(("normal_", "uniform_", "kaiming_uniform_"))
"""Names of what fills a new layer at random, as torch.nn.init and as methods of a tensor."""


class _Zeros(TorchFunctionMode):
    """Zeros in the place of what is drawn. Not memory as it is found: truncation draws again until all is in bounds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if getattr(func, "__name__", "") in DRAWS:
            tensor = args[0] if args else given["tensor"]
            tensor.detach().zero_()
            return tensor
        return func(*args, **given)


@contextmanager
def undrawn() -> Iterator[None]:
    """Modules made within have zeros where random weights would be: the half of the time that a BLIP takes to load.

    For a model that is loaded and then only used. What its checkpoint does not hold stays zero, so it must not be
    trained further; torch's random numbers go on as if nothing had been made.
    """
    with _Zeros():
        yield
