"""Captions that are paid for where they are needed alone, beside a plain run of ten candidates a picture.

    .venv/bin/python tests/bench/cost_aware.py [--world ROOT ...] [--photographs ROOT ...] [--pictures 1000]
                                               [--candidates 10] [--scratch DIR] [--json]

ROOT is a finished run, of the demo or an experiment: its first round's captioner and filter are used, and nothing is
written there; where none is given, a demo is run first. The rule that a text must pass (`caption.passes`) comes from
the run's own `filter_check`: the score with the largest AUC for its source, and the least that SHARES of the right
texts there have. Truth has no say in it.

Both arms keep a text where it passes, and one of several equal ones of a picture. `work_share` are the tokens that the
captioner wrote, by those of the plain run; `cpu_share` the same of the step's processor time, its scores included. In
the built-in world truth is the drawn scene's. Photographs are the held-out set without those of `filter_check`, each
with a web text: one of its own human captions (45 %, which is then no reference), else another picture's; a synthetic
text counts as true where it agrees with the human captions as `filter_check` has it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from blip_bootstrap.config import CaptionConfig, RayConfig
from blip_bootstrap.demo.run import run_demo
from blip_bootstrap.labels.truth import file_name, load_truth
from blip_bootstrap.schemas.tables import IMAGES
from blip_bootstrap.select.logistic import auc
from blip_bootstrap.storage.parquet import parquet_files, read_parquet, rows_to_table, write_parquet
from blip_pipelines.caption.sparing import COLUMNS, passes
from blip_pipelines.caption.step import caption_and_score
from blip_pipelines.check.human_agreement import HumanAgreement
from blip_pipelines.scoring.rows import CaptionRow

HERE = RayConfig(address="none")
SCORES = ("itm", "itc", "logprob", "logprob_per_token", "lift", "distinctness")

SHARES = {"web": 0.5, "synthetic": 0.9}
"""Of the right texts of `filter_check` so many have at least the score that a text must have. A web text that passes
spares all captions of its picture, so that it must be a better one. Chosen on a world whose figures are not shown."""

TRUE_WEB = 0.45

Rows = list[dict[str, Any]]
IsTrue = Callable[[Mapping[str, Any]], bool | None]


def checked(root: Path) -> Rows:
    """The texts by which a run has checked its filter."""
    return read_parquet(root / "round-01" / "filter_check" / "part-00000.parquet").to_pylist()


def rule_of(root: Path) -> dict[str, dict[str, float]]:
    """For each source the score that tells right texts best, and its least, by the run's own check of its filter."""
    known = checked(root)
    found: dict[str, dict[str, float]] = {}
    for source, share in SHARES.items():
        of_score = {}
        for name in SCORES:
            column = COLUMNS.get(name, name)
            mine = [row for row in known if row["source"] == source and row["fits"] is not None]
            mine = [row for row in mine if row[column] is not None]
            right = np.array([row["fits"] for row in mine])
            scores = np.array([row[column] for row in mine])
            of_score[name] = auc(scores, right), float(np.quantile(scores[right], 1 - share))
        best = max(of_score, key=lambda name: of_score[name][0])
        found[source] = {best: round(of_score[best][1], 4)}
    return found


def of_world(root: Path, out: Path, count: int) -> IsTrue:
    """The first pictures of a run, as images; and the verdict of its world on any text about them."""
    some, truth, names = [], load_truth(root / "world" / "truth.jsonl"), {}
    for file in parquet_files(root / "images"):
        table = read_parquet(file)
        some.append(table.filter(pc.equal(table["status"], "success")))
    table = pa.concat_tables(some).slice(0, count)
    write_parquet(out / "part-00000.parquet", table, IMAGES)
    names = {row["key"]: file_name(row["url"]) for row in table.select(["key", "url"]).to_pylist()}

    def is_true(row: Mapping[str, Any]) -> bool | None:
        verdict = truth.verdict(names[row["key"]], row["source"], row["caption"])
        return None if verdict is None else verdict == "true"

    return is_true


def of_photographs(root: Path, out: Path, count: int) -> IsTrue:
    """Held-out photographs with web texts, as images; and what their human captions say of a text."""
    seen = {row["name"] for row in checked(root)}
    every = [row for file in parquet_files(root / "held_out") for row in read_parquet(file).to_pylist()]
    known = [row for row in every if row["jpg"] and row["name"] not in seen][:count]
    own, references, rows = {}, {}, []
    for at, row in enumerate(known):
        number = int(hashlib.sha256(row["name"].encode()).hexdigest(), 16)
        own[row["key"]] = number % 1000 < 1000 * TRUE_WEB
        text = known[at if own[row["key"]] else at - 1]["captions"][0]
        references[row["key"]] = row["captions"][1:]
        empty: dict[str, Any] = dict.fromkeys(IMAGES.schema.names)
        rows.append(empty | {"key": row["key"], "status": "success", "caption": text, "jpg": row["jpg"], "url": "x"})
    write_parquet(out / "part-00000.parquet", rows_to_table(rows, IMAGES), IMAGES)
    agreement = HumanAgreement(references)

    def is_true(row: Mapping[str, Any]) -> bool | None:
        if row["source"] == "web":
            return own[row["key"]]
        return agreement.is_right(agreement.with_all(row["key"], row["caption"]))

    return is_true


def run(root: Path, images: Path, out: Path, config: CaptionConfig) -> tuple[Rows, float]:
    """The captions that a step writes by these settings, and its processor's seconds: other work is not counted."""
    started = time.process_time()
    caption_and_score(out, images, root / "round-01" / "captioner", root / "round-01" / "filter", config, HERE)
    seconds = time.process_time() - started
    return [row for file in parquet_files(out) for row in read_parquet(file).to_pylist()], seconds


def kept_of(rows: Rows, rule: Mapping[str, Mapping[str, float]]) -> Iterator[dict[str, Any]]:
    """The texts that pass, one of several equal ones of a picture."""
    for _, of_one in groupby(rows, key=lambda row: row["key"]):
        seen: set[str] = set()
        for row in of_one:
            known = CaptionRow(**{name: row[name] for name in row if name in CaptionRow.__slots__})
            if passes(known, rule[row["source"]]) and row["caption"] not in seen:
                seen.add(row["caption"])
                yield row


def tokens_of(rows: Rows, config: CaptionConfig) -> int:
    """Tokens that the captioner drew for the texts, their ends among them, without those of the prompt."""
    num_prompt = len(config.prompt.split())  # each of its words is one piece
    written = [row for row in rows if row["source"] == "synthetic"]
    return sum(row["num_tokens"] - num_prompt + ("cut_at_max_length" not in row["flags"]) for row in written)


def figures_of(rows: Rows, config: CaptionConfig, is_true: IsTrue) -> dict[str, float]:
    """Tokens, texts, the share of kept texts that are true, and the share of pictures that have one."""
    kept = [*kept_of(rows, config.passes)]
    verdicts = [verdict for row in kept if (verdict := is_true(row)) is not None]
    of_written = [is_true(row) for row in kept if row["source"] == "synthetic"]
    num_pictures = sum(row["source"] == "web" for row in rows)
    return {
        "texts": sum(row["source"] == "synthetic" for row in rows), "tokens": tokens_of(rows, config),
        "kept": len(kept), "true_kept": sum(verdicts) / max(1, len(verdicts)),
        "true_kept_synthetic": sum(map(bool, of_written)) / max(1, len(of_written)),
        "pictures_kept": len({row["key"] for row in kept}) / num_pictures,
        "pictures_true": len({row["key"] for row in kept if is_true(row)}) / num_pictures,
    }  # fmt: skip


def measure(root: Path, scratch: Path, count: int, candidates: int, is_photographs: bool) -> dict[str, Any]:
    """Both arms over the same pictures, by the same models."""
    scratch.mkdir(parents=True, exist_ok=True)
    is_true = (of_photographs if is_photographs else of_world)(root, scratch / "images", count)
    section = yaml.safe_load((root / "config.yaml").read_text())["caption"]
    plain = CaptionConfig.model_validate(section | {"candidates": candidates, "passes": rule_of(root)})
    spared = plain.model_copy(update={"when": "web_fails", "until_passes": True})
    found: dict[str, Any] = {"passes": plain.passes}
    for name, config in (("plain", plain), ("cost_aware", spared)):
        print(f"{root.name}: {name}", file=sys.stderr, flush=True)
        rows, seconds = run(root, scratch / "images", scratch / name, config)
        found[name] = figures_of(rows, config, is_true) | {"cpu_seconds": seconds}
    found["work_share"] = found["cost_aware"]["tokens"] / found["plain"]["tokens"]
    found["cpu_share"] = found["cost_aware"]["cpu_seconds"] / found["plain"]["cpu_seconds"]
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the figures of each set, and their worst."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--world", type=Path, nargs="+", default=[], help="finished runs of the built-in world")
    parser.add_argument("--photographs", type=Path, nargs="+", default=[], help="finished runs on photographs")
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--candidates", type=int, default=10)
    parser.add_argument("--scratch", type=Path, help="where captions are written, and kept; else a temporary folder")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        if not given.world and not given.photographs:
            given.world = [(given.scratch or Path(temporary)).absolute() / "demo"]
            run_demo(given.world[0], 1, ["controls.arms=[]"], None, lambda line: print(line, file=sys.stderr))
        for roots, name in ((given.world, "world"), (given.photographs, "photographs")):
            for at, root in enumerate(roots):
                place = (given.scratch or Path(temporary)).absolute() / f"{name}-{at}"
                one = measure(root, place, given.pictures, given.candidates, name == "photographs")
                found[f"{name}_{at}"] = one
    if given.json:
        shares = [one["work_share"] for one in found.values()]
        print(json.dumps({"work_share": max(shares)} | found, indent=1))
        return
    for name, one in found.items():
        print(f"{name}: work_share {one['work_share']:.3f}, cpu_share {one['cpu_share']:.3f}, rule {one['passes']}")
        for arm in ("plain", "cost_aware"):
            print(f"  {arm:<11}" + "  ".join(f"{key} {value:,.4g}" for key, value in one[arm].items()))


if __name__ == "__main__":
    main()
