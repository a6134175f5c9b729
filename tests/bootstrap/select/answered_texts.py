"""Texts whose scores are noisy signs of whether they fit, and answers to them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np

from blip_bootstrap.schemas import shown_tables, tables
from blip_bootstrap.storage import parquet


def texts(number: int, seed: int = 0, per_image: int = 2) -> list[dict[str, Any]]:
    """A web text and synthetic ones of each image; four scores are each a noisy sign of whether a text fits."""
    rng, rows = random.Random(seed), []
    for at in range(number):
        for candidate in range(per_image + 1):
            fits, source = rng.random() < 0.5, "synthetic" if candidate else "web"
            sign = [rng.gauss(1.0 if fits else -1.0, 1.2) for _ in range(4)]
            rows.append(
                {"key": f"{seed:05d}{at:05d}", "source": source, "candidate": max(0, candidate - 1),
                 "itm_score": float(1 / (1 + np.exp(-2 * sign[0]))), "itc_score": 0.3 + 0.1 * sign[1],
                 "logprob": -30 + 8 * sign[2], "agreement": min(1.0, max(0.0, 0.5 + 0.2 * sign[3])),
                 "caption": f"{'a word ' * rng.randint(1, 4)}{at} {candidate} {'fits' if fits else 'not'}",
                 "num_tokens": 5, "flags": [], "seed": None, "captioner": None if source == "web" else "mine"}
            )  # fmt: skip
    return rows


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    parquet.write_parquet(folder / "part-00000.parquet", parquet.rows_to_table(rows, tables.CAPTIONS), tables.CAPTIONS)
    return folder


def label_file(path: Path, rows: list[dict[str, Any]], **more: Any) -> Path:
    answered = [{**dict.fromkeys(shown_tables.LABELS.schema.names), **answered_row(row), **more} for row in rows]
    known = [{name: row[name] for name in shown_tables.LABELS.schema.names} for row in answered]
    parquet.write_parquet(path, parquet.rows_to_table(known, shown_tables.LABELS), shown_tables.LABELS)
    return path


def answered_row(row: dict[str, Any]) -> dict[str, Any]:
    answer = "yes" if row["caption"].endswith("fits") else "no"
    return row | {"round": 1, "kept": True, "stratum_rows": 1, "answer": answer}


def some(captions: Path, number: int, source: str | None = None, seed: int = 5) -> list[dict[str, Any]]:
    rows = parquet.read_parquet(captions / "part-00000.parquet").to_pylist()
    return random.Random(seed).sample([row for row in rows if source in (None, row["source"])], number)


def fits_of(rows: list[dict[str, Any]]) -> np.ndarray[Any, Any]:
    return np.array([row["caption"].endswith("fits") for row in rows], dtype=np.float64)
