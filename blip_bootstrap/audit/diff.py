"""What changed between two rounds of a run or of two runs: texts, scores, decisions, noise ratios, settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from blip_bootstrap.audit.audits import Answer, answer, print_answers
from blip_bootstrap.errors import InputError
from blip_bootstrap.query.formats import PipedConsole
from blip_bootstrap.query.macros import MACROS
from blip_bootstrap.query.questions import told_in_one_line
from blip_bootstrap.query.sql_text import scan
from blip_bootstrap.query.verdicts import every_pair_sql
from blip_bootstrap.storage import parquet, run_folder
from blip_bootstrap.storage.remote import remote_of
from blip_bootstrap.storage.remote_files import attach
from blip_bootstrap.storage.run_folder import flat, resolve_round

DIFFS = ("changes", "noise", "settings", "newly_kept", "newly_dropped")
"""The comparisons in the order in which they are printed; each is an SQL file in `sql/diff`."""

_SETTINGS = pa.schema([("setting", pa.string()), ("before", pa.string()), ("after", pa.string())])


def diff(root: Path, before: int, after: int, other: Path | None = None) -> list[Answer]:
    """Compare round `before` of the run under `root` with round `after` of it, or of the run under `other`.

    Texts are matched by image, source and candidate. Images are matched by key within a run, and by `uid` between
    runs, where keys depend on the order of the URL lists. Raises InputError where a run or round is not there.
    """
    resolve_round(root, before)
    resolve_round(other or root, after)
    with duckdb.connect() as connection:
        connection.execute(MACROS)
        attach(connection, [remote for run in {root, other or root} if (remote := remote_of(run))])
        for name, run, number in (("before", root, before), ("after", other or root, after)):
            with told_in_one_line():
                connection.execute(f"CREATE VIEW {name} AS {_pairs_sql(run, number, by_uid=other is not None)}")
        changed = pa.Table.from_pylist(_changed(root, before, other or root, after), schema=_SETTINGS)
        connection.register("settings", changed)
        folder = files("blip_bootstrap.audit").joinpath("sql", "diff")
        texts = {name: folder.joinpath(f"{name}.sql").read_text(encoding="utf-8") for name in DIFFS}
        return [answer(connection, name, sql) for name, sql in texts.items()]


def print_diff(root: Path, before: int, after: int, other: Path | None = None) -> None:
    """Print the comparisons as tables on standard output; a round that is out of date is told first."""
    console = PipedConsole()
    for run, number in ((root, before), (other or root, after)):
        if why := run_folder.out_of_date(run).get(number):
            console.print(f"round {number} is out of date: {why}", highlight=False, markup=False, soft_wrap=True)
    print_answers(console, diff(root, before, after, other))


def _pairs_sql(root: Path, number: int, by_uid: bool) -> str:
    found = _files(root, run_folder.round_folder(root, number) / "pairs")
    if not found:
        raise InputError(f"{root}: round {number} has no pairs yet")
    pairs = every_pair_sql(found, remote_of(root))
    if not by_uid:
        return f"SELECT *, key AS name FROM {pairs}"
    images = _files(root, run_folder.used_folder(root, number, "images"))
    if not images:
        raise InputError(f"{root}: no images; runs are compared by their images' uid")
    return f"SELECT p.*, i.uid AS name FROM {pairs} p JOIN (SELECT key, uid FROM {scan(images)}) i USING (key)"


def _files(root: Path, folder: Path) -> Sequence[Path | str]:
    remote = remote_of(root)
    return remote.parquet_files(folder) if remote else parquet.parquet_files(folder)


def _changed(root: Path, before: int, other: Path, after: int) -> list[dict[str, Any]]:
    """The settings that differ; of what the two rounds made by different steps, or one alone, the steps in one line."""
    rows = []
    for name in ("captions", "pairs"):
        was, now = _made(root, before, name), _made(other, after, name)
        if _step(was) == _step(now):
            rows += _differing(name, was.get("settings", {}), now.get("settings", {}))
        else:
            rows.append({"setting": name, "before": _step(was), "after": _step(now)})
    return sorted(rows, key=lambda row: str(row["setting"]))


def _made(root: Path, number: int, name: str) -> dict[str, Any]:
    found = run_folder.read_json(run_folder.manifest_path(run_folder.round_folder(root, number) / name))
    return dict(found or {})


def _step(manifest: Mapping[str, Any]) -> str | None:
    """The step that made something; None where it is not there, as captions in round 0."""
    step = manifest.get("recipe", {}).get("step")
    return None if step is None else str(step)


def _differing(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Names with dots, values as JSON."""
    was, now = ({f"{name}.{key}": json.dumps(value) for key, value in flat(one).items()} for one in (before, after))
    return [
        {"setting": key, "before": was.get(key), "after": now.get(key)}
        for key in sorted(was.keys() | now.keys())
        if was.get(key) != now.get(key)
    ]
