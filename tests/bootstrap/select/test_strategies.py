"""Top-k, fraction, mix, exploration, and thresholds calibrated on labels."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from blip_bootstrap.config import SelectConfig
from blip_bootstrap.errors import InputError
from blip_bootstrap.schemas import tables
from blip_bootstrap.select.calibrate import calibrate, thresholds_table
from blip_bootstrap.select.rule import thinning
from blip_bootstrap.storage import parquet
from tests.support.scored_texts import label_file, noise_of, scored, selected


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    rows = scored(3000)
    for part in range(2):
        half = parquet.rows_to_table(rows[part * 3000 : (part + 1) * 3000], tables.CAPTIONS)
        parquet.write_parquet(tmp_path / "captions" / f"part-{part:05d}.parquet", half, tables.CAPTIONS)
    return tmp_path / "captions"


@pytest.mark.parametrize(("score", "sign"), [("itm", 1), ("itc", -1), ("logprob", -1)])
def test_top_k_ranks_by_the_score_asked_for(captions: Path, score: str, sign: int) -> None:
    rows, counts = selected(captions, strategy="top_k", itm_threshold=0.0, score=score)
    by_key: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_key.setdefault(row["key"], []).append(row)
    assert counts["kept"] == 3000
    for both in by_key.values():
        best = max(both, key=lambda row: sign * row["itm_score"])
        assert best["kept"]
        assert {row["reason"] for row in both} == {None, "not_selected"}


def test_top_k_of_two_keeps_two_above_the_threshold(captions: Path) -> None:
    _, both = selected(captions, strategy="top_k", top_k=2, itm_threshold=0.3)
    _, plain = selected(captions, itm_threshold=0.3)
    assert both["kept"] == plain["kept"]


@pytest.mark.parametrize("score", ["itm", "itc"])
def test_fraction_keeps_that_share(captions: Path, score: str) -> None:
    rows, counts = selected(captions, strategy="fraction", keep_fraction=0.3, score=score)
    assert counts["kept"] == pytest.approx(0.3 * 6000, abs=2)
    kept = [row["itm_score"] for row in rows if row["kept"]]
    dropped = [row["itm_score"] for row in rows if not row["kept"]]
    assert min(kept) >= max(dropped) if score == "itm" else max(kept) <= min(dropped)
    assert counts[f"{score}_score_cut"] == pytest.approx(0.7, abs=0.03)


def test_fraction_by_a_score_that_web_texts_lack_is_an_error_and_not_a_loss(tmp_path: Path) -> None:
    rows = [row | {"logprob": None if row["source"] == "web" else row["logprob"]} for row in scored(50)]
    file = tmp_path / "captions" / "part-00000.parquet"
    parquet.write_parquet(file, parquet.rows_to_table(rows, tables.CAPTIONS), tables.CAPTIONS)
    with pytest.raises(InputError, match=r"^select\.score: logprob, but no web text of .*; leave web out of"):
        selected(tmp_path / "captions", strategy="fraction", keep_fraction=0.5, score="logprob")
    _, counts = selected(
        tmp_path / "captions", strategy="fraction", keep_fraction=0.5, score="logprob", sources=("synthetic",)
    )
    assert counts["kept_synthetic"] == counts["kept"] == pytest.approx(25, abs=1)
    _, ranked = selected(tmp_path / "captions", strategy="top_k", score="logprob", itm_threshold=0.0)
    assert ranked["kept_synthetic"] == 50


@pytest.mark.parametrize("share", [0.2, 0.8])
def test_the_mix_is_thinned_to_the_share_asked_for(captions: Path, share: float) -> None:
    rows, counts = selected(captions, synthetic_share=share)
    assert counts["kept_synthetic"] / counts["kept"] == pytest.approx(share, abs=0.03)
    again, _ = selected(captions, synthetic_share=share)
    assert again == rows
    other, _ = selected(captions, synthetic_share=share, seed=1)
    assert other != rows


def test_thinning_leaves_what_is_asked() -> None:
    for web, synthetic, share in [(100, 900, 0.5), (900, 100, 0.5), (10, 0, 0.5), (0, 10, 0.0), (5, 5, 1.0)]:
        left = thinning({"web": web, "synthetic": synthetic}, share)
        kept = (web * left["web"], synthetic * left["synthetic"])
        assert 0 <= min(left.values()) <= max(left.values()) == 1
        assert kept[1] == pytest.approx(share * sum(kept))


def test_exploration_keeps_a_share_of_the_low_scored(captions: Path) -> None:
    rows, _ = selected(captions, itm_threshold=0.5, explore_share=0.1)
    low = [row["kept"] for row in rows if row["itm_score"] < 0.5]
    assert sum(low) / len(low) == pytest.approx(0.1, abs=0.02)
    assert all(row["kept"] for row in rows if row["itm_score"] >= 0.5)


@pytest.mark.parametrize("target", [0.1, 0.25])
def test_target_noise_is_met_on_the_whole_from_few_labels(captions: Path, tmp_path: Path, target: float) -> None:
    rows = parquet.read_parquet(captions / "part-00000.parquet").to_pylist()
    labels = label_file(tmp_path, random.Random(5).sample(rows, 300))
    chosen, counts = selected(captions, strategy="target_noise", target_noise=target, labels=labels)
    truth = noise_of(chosen)
    assert counts["expected_noise"] == pytest.approx(target, abs=0.005)
    assert counts["expected_noise_low"] <= truth <= counts["expected_noise_high"]
    assert truth == pytest.approx(target, abs=0.05)
    fits = sum(row["caption"].endswith("fits") for row in chosen)
    kept_fits = sum(row["caption"].endswith("fits") and row["kept"] for row in chosen)
    assert counts["expected_recall"] == pytest.approx(kept_fits / fits, abs=0.1)


def test_perfectly_parted_labels_are_no_trouble(captions: Path, tmp_path: Path) -> None:
    rows = [row | {"caption": "fits" if row["itm_score"] > 0.6 else "not"} for row in scored(100)]
    found = calibrate([captions / "part-00000.parquet"], label_file(tmp_path, rows), ["web", "synthetic"], 0.05)
    assert 0.5 < found.threshold < 0.75


def test_too_few_labels_and_targets_out_of_reach_are_told(captions: Path, tmp_path: Path) -> None:
    files = parquet.parquet_files(captions)
    few = label_file(tmp_path, scored(3))
    with pytest.raises(InputError, match="at least 5 texts"):
        calibrate(files, few, ["web", "synthetic"], 0.1)
    rows = [row | {"caption": "not" if at % 2 else "fits"} for at, row in enumerate(scored(200))]
    hopeless = label_file(tmp_path, rows)
    with pytest.raises(InputError, match="no threshold keeps noise down"):
        calibrate(files, hopeless, ["web", "synthetic"], 0.01)
    with pytest.raises(InputError, match="no labels"):
        calibrate(files, tmp_path / "nothing.parquet", ["web"], 0.1)
    with pytest.raises(ValidationError, match="needs labels"):
        SelectConfig(strategy="target_noise")


def test_a_table_of_targets_has_nulls_where_none_is_reached(captions: Path, tmp_path: Path) -> None:
    rows = [row | {"caption": "fits" if at % 10 else "not"} for at, row in enumerate(scored(200))]
    table = thresholds_table(parquet.parquet_files(captions), label_file(tmp_path, rows), ["web"], (0.01, 0.2))
    out_of_reach, met = table.to_pylist()
    assert out_of_reach["target_noise"] == 0.01
    assert {out_of_reach[name] for name in ("threshold", "noise", "recall_high")} == {None}
    assert met["noise_low"] < met["noise"] < 0.2
    assert met["recall"] == pytest.approx(1)


def test_blip2s_rule_keeps_the_best_two_of_web_and_ten_candidates_by_the_second_score(tmp_path: Path) -> None:
    rows = scored(400, candidates=11)
    rng = random.Random(2)
    for row in rows:
        row["clip_score"] = rng.uniform(-1, 1)
    table = parquet.rows_to_table(rows, tables.CAPTIONS)
    parquet.write_parquet(tmp_path / "captions" / "part-00000.parquet", table, tables.CAPTIONS)
    rule = {"strategy": "top_k", "top_k": 2, "score": "clip", "itm_threshold": 0.0}
    pairs, counts = selected(tmp_path / "captions", **rule)
    kept = {(row["key"], row["caption"]) for row in pairs if row["kept"]}
    for key in {row["key"] for row in rows}:
        best = sorted((row for row in rows if row["key"] == key), key=lambda row: -row["clip_score"])[:2]
        assert {(row["key"], row["caption"]) for row in best} <= kept
    assert (counts["kept"], len(kept), counts["dropped_not_selected"]) == (800, 800, 3600)


def test_a_score_that_no_text_has_is_refused_in_one_line(captions: Path) -> None:
    with pytest.raises(
        InputError, match=r"^select.score: clip, but no text of .* has a clip_score; give caption.scorer"
    ):
        selected(captions, strategy="top_k", score="clip")
    older = captions.parent / "older"
    older.mkdir()
    for file in parquet.parquet_files(captions):
        pq.write_table(parquet.read_parquet(file).drop_columns(["clip_score"]), older / file.name)
    with pytest.raises(InputError, match="has a clip_score"):
        selected(older, strategy="fraction", score="clip")
    assert selected(older)[1]["kept"] == selected(captions)[1]["kept"]
