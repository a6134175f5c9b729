"""The named audits: each answers, adds up, and copes with a run that has nothing yet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from blip_bootstrap.audit.audits import AUDITS, audit, check_accounting, print_audit
from blip_bootstrap.errors import AccountingError, InputError
from blip_bootstrap.schemas import tables
from blip_bootstrap.storage import parquet
from blip_bootstrap.storage.run_folder import resolve_round


def rows(root: Path, name: str, number: int | None = None) -> list[dict[str, object]]:
    found: list[dict[str, object]] = audit(root, number, [name])[0].table.to_pylist()
    return found


@pytest.mark.parametrize("name", AUDITS)
def test_every_audit_has_a_title_and_answers(finished_run: Path, tmp_path: Path, name: str) -> None:
    (answer,) = audit(finished_run, 1, [name])
    assert answer.title
    assert answer.meaning
    assert answer.table.num_rows
    assert audit(tmp_path, None, [name])[0].table.schema == answer.table.schema


def test_every_sql_file_is_an_audit() -> None:
    from importlib.resources import files

    folder = files("blip_bootstrap.audit").joinpath("sql")
    shipped = {file.name.removesuffix(".sql") for file in folder.iterdir() if file.is_file()}
    assert shipped == set(AUDITS)


def test_rows_in_are_rows_out(finished_run: Path) -> None:
    for number in (0, 1):
        answer = audit(finished_run, number, ["accounting"])[0]
        steps = ["download", "caption", "select"] if number else ["download", "select"]
        assert [row["step"] for row in answer.table.to_pylist()] == steps
        check_accounting(answer)


def test_dropped_rows_are_told_by_reason(finished_run: Path) -> None:
    for row in rows(finished_run, "accounting", 1):
        told = dict(one.rsplit(" ", 1) for one in str(row["reasons"] or "").split(", ") if one)
        assert sum(map(int, told.values())) == row["dropped"]
        assert ("below_threshold" in told) == (row["step"] == "select")


def test_a_gap_is_found(finished_run: Path, tmp_path: Path) -> None:
    for name in ("images", "round-01/captions"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(finished_run / name)
    half = parquet.read_parquet(finished_run / "round-01/pairs/part-00000.parquet")
    parquet.write_parquet(tmp_path / "round-01/pairs/part-00000.parquet", half, tables.PAIRS)
    with pytest.raises(AccountingError, match="round 1, select: 156 rows in"):
        print_audit(tmp_path, 1)


def test_noise_agrees_with_the_pairs(finished_run: Path) -> None:
    for row in rows(finished_run, "noise"):
        assert row["noise_ratio"] == pytest.approx(row["rejected"] / row["scored"])  # type: ignore[operator]
        assert row["low"] < row["noise_ratio"] < row["high"]  # type: ignore[operator]
        assert row["dropped_share"] == pytest.approx(row["dropped"] / row["texts"])  # type: ignore[operator]
        assert row["dropped_low"] < row["dropped_share"] < row["dropped_high"]  # type: ignore[operator]


def test_thresholds_agree_with_the_scores(finished_run: Path) -> None:
    scores = [
        row
        for file in parquet.parquet_files(finished_run / "round-01/captions")
        for row in parquet.read_parquet(file, ["source", "itm_score"]).to_pylist()
        if row["itm_score"] is not None
    ]
    curve = {row["threshold"]: row for row in rows(finished_run, "thresholds")}
    for threshold in (0.0, 0.25, 0.5, 0.95):
        kept = sum(row["itm_score"] >= threshold for row in scores if row["source"] == "web")
        assert curve[threshold]["web"] == kept
    assert sum(row["texts"] for row in rows(finished_run, "scores")) == len(scores)  # type: ignore[misc]


def test_diversity_agrees_with_counting_in_python(finished_run: Path) -> None:
    pairs = [
        row
        for f in parquet.parquet_files(finished_run / "round-01/pairs")
        for row in parquet.read_parquet(f).to_pylist()
    ]
    texts = [row["caption"].lower() for row in pairs if row["source"] == "synthetic"]
    found = next(row for row in rows(finished_run, "diversity") if row["source"] == "synthetic")
    assert found["distinct_words"] == len({word for text in texts for word in text.split()})
    assert found["distinct_share"] == pytest.approx(len(set(texts)) / len(texts))
    assert found["most_common_share"] == pytest.approx(max(map(texts.count, texts)) / len(texts))


def test_agreement_is_that_of_numpy_for_each_two_scores(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    itm, clip = rng.random(60).astype(np.float32), rng.random(60).astype(np.float32)
    captions = [scored(f"{i:03d}", float(itm[i]), float(clip[i]) if i < 50 else None) for i in range(60)]
    path = tmp_path / "round-01/captions/part-00000.parquet"
    parquet.write_parquet(path, parquet.rows_to_table(captions, tables.CAPTIONS), tables.CAPTIONS)
    (tmp_path / "round-01/pairs").mkdir()
    found = {(row["first"], row["second"]): row for row in rows(tmp_path, "agreement")}
    assert list(found) == [("itm", "itc"), ("itm", "clip"), ("itc", "clip"), ("itm 1", "itm 2")]
    of_clip = found["itm", "clip"]
    assert of_clip["texts"] == 50
    assert of_clip["correlation"] == pytest.approx(np.corrcoef(itm[:50], clip[:50])[0, 1], abs=1e-6)
    high, clip_high = itm[:50] >= 0.5, clip[:50] >= np.median(clip[:50])
    assert of_clip["both_high"] == pytest.approx((high & clip_high).mean(), abs=0.021)  # the median is approximate
    assert sum(float(str(of_clip[k])) for k in ("both_high", "only_first", "only_second", "both_low")) == pytest.approx(
        1
    )
    assert found["itm", "itc"]["correlation"] == pytest.approx(-1)
    assert found["itm 1", "itm 2"]["only_second"] == pytest.approx((itm < 0.5).mean())


def scored(key: str, itm: float, clip: float | None) -> dict[str, object]:
    """A web text whose ITC score falls as its ITM score rises, and whose second filter always says 0.9."""
    return {
        "key": key, "source": "web", "candidate": 0, "caption": "a dog", "itm_score": itm, "itc_score": 1 - itm,
        "logprob": None, "num_tokens": 5, "flags": [], "seed": None, "captioner": None, "itm_scores": [itm, 0.9],
        "itc_scores": None, "clip_score": clip,
    }  # fmt: skip


def test_the_last_round_is_the_default_and_a_missing_one_is_told(finished_run: Path) -> None:
    assert resolve_round(finished_run, None) == 1
    with pytest.raises(InputError, match="no round 7; it has 0, 1"):
        audit(finished_run, 7)
    with pytest.raises(InputError, match="audit nose: unknown"):
        audit(finished_run, 1, ["nose"])


def test_printing(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_audit(finished_run)
    shown = capsys.readouterr().out
    assert "Noise ratio of each source" in shown
    assert "below_threshold" in shown
