"""The rule by which a text passes: the least score by each of some names, for each source."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

BY_ITM = {"itm": 0.5}

ITM_RULE: Mapping[str, Mapping[str, float]] = {"web": BY_ITM, "synthetic": BY_ITM}
"""The paper's own rule (section 3.3)."""


def rules_of(value: Any) -> dict[str, dict[str, float]]:
    """The rule of each source; one for both where none is named. Raises ValueError for what is no such rule."""
    if not isinstance(value, Mapping) or not value:
        raise ValueError("is the least score by some names, as {itm: 0.5}, or {web: ..., synthetic: ...}")
    if not set(value) & set(ITM_RULE):
        value = dict.fromkeys(ITM_RULE, value)
    if unknown := sorted(set(value) - set(ITM_RULE)):
        raise ValueError(f"has rules of web and synthetic beside each other (got {unknown[0]!r})")
    found = dict(ITM_RULE) | dict(value)
    return {source: _rule(source, found[source]) for source in ITM_RULE}


def _rule(source: str, rule: Any) -> dict[str, float]:
    if not isinstance(rule, Mapping) or not rule:
        raise ValueError(f"{source}: the least score by at least one name is needed, as {{itm: 0.5}}")
    return {str(name): _least(source, str(name), least) for name, least in rule.items()}


def _least(source: str, name: str, least: Any) -> float:
    if name == "agreement":
        raise ValueError(
            f"{source}: agreement compares a text with all others of its picture, and is not known before these"
        )
    try:
        found = math.nan if isinstance(least, bool) else float(least)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise ValueError(f"{source}: {name} must be a number (got {least!r})")
    return found
