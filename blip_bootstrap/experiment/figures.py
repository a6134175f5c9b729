"""The figures of an arm: those of its evaluation, those of its round, and whether its captions are true."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blip_bootstrap.audit.audits import ask
from blip_bootstrap.config import AnnotatedSet, Config
from blip_bootstrap.experiment.file import Arm, Experiment
from blip_bootstrap.loop.layout import Artifact, Layout
from blip_bootstrap.loop.maker import Maker
from blip_bootstrap.progress import Say
from blip_bootstrap.query.questions import query
from blip_bootstrap.query.views import connect
from blip_bootstrap.storage.lock import locked
from blip_bootstrap.storage.parquet import read_parquet
from blip_bootstrap.storage.run_folder import flat, read_json, round_name
from blip_bootstrap.world.judge import judge
from blip_pipelines.ingest.annotated import ingest_annotated
from blip_pipelines.train.steps import evaluate

OF_TEXTS = ("itm_noise", "distinct_share", "distinct_words", "words_per_text", "most_common_share")


def evaluation_folder(root: Path, arm: Arm) -> Path:
    """Where the loop has measured the model of an arm on the held-out set."""
    round_root = root / round_name(arm.round)
    return round_root / "controls" / arm.control if arm.control else round_root / "evaluation"


def model_folder(root: Path, arm: Arm) -> Path:
    """Where the model of an arm lies."""
    return root / round_name(arm.round) / (f"controls/{arm.control}/model" if arm.control else "model")


def is_measured(root: Path, arm: Arm) -> bool:
    """Whether the loop has measured the model of an arm."""
    return (evaluation_folder(root, arm) / "metrics.json").is_file()


def has_model(config: Config, arm: Arm) -> bool:
    """Whether the round of an arm trains a model, and there are pictures to measure it on."""
    own = config.of_round(arm.round)
    return own.pretrain.optimizer.steps > 0 and own.held_out is not None


def measured_name(arm: Arm, split: str) -> str:
    """The name of the artifact that has the figures of an arm on another annotated set than the run's own."""
    return f"{round_name(arm.round)}/{split}_{arm.control or 'model'}"


def measure_on(config: Config, arm: Arm, split: str, pictures: AnnotatedSet, say: Say) -> Path:
    """Measure the model of an arm on another annotated set than the run's own; the folder of the figures.

    An artifact like any other, so that it is made once.
    """
    own, number = config.of_round(arm.round), arm.round
    at, make = Layout(own, number), Maker(own, say, number)
    name = measured_name(arm, split)
    out = Artifact(name, config.root / name, own.evaluate)
    model = Artifact(f"model {arm.control}", model_folder(config.root, arm), given=True) if arm.control else at.model
    with locked(config.root):
        listed = Artifact(f"list {split}", pictures.path, given=True)
        made = make(Artifact(split, config.root / split, pictures), ingest_annotated, listed)
        make(out, evaluate, model, made, None, at.references)
    return out.local


def figures_of(root: Path, arm: Arm, measured: Path | None, experiment: Experiment, split: str) -> dict[str, float]:
    """Every figure of an arm by name, shares 0..1.

    Where the arm is the round's own model, those of the round's metrics.json and of its texts (`figures_of_texts`); of
    the evaluation in `measured`, where there is one; and in the built-in world the share of its captions that are true,
    in all and by domain (`captions_true`, `true_in`, ...).
    """
    found: dict[str, float] = {}
    if not arm.control:
        found |= _numbers(read_json(root / round_name(arm.round) / "metrics.json") or {})
        found |= figures_of_texts(root, arm.round)
    if measured is None:
        return found
    found |= _numbers(json.loads((measured / "metrics.json").read_text(encoding="utf-8")))
    if experiment.is_builtin and (measured / "captions.parquet").is_file():
        found |= true_captions(measured / "captions.parquet", root / "world" / f"{split}.jsonl")
    return found


def figures_of_texts(root: Path, number: int) -> dict[str, float]:
    """How noisy and how varied a round's texts are, by source.

    `itm_noise_SOURCE`, the paper's noise ratio whatever the rule: the share of texts that ITM gives under .5. And of
    the audit of diversity `distinct_share_SOURCE`, `distinct_words_SOURCE`, `words_per_text_SOURCE` and
    `most_common_share_SOURCE`.
    """
    found: dict[str, Any] = {}
    with connect(root, [number]) as connection:
        noise = "SELECT source, avg((itm_score < 0.5)::INT) AS itm_noise FROM captions GROUP BY source"
        tables = query(connection, noise), ask(connection, "diversity").table
    for row in (row for table in tables for row in table.to_pylist()):
        found |= {f"{name}_{row['source']}": row[name] for name in OF_TEXTS if row.get(name) is not None}
    return _numbers(found)


def _numbers(found: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a metrics.json, nested names dotted; one that is no finite number is none."""
    return {
        name: float(value)
        for name, value in flat(found).items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name != "round" and math.isfinite(value)
    }


def true_captions(captions: Path, pictures: Path) -> dict[str, float]:
    """The shares of captions that are true of their scene, in all and by domain."""
    lines = (json.loads(line) for line in pictures.read_text(encoding="utf-8").splitlines())
    scenes = {row["image"]: row["scene"] for row in lines}
    true: dict[str, list[bool]] = {"captions_true": []}
    for row in read_parquet(captions, ["name", "caption", "domain"]).to_pylist():
        verdict = judge(scenes[row["name"]], row["caption"]) == "true"
        true["captions_true"].append(verdict)
        true.setdefault(f"true_{row['domain']}", []).append(verdict)
    return {name: statistics.fmean(verdicts) for name, verdicts in true.items()}
