"""Writes the table by crash point into docs/guarantees.md, from a run that died at every operation.

.venv/bin/python -m tests.guarantees.crash_table          # every point (minutes), then the table
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tests.guarantees.points import TEMPORARY, Seen, all_points, place_of, tried, undisturbed_run

GUARANTEES = Path(__file__).parents[2] / "docs/guarantees.md"

BEGIN, END = "<!-- crash points: made by tests/guarantees/crash_table.py -->\n", "<!-- end of crash points -->\n"

HEAD = "| of | dies before | there then | the next run |\n| --- | --- | --- | --- |\n"


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
    rows: dict[str, dict[tuple[str, str], dict[str, list[str]]]] = {}
    for one in seen:
        name, verb = operation(one.died)
        verbs = rows.setdefault(of(one.died), {}).setdefault((one.there, one.then), {}).setdefault(name, [])
        if verb not in verbs:
            verbs.append(verb)
    return HEAD + "".join(
        f"| {name} | {_listed(files)} | {there} | {then} |\n"
        for name, states in rows.items()
        for (there, then), files in states.items()
    )


def _listed(files: dict[str, list[str]]) -> str:
    return "; ".join(f"{file}: {', '.join(verbs)}" for file, verbs in files.items())


def entries(text: str) -> set[tuple[str, str, str]]:
    """What a table has: of what, the file, and the operation before which, or half of which, a process died."""
    found = set()
    for line in text.removeprefix(HEAD).splitlines():
        name, files, _, _ = line.strip("| ").split(" | ")
        for file, _, verbs in (one.partition(": ") for one in files.split("; ")):
            found |= {(name, file, verb) for verb in verbs.split(", ")}
    return found


def of(died: str) -> str:
    """The step of an artifact; else the file, with rounds and names of links left open."""
    place = place_of(died)
    if place.parts[1:2] == ("artifacts",):
        return f"`{place.parts[2]}`" if len(place.parts) > 3 else "`artifacts/`"
    if died.split()[2] == "symlink" or not place.suffix:
        return "links" if len(place.parts) > 1 and not place.name.startswith(("round-", ".")) else _told(place)
    return _told(place)


def operation(died: str) -> tuple[str, str]:
    """The file that an operation is on, and the operation: `half of the write` where it died amid it."""
    when, _, kind, path = re.sub(r" -> .*", "", died).replace("fsync folder", "fsync").split(" ", 3)
    name = TEMPORARY.sub(r"\1", Path(path).name)
    name = "its folder" if re.fullmatch("[0-9a-f]{16}", name) else re.sub(r"(?<=-)\d{5,}", "N", name)
    kind = "rename" if kind == "replace" else kind
    told = f"`{name}`" if name not in ("its folder", "") else name or "the folder above"
    return told, f"half of the {kind}" if when == "half" else kind


def _told(place: Path) -> str:
    told = re.sub(r"round-\d\d", "round-NN", "/".join(place.parts[1:]))
    return f"`{told}`" if told else "the root"


if __name__ == "__main__":
    sys.exit(main())
