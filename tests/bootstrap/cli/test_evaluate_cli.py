"""`blip-bootstrap evaluate`: a table, JSON, the files that it leaves, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from blip_bootstrap.cli.evaluate import table_of
from blip_bootstrap.storage.manifest import digest_of_path
from blip_training.checkpoint.store import save_captioner, save_filter
from blip_training.data.tokenizer import Tokenizer
from tests.support.benchmark_files import write_coco
from tests.support.in_process import blip_here
from tests.support.tiny_med import WORDS, tiny

HERE = ("--set", "benchmark={device: cpu, meteor: false}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, tokenizer = tmp_path_factory.mktemp("evaluate"), Tokenizer(WORDS)
    save_filter(folder / "filter", tiny(tokenizer), tokenizer)
    save_captioner(folder / "captioner", tiny(tokenizer), tokenizer)
    write_coco(folder / "coco", 5)
    return folder


def test_json_has_all_that_was_measured_and_with_what(folder: Path, tmp_path: Path) -> None:
    ask = ("evaluate", folder / "filter", "--on", "coco", "--data", folder / "coco", "--out", tmp_path, *HERE)
    done = blip_here(*ask, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert {"tr1", "tr10", "ir5", "ir_mdr", "itc_tr1", "itm_auc"} <= set(result["figures"])
    assert (result["benchmark"], result["items"], result["settings"]["rerank_top_k"]) == ("coco", 5, 256)
    assert result["model_digest"] == digest_of_path(folder / "filter")
    assert len(result["data_digest"]) == 64
    assert json.loads(Path(result["path"]).read_text()) == result
    shown = blip_here(*ask)
    assert shown.returncode == 0
    assert all(word in shown.stdout for word in ("figure", "itm_auc", "rank", "%"))
    assert f"5 items, {result['seconds']:,.0f} s; {result['path']}" in shown.stderr
    few = blip_here(*ask, "--limit", "2", "--json")
    assert json.loads(few.stdout)["items"] == 2


def test_what_a_captioner_wrote_lies_beside_its_result(folder: Path, tmp_path: Path) -> None:
    ask = ("evaluate", folder / "captioner", "--on", "coco", "--data", folder / "coco", "--out", tmp_path, *HERE)
    done = blip_here(*ask, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert set(result["figures"]) == {"bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "cider"}
    rows = Path(result["path"]).with_name("captioning.jsonl").read_text().splitlines()
    assert [set(json.loads(row)) for row in rows] == [{"key", "file", "caption", "references", "domain", "cider"}] * 5


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--on", "cocoa"), "--on cocoa: no such benchmark"),
        (("--on", "flickr30k"), "there is no flickr30k_test.json or dataset_flickr30k.json; get "),
        (("--on", "coco", "--set", "benchmark.tasks=[captioning]"), "cannot do captioning"),
        (("--on", "coco", "--set", "benchmark.frame=3"), "frames"),
    ],
)
def test_what_cannot_be_done_is_one_line(folder: Path, tmp_path: Path, arguments: tuple[str, ...], line: str) -> None:
    ask = ("evaluate", folder / "filter", "--data", folder / "coco", "--out", tmp_path)
    done = blip_here(*ask, *HERE, *arguments)
    assert done.returncode == 2
    assert line in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_shares_are_shown_in_per_cent() -> None:
    table = table_of({"tr1": 0.25, "tr_mdr": 3.5, "cider": 1.2345678, "cider_in": 0.5, "itc_ir_mdr": 2.0})
    assert table.to_pylist() == [
        {"figure": "tr1", "value": 25.0, "unit": "%"},
        {"figure": "tr_mdr", "value": 3.5, "unit": "rank"},
        {"figure": "cider", "value": 1.235, "unit": ""},
        {"figure": "cider_in", "value": 0.5, "unit": ""},
        {"figure": "itc_ir_mdr", "value": 2.0, "unit": "rank"},
    ]
