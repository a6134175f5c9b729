"""Alarms of a round: much failed, nothing was kept, or the loop makes itself worse instead of better."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blip_bootstrap.audit.audits import Audits
from blip_bootstrap.audit.shortfalls import shortfalls
from blip_bootstrap.errors import RunFailed
from blip_bootstrap.query.views import connect
from blip_bootstrap.storage import run_folder
from blip_bootstrap.storage.run_folder import resolve_round

ALARM_AUDITS = ("diversity", "noise", "flags", "filter_quality")

FALL = 0.3
"""Vocabulary, length or variety that fell by this share since the round before is an alarm."""

SCORE_FALL = 0.1
"""A held-out figure that fell by this share since the round before is an alarm."""

COMMON = 0.2
"""One text that makes up this share of the synthetic texts is an alarm; so is one with over 5 % and twice the share
that the most common text had in the round before."""

FLAGGED = 0.1
"""This share of synthetic texts that repeat themselves, or repeat the prompt, is an alarm."""

EXTREME = 0.01
"""A filter that rejects or accepts a smaller share than this of a source's texts is an alarm."""

LEAST_TEXTS = 100
"""With fewer scored texts of a source, the shares that its filter rejects and accepts give no alarm."""

BLIND = 0.75
"""Where the score that the rule cuts by is surely less likely than this to put a right text above a wrong one, it is an
alarm. By chance it were .5."""

LEAST_ANSWERS = 50
"""With fewer answers of a source, human captions tell what the scores can, where there are any."""

IDLE_ITM_LOSS = 0.6365
"""The entropy of one positive in three: where the ITM loss rests here, nothing was learned."""


@dataclass(frozen=True)
class Alarm:
    """What is wrong in a round: the alarm's name, and a sentence with the figures."""

    round: int
    name: str
    message: str


def alarms(root: Path, number: int | None = None) -> list[Alarm]:
    """The alarms of round `number` (None: the last) of the run under `root`, compared with the round before it."""
    number = resolve_round(root, number)
    with connect(root, range(number + 1)) as connection, Audits(connection, ALARM_AUDITS) as audits:
        return find_alarms(audits, root, number)


def find_alarms(audits: Audits, root: Path, number: int) -> list[Alarm]:
    """The alarms of a round, from audits (ALARM_AUDITS) on a connection that has it and the round before it."""
    checks = (
        shortfalls(root, number),
        _texts(audits("diversity").table.to_pylist(), number),
        _filter(audits("noise").table.to_pylist(), number),
        blindness(audits("filter_quality").table.to_pylist(), number),
        _flags(audits("flags").table.to_pylist(), number),
        _held_out(root, number),
        _itm(root, number),
        _skipped(root, number),
    )
    return [Alarm(number, name, message) for check in checks for name, message in check]


def fail_on_alarms(found: Sequence[Alarm]) -> None:
    """Raise RunFailed with one line for each alarm, so that a script stops."""
    if found:
        raise RunFailed("\n".join(f"round {alarm.round}, {alarm.name}: {alarm.message}" for alarm in found))


def _texts(rows: Sequence[Mapping[str, Any]], number: int) -> Iterator[tuple[str, str]]:
    """Whether vocabulary, length or variety of the synthetic texts collapsed."""
    synthetic = {row["round"]: row for row in rows if row["source"] == "synthetic"}
    now, before = synthetic.get(number), synthetic.get(number - 1)
    if now is None:
        return
    was = before["most_common_share"] if before else None
    if now["most_common_share"] > COMMON or (was and now["most_common_share"] > max(2 * was, 0.05)):
        yield "repeated_text", f"{now['most_common_share']:.1%} of the synthetic texts are {now['most_common']!r}"
    if before is None:
        return
    for column, name, what in (
        ("distinct_words", "vocabulary", "different words"),
        ("words_per_text", "length", "words a text"),
        ("distinct_share", "duplicates", "share of different texts"),
    ):
        if now[column] < (1 - FALL) * before[column]:
            yield name, f"{what} of the synthetic texts fell from {before[column]:.4g} to {now[column]:.4g}"


def _filter(rows: Sequence[Mapping[str, Any]], number: int) -> Iterator[tuple[str, str]]:
    """Whether the filter accepts everything or nothing; what other rules dropped does not count."""
    for row in rows:
        if row["round"] != number or row["scored"] < LEAST_TEXTS:  # round 0 has no filter, and no scores
            continue
        of_texts = f"{row['rejected']:,} of {row['scored']:,} {row['source']} texts were rejected by the filter"
        if row["noise_ratio"] < EXTREME:
            yield "keeps_all", f"only {of_texts}"
        if row["noise_ratio"] > 1 - EXTREME:
            yield "keeps_nothing", of_texts


def blindness(rows: Sequence[Mapping[str, Any]], number: int) -> Iterator[tuple[str, str]]:
    """Whether the score that the rule cuts by cannot tell right texts of a source from wrong ones."""
    for source in ("web", "synthetic"):
        mine = by_best_basis([row for row in rows if row["round"] == number and row["source"] == source])
        for cuts in (row for row in mine if row["cuts"] and row["auc"] is not None and row["auc_high"] < BLIND):
            errors = "this captioner's errors" if source == "synthetic" else "wrong web texts"
            told = f"the filter cannot tell {errors} apart: AUC {_range(cuts)} of the {source} texts"
            best = max(mine, key=lambda row: row["auc"] or 0)
            better = f"{best['score']} {_range(best)} can: see select.score" if best["auc"] >= BLIND else ""
            yield "filter_blind", f"{told}; {better or 'no score that is stored tells them well'}"


def by_best_basis(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of the rows of `filter_quality` of a source those by answers, if these are enough, else by human captions."""
    answers, human = ([row for row in rows if row["basis"] == name] for name in ("answers", "human_captions"))
    enough = max((row["texts"] for row in answers), default=0) >= LEAST_ANSWERS
    return answers if answers and (enough or not human) else human


def _range(row: Mapping[str, Any]) -> str:
    return f"{row['auc']:.2f} ({row['auc_low']:.2f} to {row['auc_high']:.2f})"


def _flags(rows: Sequence[Mapping[str, Any]], number: int) -> Iterator[tuple[str, str]]:
    for row in rows:
        if row["round"] == number and row["flag"] in ("repetition", "prompt_leak") and row["share"] > FLAGGED:
            yield row["flag"], f"{row['share']:.1%} of the synthetic texts are flagged"


def _held_out(root: Path, number: int) -> Iterator[tuple[str, str]]:
    """Whether figures on the held-out set fell."""
    now, before = (
        run_folder.read_json(run_folder.round_folder(root, n) / "metrics.json") or {} for n in (number, number - 1)
    )
    for name in ("cider", "tr1", "ir1", "itm_auc"):
        if now.get(name) is not None and before.get(name) and now[name] < (1 - SCORE_FALL) * before[name]:
            yield "held_out", f"{name} fell from {before[name]:.4g} to {now[name]:.4g}"


def _itm(root: Path, number: int) -> Iterator[tuple[str, str]]:
    """Whether the mean ITM loss of the last fifth of the steps is the entropy of its classes."""
    lines = run_folder.training_lines(run_folder.round_folder(root, number) / "model")
    losses = [line["itm"] for line in lines if line.get("itm") is not None]
    last = losses[-max(1, len(losses) // 5) :]
    if len(losses) >= 5 and abs(sum(last) / len(last) - IDLE_ITM_LOSS) < 0.01:
        yield "itm_idle", f"the ITM loss rests at {sum(last) / len(last):.3f}: it has not learned to match"


def _skipped(root: Path, number: int) -> Iterator[tuple[str, str]]:
    """Whether a training of the round skipped steps whose loss or gradient was not finite, so that it may diverge."""
    for name in ("model", "captioner", "filter"):
        manifest = run_folder.read_json(run_folder.manifest_path(run_folder.round_folder(root, number) / name)) or {}
        counts = manifest.get("counts") or {}
        if skipped := counts.get("skipped_steps"):
            of_all = f"{skipped:,} of {counts.get('steps', 0):,} steps"
            yield "skipped_steps", f"{of_all} of the {name} were skipped: their loss or gradient was not finite"
