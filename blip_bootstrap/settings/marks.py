"""Marks on the fields of the configuration: how a setting counts in recipes, and where its value comes from.

A mark stands in the field's type: `threads: Annotated[NonNegative, Speed()] = 0`. Recipes, the spreading of the seed
and docs/configuration.md all read marks by `mark_of`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar, get_args

from pydantic import JsonValue
from pydantic.fields import FieldInfo


@dataclass(frozen=True)
class Speed:
    """The setting decides how fast a result comes or how bytes are fetched, never the result.

    Recipes leave it out, so that changing it makes nothing anew.
    """


@dataclass(frozen=True)
class Later:
    """The setting is younger than runs that people have, and its default does what was done before it was there.

    Recipes hold it only where its value is another one, so that those runs stay current.
    """


@dataclass(frozen=True)
class CountsAs:
    """The setting decides no result, but recipes held it once, and still hold `value`, whatever is set.

    What was made, or half-made, while `value` was the default stays current.
    """

    value: JsonValue


@dataclass(frozen=True)
class ByContent:
    """The setting names a file or folder, and recipes hold the digest of what lies there instead of the name."""


@dataclass(frozen=True)
class ListPath:
    """The setting names a list, whose content and name in the tables are inputs by themselves.

    Recipes hold the path all the same, but two paths with the same ending, which tells the format, count as equal.
    """


@dataclass(frozen=True)
class Grows:
    """The setting decides which rows there are, and how they are cut into parts, but not what is made of a row.

    Recipes hold it. Two artifacts of a step that differ in such settings, or in its lists, alone are kin: the parts of
    one are parts that the other can have.
    """


@dataclass(frozen=True)
class IdleWhere:
    """The setting changes nothing while its neighbour `setting` has the value `value`.

    Recipes hold it all the same, but two that differ in it alone count as equal there.
    """

    setting: str
    value: JsonValue


@dataclass(frozen=True)
class Seeded:
    """The setting takes the value of the run's own `seed` where its section does not set it."""


@dataclass(frozen=True)
class ToldByDigest:
    """What the setting decides is told by who uses it, as a digest that is an input of the step by itself.

    Recipes leave the setting out: of a captioner's options some are of speed, and it alone knows which.
    """


Mark = TypeVar("Mark", Speed, Later, CountsAs, ByContent, ListPath, Grows, IdleWhere, Seeded, ToldByDigest)


def mark_of(field: FieldInfo, kind: type[Mark]) -> Mark | None:
    """The mark of this kind on a field, or on a type within its type (`ModelName | None`); None where it has none."""
    found = (*field.metadata, *_within(field.annotation))
    return next((mark for mark in found if isinstance(mark, kind)), None)


def _within(annotation: object) -> Iterator[object]:
    yield from getattr(annotation, "__metadata__", ())
    for inner in get_args(annotation):
        yield from _within(inner)
