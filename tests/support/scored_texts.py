"""Captions whose score says how likely they fit, what a rule keeps of them, and their labels."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from blip_bootstrap.config import SelectConfig
from blip_bootstrap.schemas.shown_tables import LABELS
from blip_bootstrap.select.pairs import select_pairs
from blip_bootstrap.storage import parquet


def scored(number: int, candidates: int = 2, seed: int = 1) -> list[dict[str, Any]]:
    """Texts whose true share rises with their score: P(fits | score s) = s for web, s**2 for synthetic."""
    rng = random.Random(seed)
    rows = []
    for at in range(number):
        for candidate in range(candidates):
            source, score = ("synthetic" if candidate else "web"), rng.random()
            fits = rng.random() < (score if source == "web" else score**2)
            rows.append(
                {"key": f"{at:010d}", "source": source, "candidate": max(0, candidate - 1), "itm_score": score,
                 "caption": f"text {at} {candidate} {'fits' if fits else 'not'}", "itc_score": 1 - score,
                 "logprob": -score, "num_tokens": 4, "flags": [], "seed": None}
            )  # fmt: skip
    return rows


def selected(captions: Path, **settings: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    out = captions.parent / f"pairs-{len(list(captions.parent.iterdir()))}"
    counts = select_pairs(out, captions, config=SelectConfig(**settings))
    rows = [row for file in parquet.parquet_files(out) for row in parquet.read_parquet(file).to_pylist()]
    return rows, dict(counts)


def label_file(folder: Path, rows: list[dict[str, Any]]) -> Path:
    answered = [
        {name: row.get(name) for name in LABELS.schema.names}
        | {"round": 1, "kept": True, "stratum_rows": 1, "answer": "yes" if row["caption"].endswith("fits") else "no"}
        for row in rows
    ]
    parquet.write_parquet(folder / "labels.parquet", parquet.rows_to_table(answered, LABELS), LABELS)
    return folder / "labels.parquet"


def noise_of(rows: list[dict[str, Any]]) -> float:
    kept = [row for row in rows if row["kept"]]
    return float(sum(row["caption"].endswith("not") for row in kept) / len(kept))
