"""The learned rule of one source: a logistic rule over all scores and the length, fitted to answered texts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from blip_bootstrap.query.rule_score import LENGTHS
from blip_bootstrap.query.verdicts import SCORE_COLUMNS
from blip_bootstrap.select import logistic
from blip_bootstrap.select.calibrate import LEAST_ANSWERS
from blip_bootstrap.select.features import Floats, Moments, feature_of, standardised
from blip_bootstrap.select.label_rows import HUMAN

UNLABELLED = {"web": ("itm", "itc"), "synthetic": ("itc", "logprob")}
"""Scores whose mean rank judges each source where there are no labels. A web text's likelihood is not among them: it
rises with common wording, and whether an oddly worded text fits is for people to say."""

FAVOURED = {"web": ("itc", "logprob_per_token"), "synthetic": ("itc", "logprob")}
"""Scores that judge each source best; the prior leans to them."""

FREE: dict[str, tuple[str, ...]] = {"web": ("logprob", "logprob_per_token", "lift"), "synthetic": ("lift",)}
"""Scores that may count for or against a text of a source. The captioner's likelihood judges well what it wrote itself;
of a web text it also says how common the wording is, and a wrong text may read better than a right one. Lift measures
how much a text says about its picture: of longer texts, in which more can be wrong, it is higher."""

_LEAN = 0.7
"""Prior mean of a favoured score's weight, log-odds for each standard deviation."""

_LENGTH = 3.0
"""How much stronger the prior of the length is: it told much in a drawn world and little on photographs, and a rule
must not live by it."""

_LEAST_SHARE = 0.5
"""A score that fewer of the texts, or of the answered ones, have is left out of the rule."""

NUM_BINS = 5
"""Bins of the calibration curve, of equally many answers."""


@dataclass(frozen=True)
class Learned:
    """A fitted rule: its features' moments, its weights with the intercept last, and how good it is.

    `rows` are the answered texts with `itm_score` replaced by the probability that a rule gives which did not see
    their images, as `calibrate` reads them.
    """

    moments: Mapping[str, Moments]
    weights: Floats
    penalty: float
    log_odds: Floats
    rows: Sequence[dict[str, Any]]

    @property
    def answers(self) -> Floats:
        """1 where a text was answered yes, else 0."""
        return answers_of(self.rows)


def answers_of(rows: Sequence[Mapping[str, Any]]) -> Floats:
    """1 where a text was answered yes, else 0."""
    return np.array([row["answer"] == "yes" for row in rows], dtype=np.float64)


def labels_for(rows: Sequence[dict[str, Any]], source: str) -> list[dict[str, Any]]:
    """The answered texts on which the rule of a source is fitted; empty where there are too few.

    Those of the source itself; for web texts, where these do not suffice, labels of the source `human`.
    """
    for name in (source, HUMAN) if source == "web" else (source,):
        mine = [row for row in rows if row["source"] == name]
        yes = int(answers_of(mine).sum())
        if min(yes, len(mine) - yes) >= LEAST_ANSWERS:
            return mine
    return []


def learn(rows: Sequence[dict[str, Any]], source: str, moments: Mapping[str, Moments]) -> Learned:
    """Fit the rule of a source to answered rows of `LABELS`; `moments` are those of all texts of the source.

    Scores that the labels lack are left out. The weights of scores are 0 or more, but for those of `FREE` and of the
    length. A text that lacks a score counts as average in it.
    """
    used = _used(rows, moments)
    design, answers, keys = standardised(rows, used), answers_of(rows), [str(row["key"]) for row in rows]
    prior = prior_of(source, list(used))
    penalty = logistic.choose_penalty(design, answers, keys, prior)
    weights = logistic.fit(design, answers, prior, penalty)
    log_odds = logistic.out_of_fold(design, answers, keys, prior)
    scored = [{**row, "itm_score": p} for row, p in zip(rows, logistic.sigmoid(log_odds).tolist(), strict=True)]
    return Learned(used, weights, penalty, log_odds, scored)


def can_learn(rows: Sequence[Mapping[str, Any]], moments: Mapping[str, Moments]) -> bool:
    """Whether answered rows and texts have a score in common, so that the rule would not live by the length alone."""
    return any(name in SCORE_COLUMNS for name in _used(rows, moments))


def _used(rows: Sequence[Mapping[str, Any]], moments: Mapping[str, Moments]) -> dict[str, Moments]:
    return {name: one for name, one in moments.items() if one.sd > 0 and _is_there(rows, name, one)}


def _is_there(rows: Sequence[Mapping[str, Any]], name: str, moments: Moments) -> bool:
    answered = sum(not math.isnan(feature_of(row, name)) for row in rows) / len(rows)
    return min(moments.share, answered) >= _LEAST_SHARE


def prior_of(source: str, names: Sequence[str]) -> logistic.Prior:
    """The prior of the weights of these features, for texts of a source."""
    favoured = [_LEAN if name in FAVOURED[source] else 0.0 for name in names]
    strength = [_LENGTH if name in LENGTHS else 1.0 for name in names]
    least = [-math.inf if name in (*LENGTHS, *FREE[source]) else 0.0 for name in names]
    return logistic.Prior(np.array(favoured), np.array(strength), np.array(least))


def record_of(learned: Learned, shift: float = 0.0) -> dict[str, Any]:
    """The rule as numbers and names: for its SQL, for the files' metadata and for the report.

    `shift` is added to the intercept, where the texts fit at another rate than the labels. `weight` is that of a
    standard deviation, `raw_weight` that of the score's own unit.
    """
    yes, area = int(learned.answers.sum()), logistic.auc(learned.log_odds, learned.answers)
    low, high = logistic.auc_interval(area, learned.answers)
    weights = [float(f"{weight:.9g}") for weight in learned.weights]
    features = [
        {"name": name, "mean": one.mean, "sd": one.sd, "weight": weight, "raw_weight": weight / one.sd}
        for (name, one), weight in zip(learned.moments.items(), weights, strict=False)
    ]
    return {
        "kind": "learned",
        "features": features,
        "intercept": float(f"{weights[-1] + shift:.9g}"),
        "penalty": learned.penalty,
        "auc": area,
        "auc_low": low,
        "auc_high": high,
        "fitted_on": str(learned.rows[0]["source"]),
        "yes": yes,
        "no": len(learned.rows) - yes,
        "calibration": _calibration(learned),
    }


def _calibration(learned: Learned) -> list[dict[str, float]]:
    """Predicted and answered shares of texts that fit, in bins of equally many answers, out of fold."""
    order = np.argsort(learned.log_odds, kind="stable")
    found = []
    for part in np.array_split(order, min(NUM_BINS, len(order))):
        share, predicted = float(learned.answers[part].mean()), float(logistic.sigmoid(learned.log_odds[part]).mean())
        low, high = logistic.wilson(share, len(part))
        found.append({"predicted": predicted, "share": share, "low": low, "high": high, "number": len(part)})
    return found
