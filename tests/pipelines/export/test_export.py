"""An export that is killed, asked again, refused, or goes to a store."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from blip_bootstrap.cli.app import app
from blip_bootstrap.config import RayConfig
from blip_bootstrap.errors import AccountingError, BlipBootstrapError, InputError, NothingLeft
from blip_bootstrap.schemas.tables import CAPTIONS, IMAGES, PAIRS
from blip_bootstrap.storage.parquet import rows_to_table, write_parquet
from blip_pipelines.cluster.tally import Tally
from blip_pipelines.export.documents import documents, encode
from blip_pipelines.export.export import ShardExport, Wanted, export_round
from blip_pipelines.export.joined import ABOUT_PICTURES, batches, read_texts
from blip_pipelines.export.note import claim
from blip_pipelines.export.place import Place
from blip_pipelines.export.shards import plan_shards
from blip_pipelines.export.source import Ledger, Source
from blip_pipelines.export.uids import UID, UIDS, join_uids, parse_uids
from tests.support.moto_store import Bucket, environment, moto_server
from tests.support.two_nodes import needs_namespaces

FORMATS = ("webdataset", "hf", "parquet", "blip-json", "coco-json", "uid-npy")


def export(root: Path, out: Path | str, form: str = "webdataset", *more: str, number: str = "1") -> str:
    asked = ["export", "--root", str(root), "--round", number, "--format", form, "--out", str(out), *more]
    return CliRunner().invoke(app, asked, catch_exceptions=False).stdout


def contents(folder: Path) -> dict[str, bytes]:
    files = [one for one in folder.rglob("*") if one.is_file() and one.name != ".lock"]
    return {one.relative_to(folder).as_posix(): one.read_bytes() for one in files}


@pytest.mark.parametrize("form", FORMATS)
def test_the_same_export_has_the_same_bytes_and_is_made_once(finished_run: Path, tmp_path: Path, form: str) -> None:
    first = export(finished_run, tmp_path / "a", form)
    made = {one: one.stat().st_mtime_ns for one in (tmp_path / "a").rglob("[!.]*") if one.is_file()}
    assert export(finished_run, tmp_path / "a", form) == first
    assert {one: one.stat().st_mtime_ns for one in made} == made
    export(finished_run, tmp_path / "b", form)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


KILLED = """
import os, signal, sys
from blip_pipelines.export import {module} as format
whole, calls = format.{name}, []
def dying(place, name, batches):
    calls.append(name)
    if len(calls) == 2:
        with place.staged("half") as staged:
            staged.write_bytes(b"half a shard")
            os.kill(os.getpid(), signal.SIGKILL)
    return whole(place, name, batches)
from blip_pipelines.export import formats
import dataclasses
formats.FORMS[{form!r}] = dataclasses.replace(formats.FORMS[{form!r}], write=dying)
from blip_bootstrap.__main__ import main
main()
"""


@pytest.mark.parametrize(
    ("form", "module", "name"), [("webdataset", "tar", "write_tar"), ("coco-json", "lists", "write_coco_part")]
)
def test_a_killed_export_goes_on(finished_run: Path, tmp_path: Path, form: str, module: str, name: str) -> None:
    """The shard that was whole stays, and what was half-written is gone."""
    out = tmp_path / "out"
    code = KILLED.format(module=module, name=name, form=form)
    asked = ["export", "--root", str(finished_run), "--format", form, "--out", str(out)]
    done = subprocess.run([sys.executable, "-c", code, *asked], capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    before = {one: one.stat().st_mtime_ns for one in out.rglob("0*") if one.is_file()}
    assert before
    assert not (out / "half").exists()
    assert len(list(out.glob(".half.*.tmp"))) == 1
    export(finished_run, out, form)
    export(finished_run, tmp_path / "whole", form)
    assert contents(out) == contents(tmp_path / "whole")
    assert {one: one.stat().st_mtime_ns for one in before if one.exists()} == {
        one: time for one, time in before.items() if one.exists()
    }


def test_a_shard_that_is_lost_or_cut_is_made_again(finished_run: Path, tmp_path: Path) -> None:
    export(finished_run, tmp_path)
    whole = contents(tmp_path)
    (tmp_path / "00000.tar").unlink()
    (tmp_path / "00001.tar").write_bytes(whole["00001.tar"][:-512])
    export(finished_run, tmp_path)
    assert contents(tmp_path) == whole


def test_a_joined_list_that_is_lost_is_made_again(finished_run: Path, tmp_path: Path) -> None:
    export(finished_run, tmp_path, "coco-json")
    whole = contents(tmp_path)
    (tmp_path / "captions.json").unlink()
    export(finished_run, tmp_path, "coco-json")
    assert contents(tmp_path) == whole


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--format", "hf"), "holds an export with format webdataset and not hf; give --out a new folder"),
        (("--all",), "holds an export with all False and not True"),
        (("--round", "0"), "round 1 and not 0"),
        (("--rows-per-shard", "7"), "rows_per_shard None and not 7"),
    ],
)
def test_another_export_is_refused_where_one_is(
    finished_run: Path, tmp_path: Path, more: tuple[str, ...], said: str
) -> None:
    export(finished_run, tmp_path)
    before = contents(tmp_path)
    with pytest.raises(InputError, match=said) as refused:
        export(finished_run, tmp_path, "webdataset", *more)
    assert "\n" not in str(refused.value)
    assert contents(tmp_path) == before


def test_a_round_made_anew_since_is_told(tmp_path: Path) -> None:
    recipe = {"format": "hf", "inputs": {"images": "a"}}
    assert not claim(Place(str(tmp_path)), recipe)
    with pytest.raises(InputError, match="of other tables: the round was made anew since"):
        claim(Place(str(tmp_path)), recipe | {"inputs": {"images": "b"}})


def test_bad_input_is_one_line(finished_run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "photo.jpg").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "EXPORT").write_text("{")
    run = str(finished_run)
    for root, number, out, said in (
        (str(tmp_path / "no"), "1", "x", "no such run; give --root"),
        (run, "7", "x", "no round 7; it has 0, 1"),
        (str(tmp_path / "empty"), "0", "x", "no round 0; it has none yet"),
        (run, "1", "file", "is a file; give --out a folder"),
        (run, "1", "file/x", r"cannot be written \(Not a directory\)"),
        (run, "1", "foreign", "is not empty, and holds no export; give --out a new folder"),
        (run, "1", "damaged", r"EXPORT: damaged \("),
    ):
        with pytest.raises(InputError, match=said) as refused:
            export(Path(root), tmp_path / out, number=number)
        assert "\n" not in str(refused.value)
    own = copied(finished_run, tmp_path)
    for inside in ("images", "images/shards"):
        with pytest.raises(InputError, match="a step of a run has made what lies there"):
            export(own, own / inside)
    export(own, own / "exports" / "shards")
    assert [one.name for one in (tmp_path / "foreign").iterdir()] == ["photo.jpg"]


def copied(run: Path, tmp_path: Path) -> Path:
    shutil.copytree(run, tmp_path / "run", symlinks=True)
    return tmp_path / "run"


def test_what_is_not_whole_is_refused(finished_run: Path, tmp_path: Path) -> None:
    root = copied(finished_run, tmp_path)
    part = root / "round-01" / "pairs" / "part-00001.parquet"
    rows = pq.read_table(part)
    pq.write_table(rows.slice(0, len(rows) - 1), part)
    with pytest.raises(InputError, match="its texts are not those that the round's pairs judge"):
        export(root, tmp_path / "a")
    part.write_bytes(b"no Parquet")
    with pytest.raises(InputError, match="not a readable Parquet file"):
        export(root, tmp_path / "b")
    part.unlink()
    with pytest.raises(InputError, match="part-00001\\.parquet: its MANIFEST names it, and it is not there"):
        export(root, tmp_path / "c")
    (root / "round-01" / "pairs" / "MANIFEST.json").unlink()
    with pytest.raises(InputError, match="the pairs of round 1 are not finished; run --round 1 first"):
        export(root, tmp_path / "d")


def small_round(
    folder: Path, texts: list[dict[str, Any]], older: tuple[str, ...] = (), with_captions: bool = True, **picture: Any
) -> Source:
    """A round of one part: pictures 0.. and these texts of theirs; files lack the columns `older`."""
    keys = sorted({text["key"] for text in texts})
    pictures = [
        {"key": key, "uid": f"{at:032x}", "dataset": "d", "url": "u", "status": "success", "jpg": b"jpg", **picture}
        for at, key in enumerate(keys)
    ]
    both = [{"source": "web", "candidate": 0, "kept": True, "reason": None, "flags": [], **text} for text in texts]
    tables = [("images", IMAGES, pictures), ("pairs", PAIRS, both)] + (
        [("captions", CAPTIONS, both)] if with_captions else []
    )
    for name, table, rows in tables:
        write_parquet(folder / name / "part-00000.parquet", rows_to_table(rows, table), table)
        file = folder / name / "part-00000.parquet"
        there = pq.read_table(file)
        pq.write_table(there.drop_columns([one for one in older if one in there.schema.names]), file)
    return Source(folder / "images", folder / "pairs", folder / "captions" if with_captions else None, "itm_score")


def told_of(source: Source, every: bool = False) -> list[dict[str, Any]]:
    (part,) = source.parts()
    texts = read_texts(part, source, every)
    return [told for batch in batches(part, texts, ABOUT_PICTURES) for told in documents(batch)]


A, B = "0000000000", "0000000001"


def test_the_text_that_stands_for_a_picture_is_the_kept_one_with_the_highest_score(tmp_path: Path) -> None:
    texts: list[dict[str, Any]] = [
        {"key": A, "caption": "high but dropped", "itm_score": 0.9, "kept": False, "reason": "too_long"},
        {"key": A, "caption": "low", "itm_score": 0.5, "source": "synthetic"},
        {"key": A, "caption": "first of equals", "itm_score": 0.75, "source": "synthetic", "candidate": 1},
        {"key": A, "caption": "second of equals", "itm_score": 0.75, "source": "synthetic", "candidate": 2},
        {"key": B, "caption": "not a number", "itm_score": float("nan")},
        {"key": B, "caption": "no score", "itm_score": None, "source": "synthetic"},
        {"key": B, "caption": "not listed", "kept": False, "reason": "not_listed", "source": "synthetic",
         "candidate": 1},
    ]  # fmt: skip
    source = small_round(tmp_path, texts)
    assert [one["caption"] for one in told_of(source)] == ["first of equals", "not a number"]
    first, second = told_of(source, every=True)
    assert [one["caption"] for one in first["captions"]] == [text["caption"] for text in texts[:4]]
    assert [one["weight"] for one in first["captions"]] == [0, 1, 1, 1]
    assert first["caption"] == "first of equals"
    assert [one["caption"] for one in second["captions"]] == ["not a number", "no score"]
    assert [one["itm_score"] for one in second["captions"]] == [None, None]
    encode(second)


def test_weights_are_rule_scores_where_training_goes_by_them(tmp_path: Path) -> None:
    source = small_round(tmp_path, [{"key": A, "rule_score": score, "caption": "a"} for score in (0.25, None)][:1])
    weighted = Source(source.images, source.pairs, source.captions, "rule_score", is_weighted=True)
    assert [one["weight"] for one in told_of(weighted)[0]["captions"]] == [0.25]


def test_files_that_lack_newer_columns_are_read(tmp_path: Path) -> None:
    older = ("cut_from_chars", "rejected", "rule_score", "informativeness", "lift", "agreement", "x_robots_tag")
    source = small_round(tmp_path, [{"key": A, "caption": "a", "itm_score": 0.1}], older)
    (told,) = told_of(source)
    assert told["captions"] == [
        {"caption": "a", "source": "web", "candidate": 0, "weight": 1.0, "kept": True, "reason": None,
         "itm_score": 0.1, "itc_score": None, "logprob": None, "flags": []}
    ]  # fmt: skip


def test_every_number_of_single_precision_comes_back(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).random(2_000).astype(np.float32)
    texts = [{"key": f"{at:010d}", "caption": "a", "itm_score": float(score)} for at, score in enumerate(scores)]
    found = [told["captions"][0]["itm_score"] for told in told_of(small_round(tmp_path, texts))]
    assert np.array_equal(np.array(found, np.float32), scores)
    assert max(len(repr(one)) for one in found) <= 14


def test_a_text_without_its_picture_fails_the_export(tmp_path: Path) -> None:
    source = small_round(tmp_path, [{"key": A, "caption": "a"}, {"key": B, "caption": "b"}])
    file = source.images / "part-00000.parquet"
    pq.write_table(pq.read_table(file).slice(0, 1), file)
    with pytest.raises(InputError, match=r"1 of its pictures are not in .*part-00000.parquet"):
        told_of(source)


def test_kept_texts_are_accounted_for(tmp_path: Path) -> None:
    source = small_round(tmp_path, [{"key": A, "caption": "a"}], with_captions=False)
    for kept, error in ((2, AccountingError), (0, NothingLeft)):
        ledger = Ledger("run", 0, {"round-00/pairs": {"counts": {"rows": 3, "kept": kept}}})
        with pytest.raises(error):
            export_round(source, ledger, Place(str(tmp_path / "out")), Wanted("parquet"), RayConfig(address="none"))


def test_pictures_that_training_leaves_out_go_out_with_all_alone(tmp_path: Path) -> None:
    source = small_round(tmp_path, [{"key": A, "caption": "a"}, {"key": B, "caption": "b"}])
    source = replace(source, left_out=frozenset({B}))
    assert [told["key"] for told in told_of(source)] == [A]
    weights = {told["key"]: told["captions"][0]["weight"] for told in told_of(source, every=True)}
    assert weights == {A: 1.0, B: 0.0}
    ledger = Ledger("run", 1, {"round-01/pairs": {"counts": {"rows": 2, "kept": 2}}})
    counts = {
        every: export_round(
            source, ledger, Place(str(tmp_path / str(every))), Wanted("parquet", every, 1), RayConfig(address="none")
        )
        for every in (False, True)
    }
    assert [counts[every]["pictures"] for every in (False, True)] == [1, 2]


def test_uids_are_sorted_as_numbers_and_each_is_there_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In several files by their first bits, as of more than fit in memory; what is no uid of DataComp's is left out."""
    monkeypatch.setattr("blip_pipelines.export.uids.BUCKET_BYTES", 4_000)
    rng, place = np.random.default_rng(0), Place(str(tmp_path))
    texts = [rng.bytes(16).hex() for _ in range(3_000)] + ["f" * 32, "0" * 32, "f" * 16 + "0" * 16]
    for name, some in (("00000", texts[:2_000]), ("00001", [*texts[1_500:], "short", "g" * 32, ""])):
        place.write(f".parts/{name}.uids.bin", np.unique(parse_uids(some)).tobytes())
    _, num = join_uids(place, ["00000", "00001"], 3_503)
    found = np.load(tmp_path / UIDS)
    assert (found.dtype, num) == (UID, len(found))
    assert [f"{a:016x}{b:016x}" for a, b in found.tolist()] == sorted(texts)


def test_a_worker_and_its_items_are_pickled(finished_run: Path, tmp_path: Path) -> None:
    """As they go to Ray; a worker that does not see the folder says so."""
    source = Source(finished_run / "images", finished_run / "round-01" / "pairs", None)
    shards, recipe = list(plan_shards(source, False, None)), {"format": "parquet"}
    work, items = pickle.loads(
        pickle.dumps((partial(ShardExport, source, Place(str(tmp_path)), Wanted("parquet"), recipe), shards))
    )
    with pytest.raises(BlipBootstrapError, match="does not see this folder; put it on a shared disk"):
        work(tally=Tally())
    claim(Place(str(tmp_path)), recipe)
    tally = Tally()
    do = work(tally=tally)
    done = [one for item in items for one in do(item)]
    assert [one.name for one in done] == ["00000", "00001"]
    assert tally.total() == {"pictures": 65, "texts": 67}


def test_an_export_to_a_store_has_the_same_bytes(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with moto_server() as endpoint:
        for name, value in environment(endpoint, tmp_path / "cache").items():
            monkeypatch.setenv(name, value)
        bucket = Bucket(endpoint)
        for form in ("webdataset", "coco-json"):
            said = export(finished_run, f"s3://bucket/{form} shards", form)
            assert f"to s3://bucket/{form}" in said
            export(finished_run, tmp_path / form, form)
            names = bucket.names(f"{form} shards/")
            assert {name.partition("/")[2]: bucket[name] for name in names} == contents(tmp_path / form)
        assert export(finished_run, "s3://bucket/webdataset shards", "webdataset") == said.replace(
            "coco-json", "webdataset"
        )
        with pytest.raises(InputError, match=r"s3://bucket/webdataset.*: holds an export with format webdataset"):
            export(finished_run, "s3://bucket/webdataset shards", "hf")
        bucket["foreign/photo.jpg"] = b""
        with pytest.raises(InputError, match="s3://bucket/foreign: is not empty, and holds no export"):
            export(finished_run, "s3://bucket/foreign")


@needs_namespaces
def test_a_full_disk_is_one_line(finished_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    asked = [sys.executable, "-m", "blip_bootstrap", "export", "--root", str(finished_run), "--format", "webdataset"]
    mount = f"mount -t tmpfs -o size=64k none '{out}' && exec \"$@\""
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount, "sh", *asked, "--out", str(out)],
        capture_output=True, text=True, check=False, env=os.environ,
    )  # fmt: skip
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if "export" not in line]
    assert errors == ["error: no space left on a disk; make room, and run the same command again"], done.stderr
