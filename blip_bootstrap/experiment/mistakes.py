"""Mistakes in an experiment's file in words, with a guess at what was meant."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel

from blip_bootstrap.settings.mistakes import in_words

KEY = "[key]"
"""What pydantic puts behind the name of a key that is wrong itself."""


def unknown(name: str, known: Iterable[str]) -> str:
    """A guess at what an unknown name meant, or all that there are."""
    names = list(known)
    close = get_close_matches(name, names, n=1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(sorted(names))}"


def in_one_line(item: Mapping[str, Any], model: type[BaseModel]) -> str:
    """One of pydantic's errors about `model` as one line: where, what is wrong, what to write instead."""
    if item["loc"][-1:] == (KEY,) and item["type"] == "string_type":
        where, shown = ".".join(map(str, item["loc"][:-2])), json.dumps(item["input"], default=str)
        return f"{where}: a key is a text, and YAML reads {shown} here; put it in quotes"
    where = ".".join(str(part) for part in item["loc"] if part != KEY)
    if item["type"] == "extra_forbidden":
        return f"{where}: unknown key; {unknown(str(item['loc'][-1]), _fields_at(item['loc'][:-1], model))}"
    return f"{where}: {in_words(item)}"


def _fields_at(loc: tuple[Any, ...], model: type[BaseModel]) -> Iterable[str]:
    """The names that a section at `loc` below `model` may hold."""
    for name in loc:
        if (field := model.model_fields.get(str(name))) is None:  # an arm's name
            continue
        model = next(_models_in(field.annotation), model)
    return model.model_fields


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)
