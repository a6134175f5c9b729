"""Records of TSV and CSV files, in which a quote without an end does not swallow the lines after it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice

MOST_LINES = 200
"""Lines over which the end of a quoted field is looked for."""

Line = tuple[int, str]

Fields = list[str]


def split_fields(text: str, delimiter: str) -> tuple[Fields, bool]:
    """The fields of a line, and whether one begins with a quote that has no end, which then is text as in `"30 inch`.

    A quote ends a field where a delimiter or the end of the line follows it; two quotes in a quoted field mean one.
    """
    if '"' not in text:
        return text.split(delimiter), False
    fields, at, is_open = Fields(), 0, False
    while True:
        if text[at : at + 1] == '"' and not is_open:
            end = _closing(text, at + 1, delimiter)
            if end is not None:
                fields.append(text[at + 1 : end].replace('""', '"'))
                if end + 1 >= len(text):
                    return fields, False
                at = end + 2
                continue
            is_open = True
        end = text.find(delimiter, at)
        if end < 0:
            return [*fields, text[at:]], is_open
        fields.append(text[at:end])
        at = end + 1


def _closing(text: str, start: int, delimiter: str) -> int | None:
    """The index of the quote that ends the field whose text begins at `start`; None where there is none."""
    at = text.find('"', start)
    while at >= 0:
        after = text[at + 1 : at + 2]
        if after in ("", delimiter):
            return at
        at = text.find('"', at + (2 if after == '"' else 1))
    return None


def records_of(
    lines: Iterator[Line], delimiter: str, is_record: Callable[[Fields], bool]
) -> Iterator[tuple[int, Fields, bool]]:
    """Each record as the line where it begins, its fields, and whether a quote in it has no end and was taken as text.

    A quoted field may go on over line ends, but not over lines that are records themselves (`is_record`): an inch mark
    at the start of a field makes a plain CSV reader swallow them. Empty lines are no records.
    """
    ahead: deque[Line] = deque()
    passed = 0  # so many lines of `ahead` neither end a field nor are records: none is looked at twice
    while True:
        if not ahead and (line := next(lines, None)) is not None:
            ahead.append(line)
        if not ahead:
            return
        number, text = ahead.popleft()
        passed, num_lines = max(passed - 1, 0), 1
        if not text:
            continue
        fields, is_open = split_fields(text, delimiter)
        while is_open and num_lines <= MOST_LINES:
            taken, passed = _lines_to_the_end(fields, ahead, passed, lines, delimiter, is_record)
            if not taken:
                break
            text = "\n".join([text, *(ahead.popleft()[1] for _ in range(taken))])
            passed, num_lines = 0, num_lines + taken
            fields, is_open = split_fields(text, delimiter)
        yield number, fields, is_open


def _lines_to_the_end(
    opening: Fields,
    ahead: deque[Line],
    passed: int,
    lines: Iterator[Line],
    delimiter: str,
    is_record: Callable[[Fields], bool],
) -> tuple[int, int]:
    """How many of the next lines belong to the open field of `opening`; 0 where its quote has no end.

    And `passed`, how many of them neither end a field nor are records, which it is given as far as that is known.
    """
    whole = is_record(opening)
    for at in range(passed, MOST_LINES):
        if at == len(ahead):
            ahead.extend(islice(lines, 1))
        if at == len(ahead):
            return 0, at
        text = ahead[at][1]
        ends = _closing(text, 0, delimiter) is not None
        # The last line of a field of its own looks like a record where the field comes first: `end of it",http://a`.
        if (whole or not ends) and is_record(split_fields(text, delimiter)[0]):
            return 0, at
        if ends:
            return at + 1, at
    return 0, MOST_LINES
