"""Labels without asking people: a human caption fits its picture, and a text of another picture does not."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from blip_bootstrap.errors import InputError
from blip_bootstrap.query.questions import query
from blip_bootstrap.query.views import connect
from blip_bootstrap.schemas.keys import key_of_id
from blip_bootstrap.schemas.shown_tables import LABELS
from blip_bootstrap.select.calibrate import thresholds_table
from blip_bootstrap.settings.section import Normalise
from blip_bootstrap.storage import parquet, run_folder
from blip_bootstrap.storage.files import check_writable
from blip_bootstrap.storage.run_folder import resolve_round, round_name

Pair = tuple[bytes, str, str]

Scorer = Callable[[pa.Table, Path, str | Path, str | Path, Mapping[str, Any]], pa.Table]
"""Scores given texts of pictures like a run: (rows with `key`, `status`, `jpg` and `texts`; the run's images; the
captioner; the filter; the section `caption`) to rows of `captions`. `blip_pipelines.check.step.score_given` is one."""


def label_human_pairs(
    root: Path, number: int | None = None, size: int = 1000, seed: int = 0, scorer: Scorer | None = None
) -> Path:
    """Let a round's models score `size` pictures with one of their human captions and a text of another picture.

    The texts of other pictures are web texts of the round, or human captions where it has none. The pictures are those
    of the held-out set, or of the human set where there is none. Writes labels of the source `human`, answered yes and
    no; the file's path is what `select.labels` takes for the strategy `target_noise`. With a `scorer` they have every
    score, where the round's captioner is known, too; without, that of the filter's ITM alone. Raises InputError where
    the run has neither set, or no single filter that scored the round.
    """
    # Web texts, since the wrong texts that `target_noise` is to find are worded like them: file names, shop titles,
    # slogans. The held-out set first, since the filter was fine-tuned on the human set.
    number = resolve_round(root, number)
    path = root / "labels" / f"human-{round_name(number)}.parquet"
    pairs = list(_pairs(root, number, size, seed))
    filter, captioner = filter_of(root, number), captioner_of(root, number)
    check_writable(path)
    if scorer and captioner:
        scored = scorer(_given(pairs), root / "images", captioner, filter, _settings(root).get("caption") or {})
        found = [row for row in scored.to_pylist() if row["source"] == "web"]
    else:
        found = _scored_by_itm(pairs, filter, (_settings(root).get("caption") or {}).get("normalise", "auto"))
    rows = [_row(number, row) for row in found]
    parquet.write_parquet(path, parquet.rows_to_table(rows, LABELS), LABELS, {"seed": str(seed), "filter": str(filter)})
    return path


def _given(pairs: Sequence[Pair]) -> pa.Table:
    """The pictures with both of their texts, as a scorer takes them."""
    return pa.table(
        {
            "key": pa.array([_key(at) for at in range(len(pairs))], pa.string()),
            "status": pa.array(["success"] * len(pairs), pa.string()),
            "jpg": pa.array([jpg for jpg, _, _ in pairs], pa.binary()),
            "texts": pa.array([[right, wrong] for _, right, wrong in pairs], pa.list_(pa.string())),
        }
    )


def _scored_by_itm(pairs: Sequence[Pair], filter: str | Path, normalise: Normalise) -> list[dict[str, Any]]:
    """The texts with the filter's ITM scores alone."""
    from blip_training.evaluate.pair_scores import score_pairs  # it loads torch

    given = [[right, wrong] for _, right, wrong in pairs]
    scores = score_pairs(filter, [jpg for jpg, _, _ in pairs], given, normalise)
    return [
        {"key": _key(at), "candidate": candidate, "caption": text, "itm_score": score}
        for at, (texts, both) in enumerate(zip(given, scores, strict=True))
        for candidate, (text, score) in enumerate(zip(texts, both, strict=True))
    ]


def thresholds_with(labels: Path, root: Path, number: int | None = None) -> pa.Table:
    """What the strategy `target_noise` would do with such labels on a round's web texts, one row for each target."""
    captions = run_folder.round_folder(root, resolve_round(root, number)) / "captions"
    return thresholds_table(parquet.parquet_files(captions), labels, ["web"])


def filter_of(root: Path, number: int) -> str | Path:
    """The filter that scored a round: the one that the round fine-tuned, else the one that was given."""
    folder = run_folder.round_folder(root, number) / "filter"
    if folder.is_dir():
        return folder
    config = _settings(root)
    given = (config.get("filter") or {}).get("checkpoint")
    if not given or (config.get("caption") or {}).get("filters"):
        raise InputError(f"{folder}: no single filter made round {number}'s scores; label a sample (`audit sample`)")
    return str(given)


def captioner_of(root: Path, number: int) -> str | Path | None:
    """The captioner of a round: the one that the round fine-tuned, else the one that was given; None: not known."""
    folder = run_folder.round_folder(root, number) / "captioner"
    return folder if folder.is_dir() else (_settings(root).get("captioner") or {}).get("checkpoint")


def _settings(root: Path) -> dict[str, Any]:
    """The configuration of the last command that ran this run; empty where there is none."""
    file = root / "config.yaml"
    return (yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else None) or {}


def _pairs(root: Path, number: int, size: int, seed: int) -> Iterator[Pair]:
    """Pictures, each with one of its captions and a text of another picture that is not among its own captions."""
    rng = random.Random(seed)
    rows = _annotated(root)
    rows = rng.sample(rows, min(size, len(rows)))
    web = _web_texts(root, number, len(rows), seed)
    for at, row in enumerate(rows):
        wrong = [web[at % len(web)]] if web else rows[at - 1]["captions"]
        if others := [text for text in wrong if text not in row["captions"]]:
            yield row["jpg"], rng.choice(row["captions"]), rng.choice(others)


def _web_texts(root: Path, number: int, size: int, seed: int) -> list[str]:
    """Scored web texts of a round, drawn by the seed; none where it has none."""
    sql = f"""
    SELECT caption FROM pairs
    WHERE round = {number} AND source = 'web' AND itm_score IS NOT NULL AND trim(caption) <> ''
    ORDER BY md5_number_lower(concat_ws(' ', {seed}, key)), key LIMIT {size}
    """
    with connect(root) as connection:
        found: list[str] = query(connection, sql)["caption"].to_pylist()
    return found


def _annotated(root: Path) -> list[dict[str, Any]]:
    """The readable pictures of the held-out set, else of the human set."""
    with connect(root) as connection:
        for name in ("held_out", "human"):
            sql = f"SELECT jpg, captions FROM {name} WHERE status = 'success' AND len(captions) > 0 ORDER BY key"
            if rows := query(connection, sql).to_pylist():
                found: list[dict[str, Any]] = rows
                return found
    raise InputError(f"{root}: no held-out and no human-annotated set; label a sample (`audit sample`)")


def _key(at: int) -> str:
    return key_of_id(at)


def _row(number: int, scored: Mapping[str, Any]) -> dict[str, object]:
    known = {"round": number, "source": "human", "answer": "no" if scored["candidate"] else "yes"}
    return {name: scored.get(name) for name in LABELS.schema.names} | known
