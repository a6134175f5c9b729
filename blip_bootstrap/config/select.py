"""Which captions become pairs (section 3.3)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from blip_bootstrap.paths import SCORE_NAME, local_path
from blip_bootstrap.settings.marks import ByContent, Later
from blip_bootstrap.settings.section import Count, Fraction, NonNegative, Section, Seed, check_at_most

BuiltInScore = Literal[
    "itm", "itc", "logprob", "clip", "logprob_per_token", "lift", "agreement", "captioner_itc", "distinctness"
]
"""A score of a text; `query.verdicts.SCORE_COLUMNS` names its column of `captions`."""

ScoreName = Annotated[str, Field(pattern=SCORE_NAME)]
"""A built-in score, or one of `caption.judges` by its name, which stands in the column `scores`."""

Source = Literal["web", "synthetic"]


def _score(value: Any) -> Any:
    """A score, a list of them, or a mapping from source to either, checked here for one clear line on a mistake."""
    if isinstance(value, Mapping):
        _check_sources(value, "itm, synthetic: [itc, logprob]")
        return {source: _names(value[source]) for source in get_args(Source) if source in value}
    names = _names(value)
    return names[0] if isinstance(value, str) else names


def _names(value: Any) -> list[str]:
    names = [value] if isinstance(value, str) else [*value] if isinstance(value, list | tuple) else []
    known = get_args(BuiltInScore)
    names = [one.removeprefix("scores.") if isinstance(one, str) else one for one in names]
    wrong = [name for name in names if not isinstance(name, str) or not re.match(SCORE_NAME, name)]
    if not names or wrong or len(set(names)) < len(names):
        found = f" (got {wrong[0]!r})" if wrong and wrong != [value] else ""
        raise ValueError(
            f"is one of {', '.join(known)}, a score of caption.judges, a list of different ones, or "
            f"{{web: ..., synthetic: ...}}{found}"
        )
    return names


def _expressions(value: Any) -> Any:
    """A text, or a mapping from source to one."""
    if not isinstance(value, Mapping):
        return value
    _check_sources(value, "itm, synthetic: 0.5 * itm + siglip2")
    return {source: value[source] for source in get_args(Source) if source in value}


def _thresholds(value: Any) -> Any:
    """A number, or a mapping from source to one."""
    if isinstance(value, Mapping):
        _check_sources(value, "0.3, synthetic: 0.5")
        return {source: value[source] for source in get_args(Source) if source in value}
    return value


def _share(value: Any) -> Any:
    """A share, or a mapping from source to one."""
    if not isinstance(value, Mapping):
        return _checked_share(value, "a number from 0 to 1, or one for each source, was expected")
    _check_sources(value, "0.3, synthetic: 0.5")
    shares = {source: value[source] for source in get_args(Source) if source in value}
    return {
        source: _checked_share(share, f"{source} must be a number from 0 to 1 (got {share!r})")
        for source, share in shares.items()
    }


def _checked_share(value: Any, told: str) -> float:
    try:
        share = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        share = math.nan
    if not 0 <= share <= 1:
        raise ValueError(told)
    return share


def _check_sources(value: Mapping[str, Any], example: str) -> None:
    if not value or not set(value) <= set(get_args(Source)):
        raise ValueError(f"values for web and synthetic were expected, as {{web: {example}}}")


def _labels(value: Any) -> Any:
    """One file, or a list of files."""
    if isinstance(value, list | tuple):
        if not value or not all(isinstance(one, str | Path) for one in value):
            raise ValueError("a file or a list of files is needed, as [labels/round-01.parquet]")
        return tuple(local_path(one) for one in value)
    return None if value is None else local_path(value)


class SelectConfig(Section):
    """Which captions become pairs; the default is the paper's rule."""

    strategy: Literal["threshold", "best_per_image", "top_k", "fraction", "target_noise", "learned"] = Field(
        "threshold",
        description="threshold: keep what scores itm_threshold or more; best_per_image, top_k: of those, the best of "
        "each image; fraction: the best keep_fraction of all texts; target_noise: find the threshold from labels; "
        "learned: a rule over all scores, fitted to labels for each source",
    )
    sources: tuple[Source, ...] = Field(("web", "synthetic"), description="which texts may become pairs")
    itm_threshold: Fraction = Field(0.5, description="the filter rejects a text whose ITM score is below it")
    score: Annotated[
        ScoreName | tuple[ScoreName, ...] | dict[Source, tuple[ScoreName, ...]], BeforeValidator(_score)
    ] = Field(
        "itm",
        description="score by which best_per_image, top_k and fraction rank: itm, itc, logprob, clip (which needs "
        "caption.scorer), logprob_per_token, lift, agreement, captioner_itc, distinctness, or one of caption.judges by "
        "its name. A list, or {web: itm, synthetic: [itc, logprob]}: the mean of a text's ranks by them among the "
        "texts of its source, by which learned ranks, too, where it has no labels (itm there: web itm, itc; synthetic "
        "itc, logprob)",
    )
    score_sql: Annotated[str | dict[Source, str] | None, Later(), BeforeValidator(_expressions)] = Field(
        None,
        description="in place of score, an SQL expression over the scores and columns of a text, as "
        "`0.5 * itm + 0.5 * siglip2`, or {web: ..., synthetic: ...}; it reads its own row alone",
    )
    score_threshold: Annotated[float | dict[Source, float] | None, Later(), BeforeValidator(_thresholds)] = Field(
        None,
        description="threshold, best_per_image, top_k: cut by score or score_sql here in place of itm_threshold, or "
        "{web: ..., synthetic: ...}; null: by ITM",
    )
    top_k: Count = Field(1, description="top_k: texts kept of each image")
    keep_fraction: Annotated[Fraction | dict[Source, Fraction], BeforeValidator(_share)] = Field(
        0.5,
        description="fraction, and learned by share or without labels: share of the scored texts that are kept; of "
        "texts that tie at the cut, all are. {web: 0.3, synthetic: 0.5}: of each source, as it is, too, where the "
        "score is a rank",
    )
    target_noise: Fraction = Field(
        0.1, description="target_noise, learned: share of the kept texts that may be wrong, as estimated from labels"
    )
    labels: Annotated[Path | tuple[Path, ...] | None, ByContent(), BeforeValidator(_labels)] = Field(
        None,
        description="target_noise, learned: a sample answered by `audit label`, or labels by `audit calibrate`, a "
        "Parquet file; learned takes a list, too, as those of earlier rounds",
    )
    cut_by: Annotated[Literal["noise", "share"], Later()] = Field(
        "noise", description="learned: noise cuts at target_noise, share keeps keep_fraction of each source"
    )
    most_per_image: Annotated[NonNegative, Later()] = Field(
        0, description="learned: the most texts kept of an image, the best ones; 0: all"
    )
    informative_weight: Annotated[Fraction, Later()] = Field(
        0.0,
        description="weight of a text's informativeness beside its score, where texts of an image are ranked "
        "(best_per_image, top_k, and learned with most_per_image); 0: not found, nor stored",
    )
    variety: Annotated[Fraction, Later()] = Field(
        0.0,
        description="of texts said k times in a round, keep each with probability k**-variety; 0: all, 1: about one",
    )
    weights: Annotated[Literal["equal", "rule"], Later()] = Field(
        "equal",
        description="how often training draws a pair. equal: once an epoch; rule: in such a share of the epochs as the "
        "rule's score of it, 0..1 (learned: the probability that it fits; where scores are ranked: its mean rank), in "
        "place of a hard cut, or beside one",
    )
    synthetic_share: Fraction | None = Field(
        None, description="thin out web or synthetic pairs until this share is synthetic; null: keep all"
    )
    explore_share: Fraction = Field(
        0.0, description="share of the texts below the threshold that are kept all the same, against collapse"
    )
    seed: Seed = Field(0, description="seed of the draws of synthetic_share, explore_share and variety")
    min_tokens: NonNegative = Field(1, description="a text of fewer words is dropped")
    max_tokens: Count = Field(200, description="a text of more words is dropped")
    drop_flagged: bool = Field(True, description="drop synthetic texts that carry a flag")

    @model_validator(mode="after")
    def _is_whole(self) -> SelectConfig:
        if self.strategy == "target_noise" and self.labels is None:
            raise ValueError("strategy target_noise needs labels (`blip-bootstrap audit sample`, then `audit label`)")
        if self.strategy == "target_noise" and isinstance(self.labels, tuple):
            raise ValueError("strategy target_noise takes one file of labels; learned takes several")
        check_at_most(self, "min_tokens", "max_tokens")
        self._check_own_score()
        by_source = {name: getattr(self, name) for name in ("score", "keep_fraction", "score_sql", "score_threshold")}
        for name, value in by_source.items():
            if isinstance(value, dict) and (lacking := [source for source in self.sources if source not in value]):
                raise ValueError(f"{name} names no value for {lacking[0]}, which is one of select.sources")
        if self.weights == "rule" and not (self.strategy == "learned" or self.goes_by_rank):
            raise ValueError(
                "weights: rule draws by a score of the rule's own, which learned has, and fraction, best_per_image and "
                f"top_k by a list of scores; set one of these in place of strategy {self.strategy}, score {self.score}"
            )
        if self.informative_weight and not self.ranks_texts_of_an_image:
            raise ValueError(
                "informative_weight ranks the texts of an image, which best_per_image and top_k do, and learned with "
                f"most_per_image; leave it out with strategy {self.strategy}, or set one of these"
            )
        return self

    def _check_own_score(self) -> None:
        """Raises ValueError where `score_sql` and `score_threshold` do not go with the other settings."""
        cuts = self.strategy in ("threshold", "best_per_image", "top_k")
        given = "score_sql" if self.score_sql is not None else "score_threshold"
        if self.score_sql is not None and self.score != "itm":
            raise ValueError("score and score_sql are both set; leave one of them out")
        if self.score_sql is not None and not (cuts or self.strategy == "fraction"):
            raise ValueError(
                f"score_sql is for the strategies threshold, best_per_image, top_k and fraction, not {self.strategy}"
            )
        if self.score_threshold is not None and not (cuts and isinstance(self.score, str)):
            raise ValueError(
                "score_threshold cuts by one score or score_sql, with strategy threshold, best_per_image or top_k"
            )
        if (self.score_sql is not None or self.score_threshold is not None) and self.informative_weight:
            raise ValueError(f"informative_weight weighs ranks, which {given} has none of; leave one of them out")
        if self.is_idle_score and self.score_sql is not None:
            raise ValueError("strategy threshold cuts by score_sql at score_threshold, which is not set")

    @property
    def has_own_score(self) -> bool:
        """Whether the rule's score of a text is the value of `score_sql`, or of a score that has no column."""
        if self.score_sql is not None or self.score_threshold is not None:
            return True
        is_judged = isinstance(self.score, str) and self.score not in get_args(BuiltInScore)
        return is_judged and self.strategy in ("best_per_image", "top_k", "fraction") and not self.goes_by_rank

    @property
    def is_idle_score(self) -> bool:
        """Whether the strategy takes no notice of `score`, since it cuts by ITM."""
        return self.strategy == "threshold" and self.score_threshold is None

    def own_score_of(self, source: str) -> str:
        """The expression that is the score of texts of a source, where the rule has such."""
        value = self.score if self.score_sql is None else self.score_sql
        return str(value[source]) if isinstance(value, dict) else str(value)  # type: ignore[index]

    @property
    def score_names(self) -> tuple[str, ...]:
        """All names in `score`."""
        values = self.score.values() if isinstance(self.score, dict) else [self.score]
        names = [name for value in values for name in ((value,) if isinstance(value, str) else value)]
        return tuple(dict.fromkeys(names))

    @property
    def ranks_texts_of_an_image(self) -> bool:
        """Whether the strategy keeps the best texts of each image."""
        return self.strategy in ("best_per_image", "top_k") or (self.strategy == "learned" and self.most_per_image > 0)

    @property
    def goes_by_rank(self) -> bool:
        """Whether texts are ranked by the mean of their ranks, and not by one score as it is."""
        if self.score_sql is not None:
            return False
        several = not isinstance(self.score, str) or self.informative_weight > 0
        if self.strategy == "fraction":
            return several or isinstance(self.keep_fraction, dict)
        return several and self.strategy in ("best_per_image", "top_k")

    @property
    def label_files(self) -> tuple[Path, ...]:
        """The files of `labels`."""
        return () if self.labels is None else self.labels if isinstance(self.labels, tuple) else (self.labels,)
