"""Writes the table by crash point into docs/guarantees.md, from a run that died at every operation.

.venv/bin/python -m tests.guarantees.crash_table          # every point (minutes), then the table
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tests.guarantees.points import Seen, all_points, place_of, tried, undisturbed_run

GUARANTEES = Path(__file__).parents[2] / "docs/guarantees.md"

BEGIN, END = "<!-- crash points: made by tests/guarantees/crash_table.py -->\n", "<!-- end of crash points -->\n"

HEAD = "| of | dies at | there after it | the next run |\n| --- | --- | --- | --- |\n"


def main() -> int:
    """Try every point, and put the table in its place; 1 where a point is wrong."""
    with tempfile.TemporaryDirectory() as name:
        right = undisturbed_run(Path(name) / "right")
        points = all_points(right.outcome.operations)
        found = list(tried(points, Path(name), right, replays=True))
    wrong = [line for _, lines in found for line in lines]
    sys.stdout.write("".join(f"{line}\n" for line in wrong) + f"{len(points)} points, {len(wrong)} wrong\n")
    text = GUARANTEES.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    GUARANTEES.write_text(before + BEGIN + table([seen for seen, _ in found]) + END + after, encoding="utf-8")
    return 1 if wrong else 0


def table(seen: Iterable[Seen]) -> str:
    """A row for each step, or file beside the steps, and for each state that a kill leaves of it."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for one in seen:
        mine = rows.setdefault((of(one.died), one.there, one.then), [])
        if (told := operation(one.died)) not in mine:
            mine.append(told)
    return HEAD + "".join(
        f"| {name} | {'; '.join(told)} | {there} | {then} |\n" for (name, there, then), told in rows.items()
    )


def of(died: str) -> str:
    """The step of an artifact; else the file, with rounds and names of links left open."""
    place = place_of(died)
    if place.parts[1:2] == ("artifacts",):
        return f"`{place.parts[2]}`" if len(place.parts) > 3 else "`artifacts/`"
    if died.split()[2] == "symlink" or not place.suffix:
        return "links" if len(place.parts) > 1 and not place.name.startswith(("round-", ".")) else f"`{_open(place)}`"
    return f"`{_open(place)}`"


def operation(died: str) -> str:
    """`before rename of part-N.parquet`."""
    when, _, kind, path = re.sub(r" -> .*", "", died).split(" ", 3)
    name = re.sub(r"^\.(.+)\.[0-9a-f]{32}\.tmp$", r"\1", Path(path).name)
    name = "its folder" if re.fullmatch("[0-9a-f]{16}", name) else re.sub(r"\d{3,}", "N", name)
    kind = {"replace": "rename", "fsync folder": "fsync"}.get(kind, kind)
    return f"{kind} `{name}`" if when == "before" else f"half of `{name}`"


def _open(place: Path) -> str:
    return re.sub(r"round-\d\d", "round-NN", "/".join(place.parts[1:])) or "the root"


if __name__ == "__main__":
    sys.exit(main())
