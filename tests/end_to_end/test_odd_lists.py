"""Lists without texts, and texts of megabytes, through both rounds of the loop."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from blip_bootstrap.storage.parquet import parquet_files, read_parquet
from tests.support.in_process import blip_here
from tests.support.small_world import small_config

NUM_BARE, NUM_WORDS = 20, 600_000


@pytest.fixture(scope="module")
def odd_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A root, and what the command printed."""
    folder = tmp_path_factory.mktemp("odd")
    config, server = small_config(folder / "run", folder / "world")
    pictures = sorted(path.name for path in server.folder.iterdir())[: NUM_BARE + 2]
    urls = [f"http://127.0.0.1:{server.port}/ok/{name}" for name in pictures]
    (folder / "bare.txt").write_text("\n".join(urls[:NUM_BARE]))
    (folder / "long.csv").write_text(f'url,caption\n{urls[-2]},{"x " * NUM_WORDS}\n{urls[-1]},"30 inch, a red circle\n')
    config["download"]["urls"] = [{"path": str(folder / name)} for name in ("bare.txt", "long.csv")]
    config |= {"controls": {}, "ray": {"address": "none"}}
    for section in ("pretrain", "captioner", "filter"):
        config[section]["optimizer"] |= {"steps": 2, "batch_size": 8}
    (folder / "c.yaml").write_text(yaml.safe_dump(config))
    with server:
        done = blip_here("run", "--round", "1", "--config", folder / "c.yaml")
    assert done.returncode == 0, done.stderr
    return folder / "run", done.stderr


def rows(root: Path, *names: str) -> list[dict[str, Any]]:
    return [row for file in parquet_files(root.joinpath(*names)) for row in read_parquet(file).to_pylist()]


def test_both_rounds_account_for_every_text(odd_run: tuple[Path, str]) -> None:
    root, said = odd_run
    for number in (0, 1):
        pairs = [row for row in rows(root, f"round-{number:02d}", "pairs") if row["source"] == "web"]
        reasons = Counter(row["reason"] for row in pairs)
        assert (reasons["empty_text"], reasons["text_too_long"], len(pairs)) == (NUM_BARE, 1, NUM_BARE + 2)
        assert [row["caption"] for row in pairs if row["reason"] not in ("empty_text", "text_too_long")] == [
            '"30 inch, a red circle'
        ]
    assert "texts_too_long 1" in said
    assert "long.csv: rows with a quote that has no end: 1 (the first: line 3)" in said


def test_every_picture_is_captioned_and_no_long_text_goes_on(odd_run: tuple[Path, str]) -> None:
    root, _ = odd_run
    captions = rows(root, "round-01", "captions")
    assert {row["key"] for row in captions if row["source"] == "synthetic"} == {row["key"] for row in captions}
    assert max(len(row["caption"]) for row in captions) <= 200
    (cut,) = [row for row in rows(root, "images") if row["cut_from_chars"]]
    assert (cut["cut_from_chars"], cut["status"]) == (2 * NUM_WORDS, "success")
    assert "x " * 100 not in (root / "round-01" / "report.html").read_text(encoding="utf-8")
