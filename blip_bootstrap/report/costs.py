"""What a round's captions cost, and what was got for it: figures for metrics.json, and a section of the page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from blip_bootstrap.html import charts
from blip_bootstrap.html.elements import charts_html, note_html, table_html
from blip_bootstrap.query.questions import query
from blip_bootstrap.query.views import connect
from blip_bootstrap.report.page_data import PageData
from blip_bootstrap.storage.run_folder import MANIFEST, read_json, round_folder

TEXTS = """
    SELECT c.key, c.candidate, c.captioner, c.prompt, p.kept, c.cost_seconds AS seconds, c.cost_requests AS requests,
        c.cost_prompt_tokens AS prompt_tokens, coalesce(c.cost_completion_tokens, c.num_tokens) AS tokens
    FROM captions c JOIN pairs p USING (round, key, source, candidate) WHERE c.source = 'synthetic'
"""
"""A round's synthetic texts with what each cost; where nobody counted, tokens are those of the text."""

SUMS = """
    count(*) AS texts, count(*) FILTER (kept) AS kept, sum(tokens)::DOUBLE AS tokens,
    sum(seconds)::DOUBLE AS seconds, sum(requests)::DOUBLE AS requests, sum(prompt_tokens)::DOUBLE AS prompt_tokens
"""

BY_PROMPT = f"""
    SELECT captioner || '/' || prompt AS name, {SUMS} FROM cost_texts WHERE prompt IS NOT NULL GROUP BY ALL ORDER BY ALL
"""

UNITS = ("tokens", "seconds", "requests", "prompt_tokens")

CURVE = """
    WITH drawn AS (SELECT candidate, count(*) AS texts, sum(tokens)::DOUBLE AS tokens, count(*) FILTER (kept) AS kept
        FROM cost_texts GROUP BY candidate),
    first AS (SELECT key, min(CASE source WHEN 'web' THEN -1 ELSE candidate END) AS candidate
        FROM pairs WHERE kept GROUP BY key),
    pictures AS (SELECT candidate, count(*) AS pictures FROM first GROUP BY candidate),
    every AS (SELECT candidate FROM drawn UNION SELECT -1)
    SELECT candidate + 1 AS k, sum(coalesce(texts, 0)) OVER upto AS texts, sum(coalesce(tokens, 0)) OVER upto AS tokens,
        sum(coalesce(kept, 0)) OVER upto AS kept, sum(coalesce(pictures, 0)) OVER upto AS pictures
    FROM every LEFT JOIN drawn USING (candidate) LEFT JOIN pictures USING (candidate)
    WINDOW upto AS (ORDER BY candidate) ORDER BY candidate
"""
"""What the first K texts of each picture cost, and how many are kept of them; K = 0 are the web texts alone."""


def cost_figures(root: Path, number: int, judged: pa.Table | None = None) -> dict[str, Any]:
    """What the synthetic texts of round `number` cost; nothing where it has none.

    - `cost_texts`, `cost_kept`, `cost_spared`: texts drawn, those kept, and those that were not drawn since one passed;
    - `cost_tokens`, `cost_seconds`, `cost_requests`, `cost_prompt_tokens`: of all texts, as far as their captioners
      tell; each with `_per_kept`, for each kept text; `cost_step_seconds_per_kept`: of the whole step, scores included;
    - `cost_pictures_kept`: share of the pictures, 0..1, that have a kept text, web or synthetic;
    - `cost_by_captioner.<name>`: the same for each captioner; `cost_by_prompt.<name>/<prompt>`: for each prompt of
      captioners that have prompts;
    - `cost_curve.<K>`: of the first K texts of each picture `texts`, `tokens`, `kept`, `pictures_kept`, and where
      `judged` (`judged_pairs`) has verdicts, `kept_truth`: the true share, 0..1, of these that are kept.
    """
    with connect(root, [number], with_figures=False) as connection:
        connection.execute(f"CREATE TEMP VIEW cost_texts AS {TEXTS}")
        (total,) = _asked(connection, f"SELECT {SUMS} FROM cost_texts")
        if not total["texts"]:
            return {}
        by_captioner = _asked(connection, f"SELECT captioner, {SUMS} FROM cost_texts GROUP BY captioner ORDER BY 1")
        by_prompt = _asked(connection, BY_PROMPT)
        ((pictures, spared),) = connection.execute(
            "SELECT count(*), coalesce(sum(spared), 0) FROM captions WHERE source = 'web'"
        ).fetchall()
        curve = _asked(connection, CURVE)
    truths = _truths(judged, len(curve)) if judged is not None else {}
    found = {f"cost_{name}": value for name, value in _with_shares(total).items()} | {"cost_spared": int(spared)}
    seconds = (read_json(round_folder(root, number) / "captions" / MANIFEST) or {}).get("seconds")
    found["cost_step_seconds_per_kept"] = seconds / total["kept"] if seconds and total["kept"] else None
    found["cost_pictures_kept"] = int(curve[-1]["pictures"]) / pictures if pictures else None
    found["cost_by_captioner"] = {str(one.pop("captioner")): _with_shares(one) for one in by_captioner}
    if by_prompt:
        found["cost_by_prompt"] = {str(one.pop("name")): _with_shares(one) for one in by_prompt}
    found["cost_curve"] = {str(one["k"]): _point(one, pictures, truths.get(one["k"])) for one in curve}
    return found


def _asked(connection: duckdb.DuckDBPyConnection, sql: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = query(connection, sql).to_pylist()
    return rows


def _with_shares(sums: Mapping[str, Any]) -> dict[str, Any]:
    """Sums with each unit's share for a kept text; without the units that nobody counted."""
    found = {name: int(value) if isinstance(value, int) else value for name, value in sums.items() if value is not None}
    kept = found.get("kept", 0)
    return found | {f"{unit}_per_kept": found[unit] / kept for unit in UNITS if unit in found and kept}


def _point(one: Mapping[str, Any], pictures: int, truth: float | None) -> dict[str, Any]:
    share = {"pictures_kept": int(one["pictures"]) / pictures if pictures else None}
    found = {name: float(one[name]) for name in ("texts", "tokens", "kept")} | share
    return found if truth is None else found | {"kept_truth": truth}


def _truths(judged: pa.Table, num: int) -> dict[int, float]:
    """For each K the true share of the kept ones of the first K texts of each picture, as far as truth is known."""
    with duckdb.connect() as connection:
        connection.register("judged", judged.select(["source", "candidate", "kept", "verdict"]))
        rows = connection.execute(
            "SELECT candidate, count(*), count(*) FILTER (verdict = 'true') FROM judged "
            "WHERE source = 'synthetic' AND kept AND verdict IS NOT NULL GROUP BY candidate"
        ).fetchall()
    found = {k: [(each, true) for candidate, each, true in rows if candidate < k] for k in range(1, num)}
    return {k: sum(true for _, true in some) / sum(each for each, _ in some) for k, some in found.items() if some}


def costs(page: PageData) -> str:
    """What each captioner's texts cost, and curves of what was got for it."""
    by_captioner: Mapping[str, Mapping[str, Any]] = page.figures.get("cost_by_captioner") or {}
    if not by_captioner:
        return ""
    by_prompt: Mapping[str, Mapping[str, Any]] = page.figures.get("cost_by_prompt") or {}
    tables = _table(by_captioner, "captioner", "Cost of each captioner's texts")
    tables += _table(by_prompt, "captioner/prompt", "The same by prompt") if by_prompt else ""
    return _told(page.figures) + tables + _curves(page.figures)


def _table(sums: Mapping[str, Mapping[str, Any]], what: str, title: str) -> str:
    rows = [{what: name, **{_words(key): _shown(value) for key, value in one.items()}} for name, one in sums.items()]
    return table_html(rows, title)


def _told(figures: Mapping[str, Any]) -> str:
    drawn, spared = figures["cost_texts"], figures.get("cost_spared", 0)
    told = f"{drawn:,} captions were drawn"
    if spared:
        share = spared / (drawn + spared)
        told += f", and {spared:,} were not ({share:.0%}), since a text of their picture passed"
    each = [(unit, figures.get(f"cost_{unit}_per_kept")) for unit in UNITS]
    units = ", ".join(f"{value:,.3g} {_words(unit)}" for unit, value in each if value)
    units = f"A kept caption cost {units}" if units else ""
    step = figures.get("cost_step_seconds_per_kept")
    units += f", and {step:.3g} seconds of the whole step, which scores it, too" if units and step else ""
    return note_html(f"{told}. {units}{'.' if units else ''}")


def _curves(figures: Mapping[str, Any]) -> str:
    """Kept truth, where it is known, and pictures with a kept text, over the tokens of the first K texts of each."""
    curve: list[Mapping[str, Any]] = [*(figures.get("cost_curve") or {}).values()]
    series = {
        "true of the kept captions": [(one["tokens"], one["kept_truth"]) for one in curve if "kept_truth" in one],
        "pictures with a kept text": [(one["tokens"], one["pictures_kept"]) for one in curve],
    }
    if len(curve) < 3:  # one candidate: a line of one step
        return ""
    title = "what the first 0, 1, 2, ... captions of each picture bring"
    return charts_html([charts.lines(title, series, ("kept", "synthetic"), "tokens written", marked=True)])


def _words(name: str) -> str:
    return name.replace("_", " ")


def _shown(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}" if value >= 100 else f"{value:.3g}"
