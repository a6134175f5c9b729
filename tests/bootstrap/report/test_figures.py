"""The figures of a round, and the truth that some of them need."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from blip_bootstrap.errors import InputError
from blip_bootstrap.labels.truth import Truth, file_name, judged_pairs, load_truth, oracle_pairs
from blip_bootstrap.report.figures import ALWAYS, round_metrics, truth_figures, write_figures
from blip_bootstrap.storage import parquet
from blip_bootstrap.world.scenes import Scene, Thing


def metrics(root: Path, number: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / f"round-{number:02d}/metrics.json").read_text())
    return found


def test_every_promised_figure_is_there(finished_run: Path) -> None:
    for number in (0, 1):
        assert set(ALWAYS) <= metrics(finished_run, number).keys()
    first, second = metrics(finished_run, 0), metrics(finished_run, 1)
    assert first["noise_ratio_web"] is first["noise_ratio_synthetic"] is None, "round 0 has no filter"
    assert first["dropped_share_web"] == pytest.approx(1 / 78)
    assert first["human_only_cider"] is None
    assert (second["cider"], second["human_only_cider"], second["tr1_near"]) == (2.0, 0.8, 0.6)
    assert second["caption_truth"] > first["caption_truth"]


def test_the_figures_count_the_tables(finished_run: Path) -> None:
    found = metrics(finished_run, 1)
    rows = [
        r for f in parquet.parquet_files(finished_run / "round-01/pairs") for r in parquet.read_parquet(f).to_pylist()
    ]
    web = [row for row in rows if row["source"] == "web"]
    assert found["web_captions"] == len(web)
    assert found["web_kept"] == sum(row["kept"] for row in web)
    assert found["dropped_share_web"] == pytest.approx(1 - found["web_kept"] / len(web))
    scored = [row["itm_score"] for row in web if row["itm_score"] is not None]
    assert (found["web_scored"], found["web_rejected"]) == (len(scored), sum(score < 0.5 for score in scored))
    assert found["noise_ratio_web"] == pytest.approx(found["web_rejected"] / found["web_scored"])
    assert sum(found["dropped_by_reason"].values()) == sum(not row["kept"] for row in rows)
    assert (found["urls"], found["downloaded"], found["failed_by_reason"]) == (80, 78, {"http_4xx": 2})


def test_seconds_are_of_this_round_and_round_0_bears_what_is_made_once(finished_run: Path) -> None:
    assert set(metrics(finished_run, 0)["seconds"]) >= {"images", "pairs", "model"}
    assert "images" not in metrics(finished_run, 1)["seconds"]


def test_filter_figures_against_counting_by_hand() -> None:
    rows = [
        ("web", True, "true", 0.9), ("web", True, "partial", 0.6), ("web", True, "false", 0.6),
        ("web", False, "true", 0.3), ("web", False, "false", 0.1), ("web", False, "false", None),
        ("synthetic", True, "true", 0.8), ("synthetic", False, "false", 0.2), ("synthetic", True, None, 0.7),
    ]  # fmt: skip
    judged = pa.Table.from_pylist(
        [dict(zip(("source", "kept", "verdict", "itm_score"), row, strict=True)) for row in rows]
    )
    with duckdb.connect() as connection:
        found = truth_figures(connection, judged)
    good, bad = (0.9, 0.6, 0.3), (0.6, 0.1)
    wins = sum((g > b) + 0.5 * (g == b) for g in good for b in bad)
    assert found["filter_auc_web"] == pytest.approx(wins / 6)
    assert found["filter_precision_web"] == pytest.approx(2 / 3)
    assert found["filter_recall_web"] == pytest.approx(2 / 3)
    assert found["caption_truth"] == pytest.approx(2 / 4)
    assert found["caption_partial"] == pytest.approx(1 / 4)
    assert (found["truth_web"], found["kept_truth_synthetic"]) == (pytest.approx(2 / 6), 1.0)


def test_texts_that_are_in_no_list_any_more_are_not_dropped_by_the_filter() -> None:
    rows = [("web", True, "true", 0.9, None), ("web", False, "false", 0.1, "low_score"),
            ("web", False, "true", 0.8, "not_listed")]  # fmt: skip
    names = ("source", "kept", "verdict", "itm_score", "reason")
    judged = pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows])
    with duckdb.connect() as connection:
        found = truth_figures(connection, judged)
    assert (found["filter_recall_web"], found["truth_web"]) == (1.0, 0.5)
    assert found["truth_counts"] == {"web": {"kept": {"true": 1}, "dropped": {"false": 1}}}


def test_truth_from_a_tsv_knows_web_texts_only(tmp_path: Path) -> None:
    path = tmp_path / "truth.tsv"
    path.write_text("image\tkind\na.jpg\tclean\nb.jpg\tmismatch\nc.jpg\tpartial\n")
    truth = load_truth(path)
    assert [truth.verdict(f"{n}.jpg", "web", "any") for n in "abcd"] == ["true", "false", "partial", None]
    assert truth.verdict("a.jpg", "synthetic", "any") is None


def test_truth_files_hold_any_separator(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"name": "a\u2028b.jpg", "kind": "full"}\n\n{"name": 7, "kind": null}\n')
    assert load_truth(tmp_path / "t.jsonl").kinds == {"a\u2028b.jpg": "full"}
    (tmp_path / "t.tsv").write_bytes(gzip.compress('image\tkind\na\u0085b.jpg\tfull\n"c.jpg\tclean\n'.encode()))
    assert load_truth(tmp_path / "t.tsv").kinds == {"a\u0085b.jpg": "full", '"c.jpg': "clean"}


def test_truth_with_scenes_judges_any_text(tmp_path: Path) -> None:
    scene = Scene(things=(Thing(shape="circle", colour="red", size="large", x=0.5, y=0.5, radius=0.2, angle=0.0),))
    path = tmp_path / "truth.jsonl"
    path.write_text(json.dumps({"name": "a.jpg", "kind": "swapped", "scene": scene.as_dict()}) + "\n")
    truth = load_truth(path)
    assert truth.verdict("a.jpg", "synthetic", "a red circle") == "true"
    assert truth.verdict("a.jpg", "web", "a blue circle") == "false"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("t.tsv", "name\tkind\n", "no column 'image'"),
        ("t.tsv", "file_name\tkind\n", r"did you mean file_name\? Name it image"),
        ("t.jsonl", '{"name": "a"}\n' + "[" * 10**5, "line 2"),
        ("t.jsonl", '{"name": ["a"]}', "line 1: a list of 1 where a text was expected"),
        ("t.jsonl", '{"name": "a", "scene": 3}', "line 1"),
        ("t.jsonl", '{"name": "a"}\nnot json\n', "line 2"),
        ("t.jsonl", '{"kind": "full"}\n', "line 1"),
    ],
)
def test_a_bad_truth_file_is_told_by_its_line(tmp_path: Path, name: str, content: str, told: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=told):
        load_truth(tmp_path / name)


def test_pictures_are_joined_by_file_name(finished_run: Path) -> None:
    assert file_name("http://h:1/a/b%20c.jpg?x=/y") == "b c.jpg"
    truth = Truth({"005.jpg": "clean"}, {})
    judged = judged_pairs(truth, finished_run / "images", finished_run / "round-01/pairs").to_pylist()
    assert len(judged) == 156
    assert [(row["name"], row["source"]) for row in judged if row["verdict"]] == [("005.jpg", "web")]


def test_the_oracle_keeps_true_texts_alone(finished_run: Path, tmp_path: Path) -> None:
    images, captions, truth = finished_run / "images", finished_run / "round-01/captions", finished_run / "truth.tsv"
    counts = oracle_pairs(tmp_path, images, captions, truth)
    judged = judged_pairs(load_truth(truth), images, tmp_path).to_pylist()
    assert counts == {"rows": 156, "kept": sum(row["verdict"] == "true" for row in judged)}
    assert all(row["kept"] == (row["verdict"] == "true") for row in judged)


def test_without_truth_controls_or_evaluation(finished_run: Path, tmp_path: Path) -> None:
    for name in ("images", "round-01/pairs"):
        shutil.copytree(finished_run / name, tmp_path / name)
    found = round_metrics(tmp_path, 1)
    assert found["cider"] is None
    assert found["caption_truth"] is None
    written = json.loads(write_figures(tmp_path, 1).read_text())
    counts = json.loads((tmp_path / "round-01/.metrics.json.MANIFEST.json").read_text())["counts"]
    assert {name: written[name] for name in counts} == counts
    shares = ("noise_ratio", "dropped_share")
    assert set(counts) == {f"{share}_{source}" for share in shares for source in ("web", "synthetic")}
    with pytest.raises(InputError, match="no Parquet files"):
        round_metrics(tmp_path, 0)


def test_figures_are_written_again_when_anything_that_they_are_made_from_changes(
    finished_run: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(finished_run, tmp_path / "run"))
    truth, path, said = root / "truth.tsv", root / "round-01/metrics.json", list[str]()

    def is_written() -> bool:
        said.clear()
        write_figures(root, 1, truth, said.append)
        return said != ["round-01/metrics.json: current"]

    is_written()
    before, stamp = path.read_bytes(), path.stat().st_mtime_ns
    assert not is_written()
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (before, stamp)
    truth.write_text(truth.read_text().replace("clean", "unrelated").replace("full", "unrelated"))
    assert is_written()
    assert said[0] == "round-01/metrics.json: measure_round, because of another truth"
    assert path.read_bytes() != before
    (root / "same_pictures").mkdir()
    manifest = {"name": "same_pictures", "counts": {"left_out_human": 3}, "made": "2026", "seconds": 1.5, "recipe": {}}
    (root / "same_pictures/MANIFEST.json").write_text(json.dumps(manifest))
    assert is_written()
    assert json.loads(path.read_text())["same_pictures"] == {"left_out_human": 3}
    path.write_text("{")
    assert is_written()
    assert not is_written()
