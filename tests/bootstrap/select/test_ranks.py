"""Ranking by several scores: ranks as numpy has them, by source, and what the strategies keep by them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from pydantic import ValidationError

from blip_bootstrap.config import SelectConfig, load_config
from blip_bootstrap.errors import ConfigError, InputError
from blip_bootstrap.query.alike import schema_of
from blip_bootstrap.query.sql_text import scan
from blip_bootstrap.query.verdicts import cut_of, pair_figures, rule_of
from blip_bootstrap.schemas import tables
from blip_bootstrap.select.pairs import select_web_pairs
from blip_bootstrap.select.ranks import find_ranks
from blip_bootstrap.storage import parquet
from blip_bootstrap.storage.manifest import recipe_of
from tests.support.scored_texts import scored, selected

CLOSE = 0.01
"""Within a bin of 512, and the .5 % at either end, a rank is taken to rise evenly with the score."""


def write(folder: Path, rows: list[dict[str, Any]], parts: int = 2) -> Path:
    size = -(-len(rows) // parts)
    for part in range(parts):
        some = parquet.rows_to_table(rows[part * size : (part + 1) * size], tables.CAPTIONS)
        parquet.write_parquet(folder / f"part-{part:05d}.parquet", some, tables.CAPTIONS)
    return folder


def rank_of(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The share of the values below each, and half of those equal to it."""
    below = np.array([(values < value).sum() for value in values])
    equal = np.array([(values == value).sum() for value in values])
    return (below + equal / 2) / len(values)


@pytest.mark.parametrize("column", ["itm_score", "logprob"])
@pytest.mark.parametrize("kind", ["even", "sharp", "atoms", "wild", "one"])
def test_ranks_are_those_of_numpy(tmp_path: Path, column: str, kind: str) -> None:
    rng = random.Random(4)
    draw = {
        "even": rng.random,
        "sharp": lambda: 1 - 10 ** -rng.uniform(0, 6) if column == "itm_score" else -rng.lognormvariate(3, 0.7),
        "atoms": lambda: rng.choice([0.0, 0.25, 0.5, 1.0]),
        "wild": lambda: 1.0 if rng.random() < 0.001 else rng.random() * 1e-3,
        "one": lambda: 0.5,
    }[kind]
    rows = [row | {column: float(np.float32(draw()))} for row in scored(1500, 1)]
    rows[3][column], rows[4][column] = None, float("nan")
    folder = write(tmp_path / "captions", rows)
    files = parquet.parquet_files(folder)
    found = find_ranks(files, column, "web")
    assert found
    with duckdb.connect() as connection:
        got = dict(connection.execute(f"SELECT key, {found.sql()} FROM {scan(files)}").fetchall())
    assert (got[rows[3]["key"]], got[rows[4]["key"]]) == (None, None)
    some = [row for at, row in enumerate(rows) if at not in (3, 4)]
    expected = rank_of(np.array([row[column] for row in some]))
    assert np.abs(np.array([got[row["key"]] for row in some]) - expected).max() < CLOSE
    assert find_ranks(files, column, "synthetic") is None


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    rng = random.Random(3)
    rows = scored(1000)
    for row in rows:
        row["itc_score"], row["logprob"] = rng.random(), rng.uniform(-40, 0)
        row["lift"] = rng.random() if row["source"] == "synthetic" else None
    return write(tmp_path / "captions", rows)


def rule_scores(captions: Path, columns: dict[str, list[str]]) -> dict[tuple[Any, ...], float]:
    rows = [row for file in parquet.parquet_files(captions) for row in parquet.read_parquet(file).to_pylist()]
    found: dict[tuple[Any, ...], float] = {}
    for source, names in columns.items():
        mine = [row for row in rows if row["source"] == source]
        means = np.mean([rank_of(np.array([row[name] for row in mine])) for name in names], axis=0)
        found |= {(row["key"], row["source"], row["candidate"]): mean for row, mean in zip(mine, means, strict=True)}
    return found


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["key"], row["source"], row["candidate"]


def test_fraction_by_several_scores_keeps_the_best_of_each_source(captions: Path) -> None:
    score = {"web": "itm", "synthetic": ["itc", "logprob"]}
    pairs, counts = selected(captions, strategy="fraction", score=score, keep_fraction={"web": 0.3, "synthetic": 0.5})
    expected = rule_scores(captions, {"web": ["itm_score"], "synthetic": ["itc_score", "logprob"]})
    assert max(abs(row["rule_score"] - expected[key(row)]) for row in pairs) < CLOSE
    assert (counts["kept_web"], counts["kept_synthetic"]) == (300, 500)
    for source in ("web", "synthetic"):
        mine = [row for row in pairs if row["source"] == source]
        assert min(r["rule_score"] for r in mine if r["kept"]) > max(r["rule_score"] for r in mine if not r["kept"])
        assert {row["reason"] for row in mine if row["rejected"]} == {"below_threshold"}
    assert counts["ranked_by_synthetic"] == "itc, logprob"
    record = json.loads((captions.parent / "pairs-1" / "rule.json").read_text())
    assert record["sources"]["web"] == {"kind": "ranks", "scores": ["itm"], "left_out": []}


def test_top_k_and_best_per_image_rank_by_the_mean_of_ranks(captions: Path) -> None:
    pairs, _ = selected(captions, strategy="best_per_image", score=["itc", "logprob"], itm_threshold=0.0)
    expected = rule_scores(captions, {source: ["itc_score", "logprob"] for source in ("web", "synthetic")})
    by_image: dict[str, list[dict[str, Any]]] = {}
    for row in pairs:
        by_image.setdefault(row["key"], []).append(row)
    for both in by_image.values():
        best, other = sorted(both, key=lambda row: -expected[key(row)])
        if expected[key(best)] - expected[key(other)] > CLOSE:
            assert (best["kept"], other["reason"]) == (True, "not_selected")
    low, counts = selected(captions, strategy="top_k", score=["itc", "logprob"], itm_threshold=0.5)
    assert all(row["rejected"] == (row["itm_score"] < 0.5) for row in low)
    assert counts["itm_threshold"] == 0.5


def test_a_score_that_a_source_lacks_is_left_out_there_and_said(captions: Path) -> None:
    pairs, counts = selected(captions, strategy="fraction", score=["itc", "lift"])
    assert counts["ranked_by_web"] == "itc (no text has lift)"
    expected = rule_scores(captions, {"web": ["itc_score"]})
    web = [row for row in pairs if row["source"] == "web"]
    assert max(abs(row["rule_score"] - expected[key(row)]) for row in web) < CLOSE
    with pytest.raises(InputError, match=r"^select\.score: lift, but no web text of .* has a lift; leave web out of"):
        selected(captions, strategy="fraction", score=["lift"])


def test_a_text_that_lacks_one_of_the_scores_is_not_scored(tmp_path: Path) -> None:
    rows = [row | {"lift": None if at == 0 else 0.1 * at} for at, row in enumerate(scored(5, 1))]
    for strategy in ("fraction", "top_k"):
        folder = write(tmp_path / strategy / "captions", rows, 1)
        pairs, _ = selected(folder, strategy=strategy, score=["itm", "lift"], keep_fraction=1.0, itm_threshold=0.0)
        assert (pairs[0]["reason"], pairs[0]["rejected"], pairs[0]["rule_score"]) == ("not_scored", None, None)
        assert pairs[1]["kept"]


def test_texts_of_a_source_that_is_not_asked_for_are_not_selected(captions: Path) -> None:
    pairs, _ = selected(captions, strategy="fraction", score=["itc", "logprob"], sources=("synthetic",))
    assert {row["reason"] for row in pairs if row["source"] == "web"} == {"not_selected"}


def test_the_filter_arm_and_the_figures_read_the_rule_again(captions: Path) -> None:
    pairs, counts = selected(captions, strategy="fraction", score={"web": ["itm", "itc"], "synthetic": "itc"})
    out = captions.parent / "arm"
    select_web_pairs(out, captions, captions.parent / "pairs-1")
    arm = [row for file in parquet.parquet_files(out) for row in parquet.read_parquet(file).to_pylist()]
    web = [(row["rule_score"], row["kept"]) for row in pairs if row["source"] == "web"]
    assert [(row["rule_score"], row["kept"]) for row in arm if row["source"] == "web"] == web
    assert not any(row["kept"] for row in arm if row["source"] == "synthetic")
    files = parquet.parquet_files(captions.parent / "pairs-1")
    least = min(counts["rule_score_cut_web"], counts["rule_score_cut_synthetic"])
    assert cut_of(rule_of(schema_of(files[0])) or {}) == cut_of(counts) == ("rule_score", least)
    assert pair_figures(files)["noise_ratio_web"] == pytest.approx(0.5, abs=0.01)


def test_one_score_by_name_is_recorded_as_before() -> None:
    before = ["strategy", "sources", "itm_threshold", "score", "top_k", "keep_fraction", "target_noise", "labels",
              "synthetic_share", "explore_share", "seed", "min_tokens", "max_tokens", "drop_flagged"]  # fmt: skip
    recipe = recipe_of("select_pairs", SelectConfig(score="itc", keep_fraction=0.3), {})["config"]
    assert list(recipe) == before
    assert (recipe["score"], recipe["keep_fraction"]) == ("itc", 0.3)


def test_labels_of_one_file_and_of_several_are_recorded_by_content(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    one = recipe_of("s", SelectConfig(strategy="learned", labels=tmp_path / "a"), {})["config"]["labels"]
    both = recipe_of("s", SelectConfig(strategy="learned", labels=(tmp_path / "a", tmp_path / "b")), {})["config"]
    assert len(one) == 64
    assert both["labels"][0] == one != both["labels"][1]


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("score=foo", r"^select\.score: is one of itm, itc, .* \(got 'foo'\)$"),
        ("score=[itc, foo]", r"^select\.score: is one of .* \(got 'foo'\)$"),
        ("score=[itc, itc]", r"^select\.score: is one of .* a list of different ones"),
        ("score={page: itc}", r"^select\.score: values for web and synthetic were expected"),
        ("score={web: itc}", r"^select: score names no value for synthetic"),
        ("keep_fraction=2", r"^select\.keep_fraction: a number from 0 to 1, or one for each source"),
        (
            "keep_fraction={web: 3, synthetic: 1}",
            r"^select\.keep_fraction: web must be a number from 0",
        ),
        ("labels=[]", r"^select\.labels: a file or a list of files"),
        ("informative_weight=0.3", r"^select: informative_weight ranks the texts of an image"),
    ],
)
def test_mistakes_are_told_in_one_line(setting: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as error:
        load_config(None, [f"select.{setting}"])
    assert len(error.value.mistakes) == 1


def test_target_noise_takes_one_file(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="takes one file of labels"):
        SelectConfig(strategy="target_noise", labels=(tmp_path / "a", tmp_path / "b"))


def test_weights_stand_in_the_pairs_metadata_and_need_a_score_of_the_rule(tmp_path: Path) -> None:
    folder = write(tmp_path / "captions", scored(50))
    rows, _ = selected(folder, strategy="fraction", score=["itm", "itc"], keep_fraction=1, weights="rule")
    pairs = next(path for path in tmp_path.iterdir() if path.name.startswith("pairs"))
    assert (rule_of(schema_of(parquet.parquet_files(pairs)[0])) or {})["weights"] == "rule"
    assert all(0 <= row["rule_score"] <= 1 for row in rows if row["kept"])
    assert recipe_of("select_pairs", SelectConfig(weights="equal"), {}) == recipe_of("select_pairs", SelectConfig(), {})
    for strategy in ("threshold", "top_k"):
        with pytest.raises(ValidationError, match=f"in place of strategy {strategy}, score itm"):
            SelectConfig(strategy=strategy, weights="rule")
