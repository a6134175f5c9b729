"""What scores and learned rule tell on photographs, from a finished round and from captions answered by eye.

    .venv/bin/python tests/bench/photographs.py --root runs/flickr8k [--human 1000] [--train ARM ...] [--json]
                                              [--answers tests/bench/flickr8k_answers.csv]

Web texts are judged by the run's truth file, where `clean` is right, and synthetic ones by the answers. An answer
counts for the captions of the round that were kept or dropped as its own was. `learned N` is the rule from N answers
and from 50 about web texts, which the truth file gives; its AUC is the product's nested cross-validated one, and
`unseen` that over the answers which it was not given. The rules keep as many texts as ITM's cut; `noise N` is the same
rule with the default cut. `--train` trains models of round 1 on a rule's pairs, with the steps of the run. All this
lies under ROOT/photographs; the rest of the run stays as it is.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from blip_bootstrap.config import Config, SelectConfig, load_config
from blip_bootstrap.labels.truth import Truth, judged_pairs, load_truth
from blip_bootstrap.query.verdicts import SCORE_COLUMNS
from blip_bootstrap.schemas.shown_tables import LABELS
from blip_bootstrap.select.logistic import auc_interval
from blip_bootstrap.select.pairs import RULE, select_pairs
from blip_bootstrap.storage.labels import write_labels
from blip_pipelines.train.calls import call_arm

ANSWERS = Path(__file__).with_name("flickr8k_answers.csv")
NUMBERS = (50, 100, 200)
NUM_WEB = 50
"""Web texts that the truth file answers for a learned rule."""

LEAST_UNSEEN = 50
"""Fewer answers that a rule has not seen are not measured."""

KINDS = ("mismatch", "unrelated", "damaged")
RANKS = {
    "rank": {"web": ["itm", "itc"], "synthetic": ["itc", "logprob"]},
    "rank per token": {"web": ["itc", "logprob_per_token"], "synthetic": ["itc", "logprob_per_token"]},
}
"""The first is what `learned` goes by without answers."""

Row = dict[str, Any]
Figure = dict[str, float]


def read_answers(path: Path, human: int) -> list[Row]:
    """The answered captions of the run with so many human pictures: rows of `LABELS`, with the picture's `image`."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["human"] == str(human)]
    types = {field.name: str(field.type) for field in LABELS.schema}
    nothing: Row = dict.fromkeys(types)
    return [
        nothing
        | {"round": 1, "source": "synthetic"}
        | {name: _cell(types.get(name), text) for name, text in row.items()}
        for row in rows
    ]


def _cell(kind: str | None, text: str) -> Any:
    if not text or kind in (None, "string"):
        return text or None
    return text == "true" if kind == "bool" else int(text) if kind.startswith("int") else float(text)


def weighted_auc(scores: Sequence[float | None], right: Sequence[bool], weights: Sequence[float]) -> Figure:
    """AUC with its 95 % interval, each pair of texts weighted; texts without a score are left out."""
    cells = zip(scores, right, weights, strict=True)
    kept = [(score, yes, weight) for score, yes, weight in cells if score is not None and math.isfinite(score)]
    value, yes, weight = np.array(kept, dtype=np.float64).reshape(-1, 3).T
    if len(set(yes.tolist())) < 2:
        return {"auc": math.nan, "low": math.nan, "high": math.nan, "texts": len(kept)}
    good, bad = yes == 1, yes == 0
    above = (value[good][:, None] > value[bad]) + 0.5 * (value[good][:, None] == value[bad])
    area = float(weight[good] @ above @ weight[bad] / weight[good].sum() / weight[bad].sum())
    low, high = auc_interval(area, yes)
    return {"auc": area, "low": low, "high": high, "texts": len(kept)}


def weights_of(rows: Sequence[Row]) -> list[float]:
    """How many captions of the round each answered one stands for."""
    number = {kept: sum(row["kept"] is kept for row in rows) for kept in (True, False)}
    return [row["stratum_rows"] / number[row["kept"]] for row in rows]


def of_answers(rows: Sequence[Row], column: str, given: Sequence[Row] | None = None) -> Figure:
    """The AUC of a score over answered captions; the weights are those of all `given` ones."""
    weight = dict(zip(map(_id, given or rows), weights_of(given or rows), strict=True))
    answers = [row["answer"] == "yes" for row in rows]
    return weighted_auc([row[column] for row in rows], answers, [weight[_id(row)] for row in rows])


def _id(row: Row) -> tuple[Any, ...]:
    return row["key"], row["source"], row["candidate"]


@dataclass(frozen=True)
class Round:
    """Round 1 of a finished run, and the answers to its captions."""

    root: Path
    truth: Truth
    answers: list[Row]

    @cached_property
    def texts(self) -> list[Row]:
        """All texts with their scores, what ITM's cut did with them, and the `kind` of web texts."""
        fates = {_id(row): row for row in self.rows(self.root / "round-01" / "pairs")}
        captions = self.rows(self.root / "round-01" / "captions")
        return [
            row | {"round": 1, "kept": fates[_id(row)]["kept"], "kind": self.truth.kinds.get(row["name"])}
            for row in captions
        ]

    def rows(self, folder: Path) -> list[Row]:
        found: list[Row] = judged_pairs(self.truth, self.root / "images", folder).to_pylist()
        return found

    def web(self) -> list[Row]:
        """Web texts whose truth is known, answered by it."""
        known = [row for row in self.texts if row["source"] == "web" and row["kind"]]
        size = {kept: sum(row["kept"] is kept for row in known) for kept in (True, False)}
        return [
            row | {"answer": "yes" if row["kind"] == "clean" else "no", "stratum_rows": size[row["kept"]]}
            for row in known
        ]

    def answered_web(self) -> list[Row]:
        """The web texts that the truth file answers for learned rules: of the kept and of the dropped ones alike."""
        web = sorted(self.web(), key=lambda row: str(row["key"]))
        return [row for kept in (True, False) for row in [row for row in web if row["kept"] is kept][: NUM_WEB // 2]]

    def labels(self, number: int) -> Path:
        """A labels file of the first so many answers, and of the answered web texts."""
        path = self.root / "photographs" / f"labels-{number}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [*self.answers[:number], *self.answered_web()]
        write_labels(path, [{name: row.get(name) for name in LABELS.schema.names} for row in rows])
        return path

    @cached_property
    def share(self) -> dict[str, float]:
        """The share of the scored texts of each source that ITM's cut keeps."""
        found = {}
        for source in ("web", "synthetic"):
            scored = [row["kept"] for row in self.texts if row["source"] == source and row["itm_score"] is not None]
            found[source] = sum(scored) / len(scored)
        return found

    def select(self, name: str) -> Path:
        """The pairs of a rule with as many of each source as ITM's cut keeps; of `noise N`, as the default cuts."""
        out = self.root / "photographs" / name / "pairs"
        if name in RANKS:
            rule: dict[str, Any] = {"strategy": "fraction", "score": RANKS[name], "keep_fraction": self.share}
        else:
            kind, number = name.split()
            rule = {"strategy": "learned", "labels": str(self.labels(int(number)))}
            rule |= {"cut_by": "share", "keep_fraction": self.share} if kind == "learned" else {}
        out.mkdir(parents=True, exist_ok=True)
        select_pairs(out, self.root / "round-01" / "captions", config=SelectConfig.model_validate(rule))
        return out

    def judged(self, name: str) -> dict[tuple[Any, ...], Row]:
        """The texts with the score and the choice of a rule."""
        pairs = {_id(row): row for row in self.rows(self.select(name))}
        return {
            _id(row): row | {"rule": pairs[_id(row)]["rule_score"], "chosen": pairs[_id(row)]["kept"]}
            for row in self.texts
        }


def web_figures(web: Sequence[Row], column: str, texts: Mapping[tuple[Any, ...], Row]) -> dict[str, Figure]:
    """The AUC over web texts of clean ones against all others, and against each kind of these."""
    rows = [texts[_id(row)] for row in web]
    found = {}
    for name, kinds in {"all": KINDS, **{kind: (kind,) for kind in KINDS}}.items():
        some = [row for row in rows if row["kind"] in ("clean", *kinds)]
        found[name] = weighted_auc(
            [row[column] for row in some], [r["kind"] == "clean" for r in some], [1.0] * len(some)
        )
    return found


def kept_figures(run: Round, texts: Mapping[tuple[Any, ...], Row], chosen: str) -> Figure:
    """How many texts a rule keeps, which share of the web ones is clean, and of the synthetic ones right by answers."""
    web = [texts[_id(row)] for row in run.web()]
    answered = [
        (row, weight)
        for row, weight in zip(run.answers, weights_of(run.answers), strict=True)
        if texts[_id(row)][chosen]
    ]
    right = sum(weight for row, weight in answered if row["answer"] == "yes")
    return {
        "web": sum(row[chosen] for row in texts.values() if row["source"] == "web"),
        "synthetic": sum(row[chosen] for row in texts.values() if row["source"] == "synthetic"),
        "web_clean": np.mean([row["kind"] == "clean" for row in web if row[chosen]]).item(),
        "synthetic_right": right / sum(weight for _, weight in answered) if answered else math.nan,
        "synthetic_answers": len(answered),
    }


def figures(run: Round) -> dict[str, Any]:
    """The AUC of every score and rule for each source, and what the rules keep."""
    texts = {_id(row): row for row in run.texts}
    found: dict[str, Any] = {"web": {}, "synthetic": {}, "kept": {"itm": kept_figures(run, texts, "kept")}}
    for name, column in SCORE_COLUMNS.items():
        if any(row[column] is not None for row in run.texts):
            found["web"][name] = web_figures(run.web(), column, texts)
            found["synthetic"][name] = of_answers(run.answers, column)
    for name in RANKS:
        texts = run.judged(name)
        found["web"][name] = web_figures(run.web(), "rule", texts)
        found["synthetic"][name] = of_answers(ruled(run.answers, texts), "rule")
        found["kept"][name] = kept_figures(run, texts, "chosen")
    for number in [number for number in NUMBERS if number <= len(run.answers)]:
        add_learned(found, run, number)
    return found


def ruled(rows: Sequence[Row], texts: Mapping[tuple[Any, ...], Row]) -> list[Row]:
    """Rows with the score that a rule gives them."""
    return [row | {"rule": texts[_id(row)]["rule"]} for row in rows]


def add_learned(found: dict[str, Any], run: Round, number: int) -> None:
    """Add the figures of the rule learned from so many answers; of web texts those of the first, as all are one."""
    name = f"learned {number}"
    texts = run.judged(name)
    found["kept"][name] = kept_figures(run, texts, "chosen")
    found["kept"][f"noise {number}"] = kept_figures(run, run.judged(f"noise {number}"), "chosen")
    sources = json.loads((run.root / "photographs" / name / "pairs" / RULE).read_text())["sources"]
    cross = {
        source: {"auc": one["auc"], "low": one["auc_low"], "high": one["auc_high"], "texts": one["yes"] + one["no"]}
        for source, one in sources.items()
        if one["kind"] == "learned"
    }
    if "synthetic" in cross:
        found["synthetic"][f"{name}, cross-validated"] = cross["synthetic"]
    if len(unseen := run.answers[number:]) >= LEAST_UNSEEN:
        found["synthetic"][f"{name}, unseen"] = of_answers(ruled(unseen, texts), "rule", run.answers)
    if "web" in cross and "learned, unseen" not in found["web"]:
        known = {_id(row) for row in run.answered_web()}
        found["web"]["learned, cross-validated"] = {"all": cross["web"]}
        found["web"]["learned, unseen"] = web_figures([w for w in run.web() if _id(w) not in known], "rule", texts)


def train(run: Round, config: Config, arm: str, seed: int | None) -> Figure:
    """Held-out figures of a model trained on the human set and on the pairs of an arm; kept under ROOT/photographs."""
    pairs = {"human": None, "itm": run.root / "round-01" / "pairs"}
    chosen = pairs[arm] if arm in pairs else run.select(arm)
    out = run.root / "photographs" / (arm if seed is None else f"{arm}-{seed}")
    section = config.pretrain
    if seed is not None:
        section = section.model_copy(update={"optimizer": section.optimizer.model_copy(update={"seed": seed})})
    sets = [run.root / name for name in ("human", "held_out", "same_pictures")]
    found = call_arm(out, run.root / "images", chosen, sets[0], sets[1], section, config.evaluate, sets[2])
    return {name: found[name] for name in ("cider", "tr1", "ir1", "itm_auc")}


def told(one: Figure | None) -> str:
    return "" if not one or math.isnan(one["auc"]) else f"{one['auc']:.3f} ({one['low']:.3f} to {one['high']:.3f})"


def print_tables(found: Mapping[str, Any]) -> None:
    """The figures as Markdown."""
    print("| web texts | all | " + " | ".join(KINDS) + " |\n" + "|---" * 5 + "|")
    for name, figures in found["web"].items():
        print(f"| {name} | " + " | ".join(told(figures.get(kind)) for kind in ("all", *KINDS)) + " |")
    print("\n| synthetic texts | AUC | answers |\n|---|---|---|")
    for name, figure in found["synthetic"].items():
        print(f"| {name} | {told(figure)} | {figure['texts']} |")
    print("\n| kept by | web | clean | synthetic | right | answers |\n|---|---|---|---|---|---|")
    for name, one in found["kept"].items():
        shares = (
            one["web"],
            f"{one['web_clean']:.3f}",
            one["synthetic"],
            f"{one['synthetic_right']:.3f}",
            one["synthetic_answers"],
        )
        print(f"| {name} | " + " | ".join(map(str, shares)) + " |")
    for arm, one in found.get("models", {}).items():
        print(f"{arm}: " + "  ".join(f"{name} {value:.4f}" for name, value in one.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("runs/flickr8k"))
    parser.add_argument(
        "--human", type=int, default=1000, help="which answers: those of the run with so many people's pictures"
    )
    parser.add_argument("--answers", type=Path, default=ANSWERS)
    parser.add_argument("--train", nargs="*", default=[], metavar="ARM", help="itm, human, rank, `learned 50`, ...")
    parser.add_argument("--seed", type=int, help="of the models of --train; default: the run's")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    if not (options.root / "round-01" / "pairs").is_dir():
        raise SystemExit(
            f"{options.root}: no finished round 1 here; run configs/flickr8k.yaml first, which needs Flickr8k"
        )
    config = load_config(options.root / "config.yaml", [])
    if config.truth is None or not config.truth.is_file():
        raise SystemExit(f"{options.root}: its truth file ({config.truth}) is not there; get the photographs first")
    answers = [row for row in read_answers(options.answers, options.human) if row["answer"] in ("yes", "no")]
    run = Round(options.root, load_truth(config.truth), answers)
    found = figures(run)
    found["models"] = {arm: train(run, config, arm, options.seed) for arm in options.train}
    if options.json:
        print(json.dumps(found))
    else:
        print_tables(found)


if __name__ == "__main__":
    main()
