"""What captions cost: figures by hand, and the section of the page."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from blip_bootstrap.audit.audits import audit
from blip_bootstrap.config import ReportConfig
from blip_bootstrap.query.views import connect
from blip_bootstrap.report.costs import cost_figures, costs
from blip_bootstrap.report.page_data import PageData
from blip_bootstrap.report.round_page import page_html
from blip_bootstrap.report.why import print_why, story_html, why
from blip_bootstrap.schemas.tables import CAPTIONS, PAIRS
from blip_bootstrap.storage.parquet import parquet_files, read_parquet, rows_to_table, write_parquet

Row = dict[str, Any]


def paired(root: Path) -> list[tuple[Row, Row]]:
    """The synthetic captions of round 1, each with its pair."""
    captions, pairs = (
        [row for file in parquet_files(root / "round-01" / name) for row in read_parquet(file).to_pylist()]
        for name in ("captions", "pairs")
    )
    of = {(row["key"], row["source"], row["candidate"]): row for row in pairs}
    return [(row, of[row["key"], row["source"], row["candidate"]]) for row in captions if row["source"] == "synthetic"]


@pytest.fixture
def sparing_run(finished_run: Path, tmp_path: Path) -> Path:
    """The run, in which a second captioner wrote about every other picture, and three texts of each were spared."""
    root = tmp_path / "run"
    shutil.copytree(finished_run, root)
    for name, table in (("captions", CAPTIONS), ("pairs", PAIRS)):
        for file in parquet_files(root / "round-01" / name):
            rows = read_parquet(file).to_pylist()
            more = [row | second(row, at, table is PAIRS) for at, row in enumerate(rows) if is_doubled(row)]
            every = sorted([*rows, *more], key=lambda row: (row["key"], row["source"] != "web", row["candidate"]))
            if table is CAPTIONS:
                every = [row | {"spared": 3 if row["source"] == "web" else None} for row in every]
            write_parquet(file, rows_to_table(every, table), table)
    return root


def is_doubled(row: Row) -> bool:
    return bool(row["source"] == "synthetic" and int(row["key"]) % 2)


def second(row: Row, at: int, is_pair: bool) -> Row:
    """What is other in the text of the second captioner."""
    if is_pair:
        return {"candidate": 1, "kept": at % 3 > 0, "reason": None if at % 3 else "below_threshold"}
    told = {"candidate": 1, "captioner": "dear", "prompt": "short" if at % 5 else "long", "raw_caption": "Sure! a dog"}
    costs = {"requests": 1.0, "prompt_tokens": 100.0, "completion_tokens": 5.0, "seconds": 0.5}
    return {**told, **{f"cost_{name}": value for name, value in costs.items()}}


def test_figures_are_those_that_are_counted_by_hand(sparing_run: Path) -> None:
    found, rows = cost_figures(sparing_run, 1), paired(sparing_run)
    kept = [text for text, pair in rows if pair["kept"]]
    num_web = sum(len([r for r in read_parquet(f)["source"].to_pylist() if r == "web"])
                  for f in parquet_files(sparing_run / "round-01" / "captions"))  # fmt: skip
    assert (found["cost_texts"], found["cost_kept"], found["cost_spared"]) == (len(rows), len(kept), 3 * num_web)
    tokens = sum(text["cost_completion_tokens"] or text["num_tokens"] for text, _ in rows)
    assert found["cost_tokens"] == tokens
    assert found["cost_tokens_per_kept"] == pytest.approx(tokens / len(kept))
    dear = [(text, pair) for text, pair in rows if text["captioner"] == "dear"]
    assert found["cost_requests"] == len(dear) > 0
    assert found["cost_seconds"] == pytest.approx(0.5 * len(dear))
    one = found["cost_by_captioner"]["dear"]
    assert (one["texts"], one["kept"], one["prompt_tokens"]) == (
        len(dear), sum(pair["kept"] for _, pair in dear), 100 * len(dear),
    )  # fmt: skip
    by_prompt = found["cost_by_prompt"]
    assert [*by_prompt] == ["dear/long", "dear/short"]
    for name, sums in by_prompt.items():
        some = [pair for text, pair in dear if text["prompt"] == name.partition("/")[2]]
        assert (sums["texts"], sums["kept"]) == (len(some), sum(pair["kept"] for pair in some))
        assert sums["requests_per_kept"] == pytest.approx(len(some) / sums["kept"])
    others = [name for name in found["cost_by_captioner"] if name != "dear"]
    assert all("requests" not in found["cost_by_captioner"][name] for name in others)


def test_the_curve_counts_the_first_texts_of_each_picture(sparing_run: Path) -> None:
    found = cost_figures(sparing_run, 1, judged_rows(sparing_run))["cost_curve"]
    rows = paired(sparing_run)
    kept_of: dict[str, list[int]] = defaultdict(list)
    for file in parquet_files(sparing_run / "round-01" / "pairs"):
        for row in read_parquet(file).to_pylist():
            if row["kept"]:
                kept_of[row["key"]].append(-1 if row["source"] == "web" else row["candidate"])
    num = max(text["candidate"] for text, _ in rows) + 1
    pictures = len({row["key"] for f in parquet_files(sparing_run / "round-01" / "captions")
                    for row in read_parquet(f, ["key"]).to_pylist()})  # fmt: skip
    assert num == 2
    assert [*found] == [str(k) for k in range(num + 1)]
    for k in range(num + 1):
        some = [(text, pair) for text, pair in rows if text["candidate"] < k]
        one = found[str(k)]
        assert (one["texts"], one["kept"]) == (len(some), sum(pair["kept"] for _, pair in some))
        assert one["tokens"] == sum(text["cost_completion_tokens"] or text["num_tokens"] for text, _ in some)
        assert one["pictures_kept"] == sum(min(ones) < k for ones in kept_of.values()) / pictures
        kept = [text["candidate"] for text, pair in some if pair["kept"]]
        if k:
            assert one["kept_truth"] == pytest.approx(sum(at % 2 == 0 for at in kept) / len(kept))
    assert "kept_truth" not in found["0"]


def judged_rows(root: Path) -> pa.Table:
    """Rows as of `judged_pairs`, in which texts of even numbers are true."""
    rows = [row for file in parquet_files(root / "round-01" / "pairs") for row in read_parquet(file).to_pylist()]
    for row in rows:
        row["verdict"] = "false" if row["candidate"] % 2 else "true"
    schema = PAIRS.schema.append(pa.field("verdict", pa.string()))
    return pa.Table.from_pylist(rows, schema=schema)


def test_the_audit_has_the_same_sums(sparing_run: Path) -> None:
    (answer,) = audit(sparing_run, 1, ["costs"])
    figures = cost_figures(sparing_run, 1)
    found = {f"{row['captioner']}/{row['prompt']}": row for row in answer.table.to_pylist()}
    for name, sums in figures["cost_by_prompt"].items():
        assert {key: found[name][key] for key in sums} == pytest.approx(sums)
    (own,) = [row for row in found.values() if row["prompt"] is None]
    assert own["requests"] is own["seconds_per_kept"] is None
    assert own["tokens"] + sum(sums["tokens"] for sums in figures["cost_by_prompt"].values()) == figures["cost_tokens"]


def test_why_tells_who_wrote_a_text_by_which_prompt_and_what_it_cost(
    sparing_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = next(text for text, _ in paired(sparing_run) if text["captioner"] == "dear")
    print_why(sparing_run, text["key"])
    line = next(one for one in capsys.readouterr().out.splitlines() if "dear" in one)
    assert f"dear/{text['prompt']}  cost 1 requests, 100 prompt tokens, 5 completion tokens, 0.5 seconds" in line
    assert line.endswith("answered Sure! a dog")
    page = story_html(why(sparing_run, text["key"]))
    assert "Sure! a dog" in page
    assert "cost_seconds" in page


def test_a_round_without_captions_costs_nothing(finished_run: Path) -> None:
    assert cost_figures(finished_run, 0) == {}


def test_the_page_says_what_a_kept_caption_cost_and_what_was_spared(sparing_run: Path) -> None:
    figures = cost_figures(sparing_run, 1)
    metrics = sparing_run / "round-01" / "metrics.json"
    metrics.write_text(json.dumps(json.loads(metrics.read_text()) | figures))
    page = page_html(sparing_run, 1, ReportConfig())
    share = figures["cost_spared"] / (figures["cost_spared"] + figures["cost_texts"])
    assert f"{figures['cost_spared']:,} were not ({share:.0%})" in page
    assert f"A kept caption cost {figures['cost_tokens_per_kept']:.3g} tokens" in page
    assert "Cost of each captioner" in page
    assert "dear" in page
    assert "dear/long" in page


def test_a_page_of_before_has_no_such_section(finished_run: Path) -> None:
    with connect(finished_run, [1]) as connection:
        page = PageData(finished_run, 1, ReportConfig(), connection, None, [{"round": 1}], {})  # type: ignore[arg-type]
        assert costs(page) == ""
        told = {"round": 1, **{k: v for k, v in cost_figures(finished_run, 1).items() if k != "cost_spared"}}
        assert "captions were drawn. A kept" in costs(dataclasses.replace(page, rounds=[told]))
