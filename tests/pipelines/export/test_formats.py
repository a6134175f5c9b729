"""Each format by the reader of those for whom it is made: the pictures, texts and scores of the round, no other."""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
import types
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from blip_bootstrap.cli.app import app
from blip_bootstrap.query.views import connect

Known = dict[str, Any]

leaves_files_open = pytest.mark.filterwarnings(  # as webdataset does
    "ignore:unclosed file:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


def export(root: Path, out: Path, form: str, *more: str, number: int = 1) -> Path:
    asked = ["export", "--root", str(root), "--round", str(number), "--format", form, "--out", str(out), *more]
    CliRunner().invoke(app, asked, catch_exceptions=False)
    return out


def known(root: Path, number: int, where: str = "p.kept") -> dict[str, Known]:
    """The pictures of a round by key, with their texts in order, as DuckDB has them."""
    scores = "c.itm_score, c.itc_score, c.logprob" if number else "NULL, NULL, NULL"
    joined = "LEFT JOIN captions c USING (round, key, source, candidate)" if number else ""
    found: dict[str, Known] = {}
    with connect(root) as connection:
        rows = connection.execute(
            f"SELECT i.key, i.uid, i.url, i.sha256, i.jpg, p.caption, p.source, p.kept, p.reason, {scores} "
            f"FROM pairs p {joined} JOIN images i ON i.key = p.key WHERE p.round = {number} AND {where} "
            "ORDER BY i.key, p.source DESC, p.candidate"
        ).fetchall()
    for key, uid, url, sha256, jpg, *text in rows:
        picture = found.setdefault(key, {"uid": uid, "url": url, "sha256": sha256, "jpg": jpg, "texts": []})
        picture["texts"].append(tuple(text))
    return found


def text_of(told: Known) -> tuple[Any, ...]:
    scores = [told.get(name) for name in ("itm_score", "itc_score", "logprob")]
    single = [None if one is None else float(np.float32(one)) for one in scores]
    return (told["caption"], told["source"], told["kept"], told["reason"], *single)


def best_of(texts: list[tuple[Any, ...]]) -> str:
    return max(texts, key=lambda one: (one[2], one[4] or 0))[0]


def members(folder: Path) -> dict[str, dict[str, bytes]]:
    """The files of all shards, by key and ending."""
    found: dict[str, dict[str, bytes]] = defaultdict(dict)
    for shard in sorted(folder.glob("*.tar")):
        with tarfile.open(shard) as tar:
            for one in tar:
                assert (one.mtime, one.uid, one.gid, one.isreg()) == (0, 0, 0, True)
                key, _, ending = one.name.partition(".")
                file = tar.extractfile(one)
                assert file
                found[key][ending] = file.read()
    return found


@pytest.mark.parametrize(("number", "more", "where"), [(0, (), "p.kept"), (1, (), "p.kept"), (1, ("--all",), "true")])
def test_shards_hold_the_pictures_and_texts_of_the_round(
    finished_run: Path, tmp_path: Path, number: int, more: tuple[str, ...], where: str
) -> None:
    out, there = (
        export(finished_run, tmp_path / "out", "webdataset", *more, number=number),
        known(finished_run, number, where),
    )
    found = members(out)
    assert list(found) == list(there)
    assert any(len(one["texts"]) > 1 for one in there.values()) == (number == 1)
    for key, picture in there.items():
        told = json.loads(found[key]["json"])
        assert (told["key"], told["uid"], told["url"], told["sha256"]) == (
            key, picture["uid"], picture["url"], picture["sha256"],
        )  # fmt: skip
        assert found[key]["jpg"] == picture["jpg"]
        assert [text_of(one) for one in told["captions"]] == picture["texts"]
        assert [one["weight"] for one in told["captions"]] == [float(one[2]) for one in picture["texts"]]
        assert found[key]["txt"].decode() == told["caption"] == best_of(picture["texts"])
    sizes = json.loads((out / "sizes.json").read_text())
    assert sum(sizes.values()) == len(there)
    assert sizes == {name: json.loads((out / f"{name[:5]}_stats.json").read_text())["successes"] for name in sizes}


@leaves_files_open
def test_webdataset_reads_the_shards(finished_run: Path, tmp_path: Path) -> None:
    """The stages of open_clip's pipeline, in its order."""
    import webdataset as wds

    out = export(finished_run, tmp_path / "out", "webdataset")
    read = wds.DataPipeline(
        wds.SimpleShardList(sorted(map(str, out.glob("*.tar")))),
        wds.split_by_worker,
        wds.tarfile_to_samples(),
        wds.select(lambda one: "txt" in one and "jpg" in one),
        wds.decode("pilrgb"),
        wds.rename(image="jpg;png;jpeg;webp", text="txt"),
        wds.to_tuple("image", "text"),
    )
    there = known(finished_run, 1)
    assert [(image.size, text) for image, text in read] == [((48, 48), best_of(one["texts"])) for one in there.values()]


@leaves_files_open
def test_open_clip_trains_on_the_shards(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By open_clip's own loader, which finds the number of samples in sizes.json.

    It imports torchvision for other formats alone, and is older than the marks that webdataset puts between shards.
    """
    for name in ("torchvision", "torchvision.datasets"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setattr(sys.modules["torchvision"], "datasets", sys.modules["torchvision.datasets"], raising=False)
    data = pytest.importorskip("open_clip_train.data")
    monkeypatch.setattr(data, "tar_file_expander", partial(data.tar_file_expander, eof_value=None))
    out, there = export(finished_run, tmp_path / "out", "webdataset"), known(finished_run, 1)
    asked = types.SimpleNamespace(
        train_data=f"{out}/{{00000..00001}}.tar", train_num_samples=None, train_data_upsampling_factors=None,
        dataset_resampled=False, seed=0, batch_size=13, world_size=1, workers=0,
    )  # fmt: skip
    found = data.get_wds_dataset(asked, np.asarray, is_train=True, tokenizer=lambda text: [text])
    texts = [text for images, texts in found.dataloader for text in texts if images.shape[1:] == (48, 48, 3)]
    assert found.dataloader.num_samples == len(there) == 65
    assert sorted(texts) == sorted(best_of(one["texts"]) for one in there.values())


def test_datasets_reads_the_folder(finished_run: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    out, there = export(finished_run, tmp_path / "out", "hf", "--all"), known(finished_run, 1, "true")
    found = datasets.load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache"))
    assert isinstance(found.features["image"], datasets.Image)
    plain = found.cast_column("image", datasets.Image(decode=False))
    for row, (key, picture) in zip(plain, there.items(), strict=True):
        assert (row["key"], row["uid"], row["text"]) == (key, picture["uid"], best_of(picture["texts"]))
        assert row["image"] == {"bytes": picture["jpg"], "path": f"{key}.jpg"}
        assert [text_of(one) for one in row["captions"]] == picture["texts"]
    assert found[0]["image"].size == (48, 48)


def test_the_card_tells_what_the_run_counted(finished_run: Path, tmp_path: Path) -> None:
    card = (export(finished_run, tmp_path / "out", "hf") / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["configs"][0]["data_files"] == [{"split": "train", "path": "data/*.parquet"}]
    with connect(finished_run) as connection:
        reasons = connection.execute(
            "SELECT reason, count(*) FROM pairs WHERE round = 1 AND NOT kept GROUP BY ALL"
        ).fetchall()
    assert len(reasons) > 2
    for reason, number in reasons:
        assert f"| dropped, {reason} | {number} |" in card
    assert "| drawn | 65 |" in card
    assert f"| images | download_images | {'d' * 16} | {'c' * 16} |" in card
    assert "itm_threshold: 0.5" in card
    assert str(finished_run) not in card


def test_pycocotools_reads_the_captions(finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pycocotools.coco import COCO

    out, there = export(finished_run, tmp_path / "out", "coco-json"), known(finished_run, 1)
    coco = COCO(str(out / "captions.json"))
    capsys.readouterr()
    assert len(coco.anns) == sum(len(one["texts"]) for one in there.values())
    for image in coco.loadImgs(coco.getImgIds()):
        picture = there.pop(image["key"])
        assert (out / image["file_name"]).read_bytes() == picture["jpg"]
        assert [text_of(one) for one in coco.loadAnns(coco.getAnnIds(image["id"]))] == picture["texts"]
    assert not there


def test_blip_reads_its_lists(finished_run: Path, tmp_path: Path) -> None:
    out, there = export(finished_run, tmp_path / "out", "blip-json"), known(finished_run, 1)
    entries = [entry for file in sorted(out.glob("0*.json")) for entry in json.loads(file.read_text())]
    assert {tuple(entry) for entry in entries} == {("image", "caption")}
    texts = [(one["jpg"], text[0]) for one in there.values() for text in one["texts"]]
    assert [((out / entry["image"]).read_bytes(), entry["caption"]) for entry in entries] == texts
    with Image.open(out / entries[0]["image"]) as image:
        assert image.size == (48, 48)


def test_datacomp_finds_every_uid(finished_run: Path, tmp_path: Path) -> None:
    """As its resharder looks: a binary search of the two halves of a uid."""
    out, there = export(finished_run, tmp_path / "out", "uid-npy"), known(finished_run, 1)
    uids = np.load(out / "uids.npy")
    assert uids.dtype == np.dtype("u8,u8")
    assert [f"{a:016x}{b:016x}" for a, b in uids.tolist()] == sorted(one["uid"] for one in there.values())
    one = next(iter(there.values()))["uid"]
    wanted = np.array((int(one[:16], 16), int(one[16:], 16)), uids.dtype)
    assert uids[np.searchsorted(uids, wanted)] == wanted


def test_parquet_has_the_columns_of_img2dataset(finished_run: Path, tmp_path: Path) -> None:
    out, there = export(finished_run, tmp_path / "out", "parquet"), known(finished_run, 1)
    rows = pa.concat_tables([pq.read_table(file) for file in sorted(out.glob("*.parquet"))])
    assert {"key", "url", "caption", "status", "width", "height", "original_width", "sha256", "jpg"} <= set(
        rows.schema.names
    )
    for row, (key, picture) in zip(rows.to_pylist(), there.items(), strict=True):
        assert (row["key"], row["jpg"], row["caption"], row["status"]) == (
            key, picture["jpg"], best_of(picture["texts"]), "success",
        )  # fmt: skip
        assert [text_of(one) for one in row["captions"]] == picture["texts"]


def test_sums_are_those_of_the_files(finished_run: Path, tmp_path: Path) -> None:
    out = export(finished_run, tmp_path / "out", "webdataset")
    lines = [line.split("  ") for line in (out / "SHA256SUMS").read_text().splitlines()]
    assert [name for _, name in lines] == ["00000.tar", "00001.tar"]
    for sha256, name in lines:
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == sha256


def test_shards_of_so_many_pictures(finished_run: Path, tmp_path: Path) -> None:
    """They go over the bounds of parts, and hold what shards by parts hold, in the same order."""
    whole = members(export(finished_run, tmp_path / "whole", "webdataset"))
    out = export(finished_run, tmp_path / "out", "webdataset", "--rows-per-shard", "30")
    assert json.loads((out / "sizes.json").read_text()) == {"00000.tar": 30, "00001.tar": 30, "00002.tar": 5}
    assert list(members(out).items()) == list(whole.items())


def test_a_tar_of_odd_names_and_sizes_is_read_by_tarfile() -> None:
    from blip_pipelines.export.tar import member

    content = {f"{'k' * size}.txt": bytes(range(256)) * 9 + b"x" * size for size in (1, 50, 96)} | {"empty.txt": b""}
    archive = b"".join(piece for name, one in content.items() for piece in member(name, one)) + bytes(1024)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        found = {one.name: tar.extractfile(one) for one in tar}
        assert {name: file.read() for name, file in found.items() if file} == content
