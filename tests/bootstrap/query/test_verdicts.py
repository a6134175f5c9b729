"""The noise ratio is the filter's verdict, by every strategy and for pairs of earlier versions."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blip_bootstrap.audit.alarms import alarms
from blip_bootstrap.audit.audits import audit
from blip_bootstrap.audit.diff import diff
from blip_bootstrap.config import SelectConfig
from blip_bootstrap.query.questions import query
from blip_bootstrap.query.verdicts import pair_figures
from blip_bootstrap.query.views import connect
from blip_bootstrap.report.figures import round_metrics
from blip_bootstrap.report.round_page import write_report
from blip_bootstrap.report.summary import print_summary
from blip_bootstrap.schemas import tables
from blip_bootstrap.schemas.shown_tables import LABELS
from blip_bootstrap.select.logistic import wilson
from blip_bootstrap.select.pairs import select_pairs
from blip_bootstrap.storage import parquet

SHARES = [f"{name}_{source}" for name in ("noise_ratio", "dropped_share") for source in ("web", "synthetic")]
OLD_ORDER = (
    "empty_text",
    "too_short",
    "too_long",
    "degenerate_text",
    "duplicate_text",
    "not_scored",
    "below_threshold",
)
"""In which earlier versions looked for a reason; `too_short` and the next two before any score."""

STRATEGIES: list[dict[str, Any]] = [
    {},
    {"itm_threshold": 0.7},
    {"itm_threshold": 0.0},
    {"itm_threshold": 1.0},
    {"strategy": "best_per_image", "itm_threshold": 0.4},
    {"strategy": "top_k", "top_k": 2, "itm_threshold": 0.3, "score": "itc"},
    {"strategy": "top_k", "itm_threshold": 0.3, "score": "logprob"},
    {"strategy": "fraction", "keep_fraction": 0.3},
    {"strategy": "fraction", "keep_fraction": 0.6, "score": "itc"},
    {"strategy": "fraction", "keep_fraction": 0.6, "score": "logprob", "sources": ("synthetic",)},
    {"strategy": "target_noise", "target_noise": 0.3},
    {"explore_share": 0.5},
    {"synthetic_share": 0.2},
    {"sources": ("synthetic",)},
    {"min_tokens": 3, "max_tokens": 4, "drop_flagged": False},
]


def captions_rows(number: int = 400) -> list[dict[str, Any]]:
    """Texts of which many are said before, flagged, empty, or without a score or a number for one."""
    rng, rows = random.Random(4), []
    for at in range(number):
        for place, source in enumerate(("web", "synthetic", "synthetic")):
            score, said = rng.random(), rng.choice(["a dog", "A dog", "one two three four five", f"text {at}", " "])
            score_of = None if said == " " or rng.random() < 0.05 else float("nan") if rng.random() < 0.05 else score
            rows.append(
                {"key": f"{at:010d}", "source": source, "candidate": max(0, place - 1), "caption": said,
                 "itm_score": score_of, "itc_score": None if said == " " else 1 - score, "num_tokens": 4,
                 "logprob": None if source == "web" or said == " " else -score, "seed": None,
                 "flags": ["repetition"] if source == "synthetic" and rng.random() < 0.3 else []}
            )  # fmt: skip
    return rows


@pytest.fixture(scope="module")
def captions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rows = tmp_path_factory.mktemp("verdicts") / "captions", captions_rows()
    for part in range(2):
        half = parquet.rows_to_table(rows[part * 600 : (part + 1) * 600], tables.CAPTIONS)
        parquet.write_parquet(folder / f"part-{part:05d}.parquet", half, tables.CAPTIONS)
    return folder


def made(captions: Path, folder: Path, **settings: Any) -> tuple[Path, SelectConfig, dict[str, Any]]:
    """A run's round 1 with the pairs of a rule."""
    shutil.copytree(captions, folder / "round-01/captions")
    if settings.get("strategy") == "target_noise":
        settings["labels"] = labels_file(folder)
    config, pairs = SelectConfig(**settings), folder / "round-01/pairs"
    return pairs, config, dict(select_pairs(pairs, folder / "round-01/captions", config=config))


def labels_file(folder: Path) -> Path:
    rng = random.Random(1)
    rows = [
        dict.fromkeys(LABELS.schema.names)
        | {
            "key": str(at),
            "source": source,
            "itm_score": at / 100,
            "answer": "yes" if rng.random() < at / 100 else "no",
        }
        for at in range(1, 100)
        for source in ("web", "synthetic")
    ]
    parquet.write_parquet(folder / "labels.parquet", parquet.rows_to_table(rows, LABELS), LABELS)
    return folder / "labels.parquet"


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for file in parquet.parquet_files(folder) for row in parquet.read_parquet(file).to_pylist()]


def verdict(row: dict[str, Any], config: SelectConfig, counts: dict[str, Any]) -> bool | None:
    """The filter's verdict on a row of captions, in Python."""
    ranked = {"itm": "itm_score", "itc": "itc_score", "logprob": "logprob"}[str(config.score)]
    column = ranked if config.strategy == "fraction" else "itm_score"
    cut = counts[f"{column}_cut"] if config.strategy == "fraction" else counts["itm_threshold"]
    score = row[column]
    return None if score is None or np.isnan(score) else bool(np.float32(score) < np.float32(cut))


@pytest.mark.parametrize("settings", STRATEGIES)
def test_noise_is_the_filters_verdict_on_every_scored_text(
    captions: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    pairs, config, counts = made(captions, tmp_path, **settings)
    texts, decided = rows_of(captions), rows_of(pairs)
    expected = [verdict(row, config, counts) for row in texts]
    assert [row["rejected"] for row in decided] == expected
    figures = pair_figures(parquet.parquet_files(pairs))
    for source in ("web", "synthetic"):
        judged = [one for one, row in zip(expected, texts, strict=True) if row["source"] == source and one is not None]
        mine = [row for row in decided if row["source"] == source]
        dropped = sum(not row["kept"] for row in mine) / len(mine)
        assert figures[f"dropped_share_{source}"] == pytest.approx(dropped)
        assert figures[f"noise_ratio_{source}"] == (pytest.approx(sum(judged) / len(judged)) if judged else None)
        for name, share, number in (("noise_ratio", sum(judged), len(judged)), ("dropped_share", 0, 0)):
            if number and 0 < share < number:
                ends = (figures[f"{name}_{source}_low"], figures[f"{name}_{source}_high"])
                assert ends == pytest.approx(wilson(share / number, number), abs=1e-9)
    assert counts["rows"] == 1200 == counts["kept"] + sum(figures["dropped_by_reason"].values())


@pytest.mark.parametrize("settings", STRATEGIES)
def test_the_filters_reasons_come_before_the_others(captions: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    pairs, config, counts = made(captions, tmp_path, **settings)
    for text, row in zip(rows_of(captions), rows_of(pairs), strict=True):
        said = verdict(text, config, counts)
        first = "empty_text" if text["caption"] == " " else "not_scored" if said is None else None
        if first:
            assert row["reason"] == first
        elif said and not config.explore_share:
            assert row["reason"] == "below_threshold"
        elif not said:
            assert row["reason"] not in ("empty_text", "not_scored", "below_threshold")


def test_what_exploration_keeps_is_rejected_all_the_same(captions: Path, tmp_path: Path) -> None:
    pairs, _, _ = made(captions, tmp_path, explore_share=0.5)
    explored = [row for row in rows_of(pairs) if row["kept"] and row["rejected"]]
    assert len(explored) > 50
    plain, _, _ = made(captions, tmp_path / "plain")
    noise = [pair_figures(parquet.parquet_files(one)) for one in (pairs, plain)]
    assert noise[0]["noise_ratio_web"] == noise[1]["noise_ratio_web"]
    assert noise[0]["dropped_share_web"] < noise[1]["dropped_share_web"]


def test_a_text_is_no_repetition_of_one_that_the_filter_rejects(tmp_path: Path) -> None:
    rows = [
        {"key": "a", "source": source, "candidate": 0, "caption": said, "itm_score": score, "flags": []}
        for source, said, score in (("web", "A dog", 0.4), ("synthetic", "a dog", 0.6))
    ]
    path = tmp_path / "captions/part-00000.parquet"
    parquet.write_parquet(path, parquet.rows_to_table(rows, tables.CAPTIONS), tables.CAPTIONS)
    pairs, _, _ = made(tmp_path / "captions", tmp_path / "run")
    assert [row["reason"] for row in rows_of(pairs)] == ["below_threshold", None]


def as_before(pairs: Path, captions: Path, order: tuple[str, ...] = OLD_ORDER) -> None:
    """Write the pairs as earlier versions did: no column `rejected`, and repetitions and flags before any score."""
    for file in parquet.parquet_files(pairs):
        table, seen, reasons = pq.read_table(file), set(), []
        for text, row in zip(rows_of(captions / file.name), table.to_pylist(), strict=True):
            name, reason = (text["key"], text["caption"].lower()), row["reason"]
            if reason not in (None, "empty_text"):
                reason = "degenerate_text" if text["flags"] else "duplicate_text" if name in seen else reason
            seen.add(name)
            reasons.append(reason)
        table = table.drop_columns(["rejected", "reason"]).append_column("reason", pa.array(reasons, pa.string()))
        pq.write_table(table, file)


@pytest.fixture(autouse=True)
def _files_are_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """`rows_of` takes a single file, too."""
    found = parquet.parquet_files
    monkeypatch.setattr(
        parquet, "parquet_files", lambda path, only=None: [path] if path.suffix == ".parquet" else found(path, only)
    )


@pytest.mark.parametrize("settings", STRATEGIES)
def test_pairs_of_earlier_versions_give_the_same_noise_ratio(
    captions: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    pairs, _, _ = made(captions, tmp_path, **settings)
    today = pair_figures(parquet.parquet_files(pairs))
    as_before(pairs, captions)
    before = pair_figures(parquet.parquet_files(pairs))
    assert {name: before[name] for name in SHARES} == {name: today[name] for name in SHARES}
    assert before["dropped_by_reason"].get("below_threshold", 0) <= today["dropped_by_reason"].get("below_threshold", 0)
    asked = "SELECT source, count(*) FILTER (rejected) / nullif(count(rejected), 0) AS noise FROM pairs GROUP BY source"
    with connect(tmp_path) as connection:
        for row in query(connection, asked).to_pylist():
            assert row["noise"] == today[f"noise_ratio_{row['source']}"]
    for row in diff(tmp_path, 1, 1)[1].table.to_pylist():
        assert row["before"] == row["after"] == today[f"{row['figure']}_{row['source']}"]


def test_pairs_half_of_an_earlier_version_count_alike(captions: Path, tmp_path: Path) -> None:
    pairs, _, _ = made(captions, tmp_path)
    today, (first, second) = pair_figures(parquet.parquet_files(pairs)), parquet.parquet_files(pairs)
    whole = {file: file.read_bytes() for file in (first, second)}
    as_before(pairs, captions)
    for file in (first, second):
        old = file.read_bytes()
        file.write_bytes(whole[file])
        found = pair_figures(parquet.parquet_files(pairs))
        assert {name: found[name] for name in SHARES} == {name: today[name] for name in SHARES}
        file.write_bytes(old)
    select_pairs(pairs, captions, config=SelectConfig())
    assert {file: file.read_bytes() for file in whole} == whole, "going on makes what an earlier version left anew"


def test_pairs_without_a_rule_or_captions_tell_what_their_reasons_do(captions: Path, tmp_path: Path) -> None:
    pairs, _, _ = made(captions, tmp_path, strategy="fraction", score="itc")
    today = pair_figures(parquet.parquet_files(pairs))
    shutil.rmtree(tmp_path / "round-01/captions")
    for file in parquet.parquet_files(pairs):
        pq.write_table(pq.read_table(file).drop_columns(["rejected"]), file)
    found = pair_figures(parquet.parquet_files(pairs))
    rejections = today["dropped_by_reason"]["below_threshold"]
    assert 0.8 * rejections < found["web_rejected"] + found["synthetic_rejected"] <= rejections
    for file in parquet.parquet_files(pairs):
        pq.write_table(pq.read_table(file).replace_schema_metadata(None), file)
    assert pair_figures(parquet.parquet_files(pairs)) == found


def old_metrics(root: Path, number: int = 1) -> dict[str, Any]:
    """Make the round's metrics.json as earlier versions did, where every dropped text was noise."""
    path = root / f"round-{number:02d}/metrics.json"
    figures = json.loads(path.read_text())
    for source in ("web", "synthetic"):
        figures[f"noise_ratio_{source}"] = figures[f"dropped_share_{source}"]
    old = {name: value for name, value in figures.items() if not name.startswith("dropped_share")}
    path.write_text(json.dumps(old))
    return old


def test_figures_of_earlier_versions_are_told_as_todays(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(shutil.copytree(finished_run, tmp_path / "run"))
    today, kept = json.loads((root / "round-01/metrics.json").read_text()), {name: name for name in SHARES}
    old = old_metrics(root), old_metrics(root, 0)
    assert old[0]["noise_ratio_synthetic"] != pytest.approx(today["noise_ratio_synthetic"])
    with connect(root) as connection:
        (row,) = query(connection, f"SELECT {', '.join(kept)} FROM rounds WHERE round = 1").to_pylist()
        assert row == {name: today[name] for name in SHARES}
        (first,) = query(connection, f"SELECT {', '.join(kept)} FROM rounds WHERE round = 0").to_pylist()
        assert (first["noise_ratio_web"], first["dropped_share_web"]) == (None, pytest.approx(1 / 78))
        named = query(connection, "SELECT name, value FROM metrics WHERE round = 1").to_pylist()
    assert {one["name"]: one["value"] for one in named}["noise_ratio_web_low"] == today["noise_ratio_web_low"]
    print_summary(root)
    told = capsys.readouterr().out
    for name in SHARES:
        assert f"{today[name]:.1%}" in told
    assert f"{today['noise_ratio_synthetic']:.1%}" in write_report(root, 1).read_text()


def test_figures_without_their_pairs_keep_what_they_meant(finished_run: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(finished_run, tmp_path / "run"))
    old = old_metrics(root)
    shutil.rmtree(root / "round-01/pairs")
    with connect(root) as connection:
        (row,) = query(connection, f"SELECT {', '.join(SHARES)} FROM rounds WHERE round = 1").to_pylist()
    assert row["dropped_share_web"] == old["noise_ratio_web"]
    assert row["noise_ratio_web"] is None


def many(number: int, text: Callable[[int], str], score: float) -> list[dict[str, Any]]:
    return [
        {"key": f"{at:010d}", "source": source, "candidate": 0, "caption": text(at), "itm_score": score, "flags": []}
        for at in range(number)
        for source in ("web", "synthetic")
    ]


@pytest.mark.parametrize(("score", "name"), [(0.9, "keeps_all"), (0.1, "keeps_nothing")])
def test_alarms_listen_to_the_filter_alone(tmp_path: Path, score: float, name: str) -> None:
    """Every synthetic text repeats the web's, and still it is the filter that lets all through, or nothing."""
    path = tmp_path / "round-01/captions/part-00000.parquet"
    rows = many(150, lambda at: f"{at} {at + 1} {at + 2}", score)
    parquet.write_parquet(path, parquet.rows_to_table(rows, tables.CAPTIONS), tables.CAPTIONS)
    counts = select_pairs(tmp_path / "round-01/pairs", path.parent, config=SelectConfig())
    assert counts["kept"] == (150 if score > 0.5 else 0)
    assert [alarm.name for alarm in alarms(tmp_path, 1)] == [name, name]
    row = audit(tmp_path, 1, ["noise"])[0].table.to_pylist()[1]
    assert (row["source"], row["noise_ratio"], row["dropped_share"]) == ("synthetic", float(score < 0.5), 1.0)


def test_a_source_that_is_not_wanted_is_no_noise(tmp_path: Path) -> None:
    path = tmp_path / "round-01/captions/part-00000.parquet"
    parquet.write_parquet(path, parquet.rows_to_table(many(150, str, 0.9), tables.CAPTIONS), tables.CAPTIONS)
    select_pairs(tmp_path / "round-01/pairs", path.parent, config=SelectConfig(sources=("synthetic",)))
    web = audit(tmp_path, 1, ["noise"])[0].table.to_pylist()[0]
    assert (web["source"], web["noise_ratio"], web["dropped_share"]) == ("web", 0.0, 1.0)
    images = tmp_path / "images/part-00000.parquet"
    parquet.write_parquet(images, parquet.rows_to_table([], tables.IMAGES), tables.IMAGES)
    assert round_metrics(tmp_path, 1)["noise_ratio_web"] == 0
