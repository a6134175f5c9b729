"""`blip-bootstrap status`: how far a run is, asked from another shell or machine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from blip_bootstrap.cli.asked_run import Root, run_folder
from blip_bootstrap.errors import InputError
from blip_bootstrap.loop.at_work import read_note
from blip_bootstrap.schemas.closed_lists import ERROR_CLASSES
from blip_bootstrap.storage.lock import Held, held_by
from blip_bootstrap.storage.pointers import is_finished
from blip_bootstrap.storage.run_folder import check_run, made_by_steps, record_path, round_numbers
from blip_bootstrap.stores.store import shown

commands = typer.Typer(rich_markup_mode="markdown")

FRESH_S = 60.0
"""A note so young is of a command that lives, where the lock does not tell."""


@commands.command(epilog="Example: `blip-bootstrap status --root runs/demo`")
def status(
    root: Root = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for a program.")] = False,
) -> None:
    """Tell how far a run is, while it is at work or not: step, who works on it, rate, failures, time left."""
    folder = run_folder(root)
    check_run(folder)
    found = status_of(folder)
    text = json.dumps(found, indent=1) if as_json else "\n".join(_lines(found))
    typer.echo(shown(text))


def status_of(root: Path) -> dict[str, Any]:
    """How far a run is: its `state`, who works on it (`holder`), the step at work and its counts, what is made.

    `state` is `at work`, `killed`, `failed`, `interrupted` (in a step that is not done yet), `finished` (all rounds
    that were begun) or `not finished`. Times are UTC. Raises InputError where no run has begun.
    """
    note, holder, made = read_note(root), held_by(root), made_by_steps(root)
    rounds = {number: _is_whole(root, number) for number in round_numbers(root)}
    if not (note or holder or made or rounds):
        raise InputError(f"{root}: no run has begun here; `blip-bootstrap run` begins one")
    found: dict[str, Any] = {"root": str(root), "state": _state(note, holder, rounds)}
    found["holder"] = asdict(holder) if holder else None
    if found["state"] not in ("finished", "not finished") and _is_under_way(note, holder, made):
        found |= _of_step(note)
    found["rounds"] = [{"round": number, "finished": whole} for number, whole in rounds.items()]
    found["made"] = [
        {"artifact": name, "step": one["recipe"]["step"], "seconds": one.get("seconds"), "made": one.get("made")}
        for name, one in made.items()
    ]
    return found


def _is_under_way(note: Mapping[str, Any], holder: Held | None, made: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a note is of a step that the holder of the lock has begun and that has not ended, as far as is known.

    A note on a store may be half a minute old, and what it is of be made since.
    """
    if holder and (note.get("pid"), note.get("host")) != (holder.pid, holder.host):
        return False
    made_at = str(made.get(str(note.get("artifact")), {}).get("made", ""))
    return bool(note) and note.get("ended") != "done" and made_at < str(note.get("step_since"))


def _is_whole(root: Path, number: int) -> bool:
    """Whether a round was made to its end; those of the layout before have no record, and were."""
    return is_finished(root, number) or not record_path(root, number).exists()


def _state(note: Mapping[str, Any], holder: Held | None, rounds: Mapping[int, bool]) -> str:
    alive = holder.alive if holder else False
    is_fresh = note.get("ended", "") is None and _ago(note.get("at")) < FRESH_S
    if alive or (alive is None and is_fresh):
        return "at work"
    if note and note.get("ended") != "done":
        return str(note.get("ended") or "killed")
    return "finished" if rounds and all(rounds.values()) else "not finished"


def _of_step(note: Mapping[str, Any]) -> dict[str, Any]:
    """The step of a note, with its counts told apart: failures by class, retries, and the others."""
    kept = {name: note.get(name) for name in ("round", "artifact", "step", "step_since", "at", "error")}
    work = note.get("work") or {}
    kept |= {name: work.get(name) for name in ("unit", "done", "total", "per_second", "seconds_left")}
    counts = {str(name).replace(" ", "_"): count for name, count in work.get("counts", {}).items()}
    failures = {name: counts.pop(name) for name in ERROR_CLASSES if name in counts}
    return {**kept, "failures": failures, "retries": counts.pop("retries", 0), "counts": counts}


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"{found['root']}: {_headline(found)}"
    if "step" in found:
        yield from _step_lines(found)
    elif found["state"] == "at work":
        yield "  between two steps, or in one that is too new to be told"
    if found["rounds"]:
        yield "  " + ", ".join(
            f"round {one['round']} {'finished' if one['finished'] else 'not finished'}" for one in found["rounds"]
        )
    if found["made"]:
        told = (f"{one['artifact']} ({_span(one['seconds'] or 0.0)})" for one in found["made"])
        yield f"  made: {', '.join(told)}"


def _headline(found: Mapping[str, Any]) -> str:
    state, holder = found["state"], found["holder"]
    who = f" ({holder['user']}@{holder['host']}, process {holder['pid']})" if holder else ""
    if state == "at work":
        return f"at work since {_clock(holder['since'])}{who}" if holder else state
    if state in ("finished", "not finished"):
        return f"{state}; no command is at work"
    lives = "; whether it lives cannot be told from here" if holder and holder["alive"] is None else ""
    what = f": {error}" if state == "failed" and (error := found.get("error")) else ""
    return f"no command is at work; the last one{who} {state if state == 'failed' else f'was {state}'}{what}{lives}"


def _step_lines(found: Mapping[str, Any]) -> Iterator[str]:
    at_work = found["state"] == "at work"
    heard = f", heard of {_span(_ago(found['at']))} ago"
    lasted = _span(_ago(found["step_since"]) - (0.0 if at_work else _ago(found["at"])))
    yield f"  {found['artifact']}: {found['step']}, since {_clock(found['step_since'])} ({lasted}){heard}"
    if found["done"] is not None:
        done, total = found["done"], found["total"]
        of_all = f" of {total:,}" if total else ""
        left = found["seconds_left"]
        ends = f", about {_span(left)} left" if left is not None and at_work else ""
        yield f"  {done:,}{of_all} {found['unit']}, {found['per_second']:,.3g} a second{ends}"
    for name in ("failures", "counts"):
        if told := ", ".join(f"{key} {_number(value)}" for key, value in found[name].items()):
            yield f"  {name}: {told}"
    if found["retries"]:
        yield f"  retries: {found['retries']:,}"


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _span(seconds: float) -> str:
    """A time as people say it: 12 s, 4 min, 3 h 20 min, 2 days 5 h."""
    if seconds < 120:
        return f"{max(seconds, 0):.0f} s" if seconds >= 10 else f"{max(seconds, 0):.1f} s"
    minutes = round(seconds / 60)
    hours, days = minutes // 60, minutes // 1440
    if hours < 2:
        return f"{minutes} min"
    return f"{hours} h {minutes % 60} min" if days < 2 else f"{days} days {hours % 24} h"


def _ago(time: Any) -> float:
    """Seconds since a time; endless where it is none."""
    try:
        return (datetime.now(UTC) - datetime.fromisoformat(str(time))).total_seconds()
    except (TypeError, ValueError):
        return float("inf")


def _clock(time: str) -> str:
    return time[:16].replace("T", " ") + " UTC"
