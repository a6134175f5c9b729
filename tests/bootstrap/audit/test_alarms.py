"""Each alarm sounds where it should, and none where all is well."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from blip_bootstrap.audit.alarms import alarms, fail_on_alarms
from blip_bootstrap.errors import RunFailed
from blip_bootstrap.schemas import tables
from blip_bootstrap.storage import parquet

TRAINED = ("model", "captioner", "filter")
WORDS = ["red", "green", "blue", "dog", "cat", "boat", "house", "tree", "road", "sky", "sea", "car"]


def write_round(root: Path, number: int, text: str | None = None, words: int = 6, length: int = 5, **more: Any) -> None:
    """A round of 200 images; `text` overrides what the captioner says, `keep` is the share kept of each source."""
    rng = random.Random(number)
    keep, flag, figures = more.get("keep", 0.6), more.get("flag", 0.0), more.get("figures", {"cider": 1.0})
    pairs: list[dict[str, Any]] = []
    captions: list[dict[str, Any]] = []
    for at in range(200):
        for source in ("web", "synthetic"):
            said = " ".join(rng.choices(WORDS[:words] if source == "synthetic" else WORDS, k=length))
            kept = rng.random() < keep
            row: dict[str, Any] = {"key": f"{at:010d}", "source": source, "candidate": 0, "itm_score": 0.5,
                   "caption": text if text and source == "synthetic" else said}  # fmt: skip
            flags = ["repetition"] if source == "synthetic" and rng.random() < flag else []
            pairs.append(row | {"kept": kept, "reason": None if kept else "below_threshold"})
            captions.append(row | {"itc_score": 0.1, "logprob": None, "num_tokens": 5, "flags": flags, "seed": None})
    folder = root / f"round-{number:02d}"
    for name, rows, table in (("pairs", pairs, tables.PAIRS), ("captions", captions, tables.CAPTIONS)):
        parquet.write_parquet(folder / name / "part-00000.parquet", parquet.rows_to_table(rows, table), table)
    (folder / "metrics.json").write_text(json.dumps(figures))
    if "itm" in more:
        (folder / "model").mkdir()
        lines = [json.dumps({"step": step, "itm": more["itm"] + 0.3 / (1 + step)}) for step in range(50)]
        (folder / "model" / "metrics.jsonl").write_text("\n".join(lines))
    for name, counts in more.get("counts", {}).items():
        (folder / name).mkdir()
        (folder / name / "MANIFEST.json").write_text(json.dumps({"counts": counts}))


@pytest.mark.parametrize(
    ("second", "names"),
    [
        ({}, []),
        ({"itm": 0.2}, []),
        ({"words": 4}, ["vocabulary"]),
        ({"length": 3, "words": 12}, ["length"]),
        ({"text": "red green blue dog cat boat"}, ["repeated_text", "duplicates"]),
        ({"keep": 1.0}, ["keeps_all", "keeps_all"]),
        ({"keep": 0.0}, ["keeps_nothing", "keeps_nothing"]),
        ({"flag": 0.3}, ["repetition"]),
        ({"figures": {"cider": 0.8}}, ["held_out"]),
        ({"itm": 0.6365}, ["itm_idle"]),
        ({"counts": {"model": {"steps": 9, "skipped_steps": 0}, "filter": {"steps": 9}}}, []),
        ({"counts": {name: {"steps": 9, "skipped_steps": 1} for name in TRAINED}}, ["skipped_steps"] * 3),
    ],
)
def test_alarms_against_the_round_before(tmp_path: Path, second: dict[str, Any], names: list[str]) -> None:
    write_round(tmp_path, 1)
    write_round(tmp_path, 2, **second)
    found = alarms(tmp_path)
    assert [alarm.name for alarm in found] == names
    assert alarms(tmp_path, 1) == []


def test_alarms_can_stop_a_pipeline(tmp_path: Path) -> None:
    write_round(tmp_path, 1, keep=1.0)
    with pytest.raises(RunFailed, match=r"round 1, keeps_all: only 0 of 200 web texts") as caught:
        fail_on_alarms(alarms(tmp_path))
    assert len(str(caught.value).splitlines()) == 2
    fail_on_alarms([])
