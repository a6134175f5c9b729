"""Objects of a JSON file: one on each line, all in one array, or one after another over several lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blip_bootstrap.errors import InputError
from blip_bootstrap.reading.text_files import HEAD_BYTES, lines_of, open_text

_BETWEEN = " \t\r\n,"
"""Characters that may stand between two objects."""

_BRACKETS = {"": "[", "[": "]"}
"""The bracket that may come next, by those read so far: there is one array with all objects, or none."""


def _whole_number(digits: str) -> int | str:
    """Python refuses to read over 4,300 digits; such a number stays as it is written."""
    return int(digits) if len(digits) < 4_000 else digits


_DECODER = json.JSONDecoder(parse_int=_whole_number)


def parse_json(text: str) -> Any:
    """The value of a JSON text. Raises ValueError where it is not JSON or is nested too deep."""
    try:
        return _DECODER.decode(text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def parse_object(line: str) -> dict[str, Any] | None:
    """The object in one line of JSON lines; None where the line holds something else."""
    try:
        value = parse_json(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def objects_of(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Pairs of the line where an object begins and the object; None stands for anything else on a line or in an array.

    Raises InputError where the file cannot be read, or an array or an object over several lines breaks off.
    """
    if _is_document(path):
        yield from _of_document(path)
        return
    for number, line in lines_of(path):
        if line.strip():
            yield number, parse_object(line)


def _is_document(path: Path) -> bool:
    """Whether the file is an array of objects, or objects over several lines, rather than JSON lines."""
    with open_text(path) as stream:
        head = stream.read(HEAD_BYTES)
    head = head.lstrip()
    first = head.split("\n", 1)[0]
    if head[:1] not in ("[", "{") or (len(first) < len(head) and parse_object(first) is not None):
        return False
    if head[0] == "[" and (inner := head[1:].lstrip())[:1] in ("{", "]", ""):
        return inner[:1] != "{" or _begins_object(inner)
    return head[0] == "{" and first != head.rstrip() and _begins_object(head)


def _begins_object(text: str) -> bool:
    """Whether `text` begins with a whole object, or with one that is longer than what is known of it."""
    try:
        _DECODER.raw_decode(text)
    except json.JSONDecodeError as error:
        return len(text) > HEAD_BYTES // 2 and error.pos > len(text) - 10
    except (ValueError, RecursionError):
        return False
    return True


def _of_document(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    buffer, at, line, brackets = "", 0, 1, ""
    with open_text(path) as stream:
        while True:
            while at < len(buffer) and buffer[at] in _BETWEEN + _BRACKETS.get(brackets, ""):
                line, brackets, at = line + (buffer[at] == "\n"), brackets + buffer[at].strip(" \t\r\n,"), at + 1
            why = "its array has no end" if brackets == "[" else ""
            try:
                if at < len(buffer):
                    value, end = _DECODER.raw_decode(buffer, at)
                    yield line, value if isinstance(value, dict) else None
                    line, brackets, at = line + buffer.count("\n", at, end), brackets or "{", end
                    continue
            except (ValueError, RecursionError) as error:
                why = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deep"
            # Twice as much each time, so that a long object is not parsed anew for each of its pieces.
            more = stream.read(max(HEAD_BYTES, 2 * (len(buffer) - at)))
            if not more and why:
                raise InputError(f"{path}: line {line}: the JSON breaks off here ({why})")
            if not more:
                return
            buffer, at = buffer[at:] + more, 0
