"""Given models reach the workers of a cluster through the run's store, under the digest of their files."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from blip_bootstrap.config import CaptionConfig, Config, JudgeConfig, PretrainConfig, RayConfig, WriterConfig
from blip_bootstrap.config.writers import PromptConfig
from blip_bootstrap.loop.sent import with_sent
from blip_bootstrap.storage.parquet import parquet_files
from blip_bootstrap.storage.remote import opened
from blip_pipelines.captioners.registry import KINDS as CAPTIONERS
from blip_pipelines.judges.registry import KINDS
from blip_training.runtime.sources import resolve_source
from tests.support.moto_store import Bucket, empty_store

URI = "s3://bucket/runs/mine"


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    with empty_store(tmp_path / "cache", monkeypatch) as (_, found):
        yield found


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "theirs" / "captioner"
    (folder / "parts").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "parts" / "model.safetensors").write_bytes(b"weights")
    return folder


def config_of(address: str, root: Path | None = None) -> Config:
    return Config(root=root or opened(URI, make=True), ray=RayConfig(address=address))


def test_a_model_is_put_there_once_and_named_by_its_digest(bucket: Bucket, model: Path) -> None:
    config = config_of("auto")
    section = with_sent(config, CaptionConfig(captioners=(str(model), "Salesforce/blip"), scorer=str(model)))
    there, hub = section.captioners
    assert hub == "Salesforce/blip"
    assert section.scorer == there
    assert there.endswith("/theirs/captioner")  # tables name a model by these two
    assert Path(there).parents[2] == config.root / "given"
    names = [key for key in bucket.names() if "/given/" in key]
    assert sorted(key.partition("/theirs/")[2] for key in names) == [
        "captioner/config.json",
        "captioner/parts/model.safetensors",
    ]
    assert with_sent(config, section) == section  # what lies there already is named as it is
    (model / "parts" / "model.safetensors").write_bytes(b"others")
    assert with_sent(config, str(model)) != there


def test_a_worker_reads_it_where_the_disk_is_not_the_drivers(bucket: Bucket, model: Path) -> None:
    there = Path(with_sent(config_of("auto"), str(model)))
    weights = there / "parts" / "model.safetensors"
    weights.unlink()  # as in the working copy of another machine
    assert (resolve_source(there) / "parts" / "model.safetensors").read_bytes() == b"weights"


def test_a_single_file_brings_those_beside_it_that_it_is_read_by(bucket: Bucket, tmp_path: Path) -> None:
    folder = tmp_path / "released"
    folder.mkdir()
    for name in ("model.pth", "vocab.txt", "config.json", "other.pth"):
        (folder / name).write_text(name)
    there = Path(with_sent(config_of("auto"), str(folder / "model.pth")))
    assert sorted(one.name for one in there.parent.iterdir()) == ["config.json", "model.pth", "vocab.txt"]


def test_sections_within_sections(bucket: Bucket, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n")
    section = PretrainConfig().model_copy(deep=True)
    text = section.model.text.model_copy(update={"tokenizer": str(tmp_path / "vocab.txt")})
    section = section.model_copy(update={"model": section.model.model_copy(update={"text": text})})
    sent = with_sent(config_of("auto"), section)
    assert "/given/" in sent.model.text.tokenizer
    assert sent.model.text.tokenizer.endswith("/vocab.txt")


def test_checkpoints_of_writers_and_judges(bucket: Bucket, model: Path) -> None:
    """They are found by a worker whose disk is another one, and are the same to it: digests are of what they hold."""
    given = {"checkpoint": str(model), "temperature": 0.5}
    writer = WriterConfig(name="one", kind="transformers", options=given, prompts={"a": PromptConfig(text="b")})
    judges = [
        JudgeConfig(name="two", kind="dual_encoder", options={"checkpoint": str(model)}),
        JudgeConfig(name="hub", kind="dual_encoder", options={"checkpoint": "google/siglip2"}),
    ]
    section = CaptionConfig(writers=(writer,), judges=tuple(judges))
    sent = with_sent(config_of("auto"), section)
    there = Path(str(sent.writers[0].options["checkpoint"]))
    assert "/given/" in str(there)
    assert sent.writers[0].options == {"checkpoint": str(there), "temperature": 0.5}
    assert [one.options for one in sent.judges] == [{"checkpoint": str(there)}, judges[1].options]
    assert sent.writers[0].prompts == writer.prompts
    before = KINDS.digest(section.judges), CAPTIONERS.digest(section.writers)
    shutil.rmtree(there)  # as in the working copy of another machine
    assert (KINDS.digest(sent.judges), CAPTIONERS.digest(sent.writers)) == before
    assert (there / "parts" / "model.safetensors").read_bytes() == b"weights"
    assert with_sent(config_of("local"), section) == section


@pytest.mark.parametrize("address", ["local", "none"])
def test_on_one_machine_nothing_is_sent(address: str, bucket: Bucket, model: Path) -> None:
    assert with_sent(config_of(address), str(model)) == str(model)
    assert not bucket.names()


def test_a_run_on_a_disk_sends_nothing(model: Path, tmp_path: Path) -> None:
    assert with_sent(config_of("auto", tmp_path / "run"), str(model)) == str(model)


def test_parts_of_what_is_half_made_are_those_on_the_store_too(bucket: Bucket) -> None:
    root = opened(URI, make=True)
    folder = root / "artifacts" / "train_controls" / "1" / "pairs"
    folder.mkdir(parents=True)
    (folder / "part-00000.parquet").write_bytes(b"here")
    for name in ("part-00001.parquet", ".part-00002.parquet", "below/part-00003.parquet"):
        bucket[f"runs/mine/artifacts/train_controls/1/pairs/{name}"] = b"there"
    assert [one.name for one in parquet_files(folder)] == ["part-00000.parquet", "part-00001.parquet"]
