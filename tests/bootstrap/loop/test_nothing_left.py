"""Runs with nothing left to go on with: one line, exit code 1, an alarm in table, page and audit, and nothing lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from blip_bootstrap.audit.alarms import alarms
from blip_bootstrap.config import Config, load_config
from blip_bootstrap.errors import InputError, NothingLeft, RunFailed
from blip_bootstrap.loop.rounds import run_rounds
from blip_bootstrap.report.summary import print_summary
from blip_bootstrap.storage.parquet import parquet_files, read_parquet

Models = tuple[Path, Path]


def configuration(folder: Path, models: Models, urls: list[str], **more: Any) -> dict[str, Any]:
    """A round with given models and no training."""
    (folder / "urls.tsv").write_text("url\tcaption\n" + "".join(f"{url}\ta dog {i}\n" for i, url in enumerate(urls)))
    download = {"urls": [{"path": str(folder / "urls.tsv")}], "allow_private_addresses": True, "num_retries": 0}
    found = {
        "root": str(folder / "run"),
        "download": download | more.pop("download", {}),
        "captioner": {"checkpoint": str(models[0])},
        "filter": {"checkpoint": str(models[1])},
        "caption": {"device": "cpu", "sampler": {"max_tokens": 10}},
        "pretrain": {"optimizer": {"steps": 0}},
        "ray": {"address": "none"},
    }
    return found | more


def load(folder: Path, content: dict[str, Any]) -> Config:
    (folder / "config.json").write_text(json.dumps(content))
    return load_config(folder / "config.json")


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "blip_bootstrap", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "160"})


def ours(config: Config) -> list[tuple[str, str]]:
    """The alarms but for those that random models and three pictures give."""
    names = ("failed_images", "failed_human", "failed_held_out", "not_scored", "no_pairs")
    return [(alarm.name, alarm.message) for alarm in alarms(config.root) if alarm.name in names]


def test_every_url_failed(tmp_path: Path, models: Models, rude_server: Any) -> None:
    urls = [rude_server.url(name) for name in ("missing.1", "missing.2", "html", "busy_always")]
    content = configuration(tmp_path, models, [*urls, ""])
    load(tmp_path, content)
    root = tmp_path / "run"
    done = command("run", "--round", "1", "--config", tmp_path / "config.json")
    failed = "(http_4xx 2, blank_url 1, http_5xx 1, not_an_image 1)"
    assert done.returncode == 1
    line = f"error: images: none of 5 URLs gave a picture {failed}; the same command tries all of them again"
    assert done.stderr.splitlines()[-1] == line
    assert "Traceback" not in done.stderr
    alarm = f"failed_images: 100.0% of the URLs cannot be used {failed}; the limit is download.max_failed_share 1"
    assert f"alarm: {alarm}" in done.stdout.splitlines()
    for page in (root / "round-01/report.html", root / "report.html"):
        assert "<strong>failed_images</strong>: 100.0% of the URLs" in page.read_text()
    audited = command("audit", "--root", root, "--name", "downloads", "--alarms")
    assert (audited.returncode, f"alarm: {alarm}" in audited.stderr) == (1, True)
    assert not (root / "round-01/captions").exists()


def test_the_same_command_fetches_again_what_failed_as_a_whole(
    tmp_path: Path, models: Models, rude_server: Any
) -> None:
    """The network was down; the list of failures is no download that could be kept."""
    config = load(tmp_path, configuration(tmp_path, models, [rude_server.url(f"busy_once?again{i}") for i in range(3)]))
    said: list[str] = []
    with pytest.raises(NothingLeft, match=r"none of 3 URLs gave a picture \(http_5xx 3\)"):
        run_rounds(config, 1, said.append)
    config = config.model_copy(update={"select": config.select.model_copy(update={"itm_threshold": 0.0})})
    assert run_rounds(config, 1, said.append)
    assert "images: nothing could be fetched the last time; trying again" in said
    assert ours(config) == []
    assert sum(rude_server.asked[f"/busy_once?again{i}"] for i in range(3)) == 6


def test_a_download_without_a_picture_replaces_none_that_has_some(
    tmp_path: Path, models: Models, rude_server: Any
) -> None:
    content = configuration(tmp_path, models, [rude_server.url(f"picture{i}.jpg") for i in range(3)])
    content["select"] = {"itm_threshold": 0.0}
    config = load(tmp_path, content)
    assert run_rounds(config, 1, print)
    (file,) = parquet_files(config.root / "images")
    before = read_parquet(file)
    config = load(tmp_path, configuration(tmp_path, models, [rude_server.url("missing.1")]))
    for _ in range(2):
        with pytest.raises(RunFailed, match=r"images: none of 1 URLs gave a picture \(http_4xx 1\); those of before"):
            run_rounds(config, 1, print)
    assert parquet_files(config.root / "images") == [file]
    assert read_parquet(file).equals(before)
    assert rude_server.asked["/missing.1"] >= 2


def test_a_share_beyond_the_limit_is_an_alarm_and_no_end(
    tmp_path: Path, models: Models, rude_server: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    urls = [rude_server.url(name) for name in ("missing.1", "picture2.jpg", "missing.3", "picture4.jpg")]
    content = configuration(tmp_path, models, urls, select={"itm_threshold": 0.0})
    config = load(tmp_path, content)
    assert run_rounds(config, 1, print)
    assert ours(config) == []
    content["download"]["max_failed_share"] = 0.5
    said: list[str] = []
    assert run_rounds(load(tmp_path, content), 1, said.append)
    assert "images: current" in said  # a limit is no part of what was downloaded
    message = "50.0% of the URLs cannot be used (http_4xx 2); the limit is download.max_failed_share 0.5"
    assert ours(config) == [("failed_images", message)]
    print_summary(config.root)
    assert f"alarm: failed_images: {message}" in capsys.readouterr().out
    assert message in (config.root / "report.html").read_text()


def test_no_caption_kept_and_nothing_to_train_on(tmp_path: Path, models: Models, rude_server: Any) -> None:
    content = configuration(tmp_path, models, [rude_server.url(f"picture{i}.jpg") for i in range(3)])
    content["select"] = {"itm_threshold": 1.0}
    config = load(tmp_path, content)
    told = r"round-01/pairs: none of 6 texts was kept \(.*below_threshold [3-6].*no pair to give out"
    with pytest.raises(NothingLeft, match=told):
        run_rounds(config, 1, print)
    assert [name for name, _ in ours(config)] == ["no_pairs"]
    assert "<strong>no_pairs</strong>" in (config.root / "round-01/report.html").read_text()
    captions = (config.root / "round-01/captions/MANIFEST.json").stat().st_mtime_ns
    content["select"] = {"itm_threshold": 0.0}
    assert run_rounds(load(tmp_path, content), 1, print)  # what was paid for is there, and is used
    assert (config.root / "round-01/captions/MANIFEST.json").stat().st_mtime_ns == captions
    assert ours(config) == []


def test_no_picture_that_the_models_can_read(tmp_path: Path, models: Models, rude_server: Any) -> None:
    config = load(tmp_path, configuration(tmp_path, models, [rude_server.url(f"picture{i}.jpg") for i in range(3)]))
    with pytest.raises(NothingLeft):
        damage_pictures_then_run(config)
    assert "a picture that cannot be read" in (config.root / "round-01/report.html").read_text()
    assert [name for name, _ in ours(config)] == ["not_scored", "no_pairs"]


def damage_pictures_then_run(config: Config) -> None:
    from blip_bootstrap.loop.rounds import run_download
    from blip_bootstrap.schemas.tables import IMAGES
    from blip_bootstrap.storage.parquet import rows_to_table, write_parquet

    run_download(config, print)
    (part,) = parquet_files(config.root / "images")
    size = part.stat().st_size
    rows = [row | {"jpg": b"damaged"} for row in read_parquet(part).to_pylist()]
    write_parquet(part, rows_to_table(rows, IMAGES), IMAGES)
    manifest = part.with_name("MANIFEST.json")
    told = json.loads(manifest.read_text().replace(f'"bytes": {size}', f'"bytes": {part.stat().st_size}'))
    del told["check"], told["checksum"]  # as an earlier version left it
    manifest.write_text(json.dumps(told))
    run_rounds(config, 1, print)


@pytest.mark.parametrize("captions", [[""] * 3, ["  ", "", "\u3000"]])
def test_round_0_without_any_text_and_without_a_human_set(
    tmp_path: Path, models: Models, rude_server: Any, captions: list[str]
) -> None:
    content = configuration(tmp_path, models, [rude_server.url(f"picture{i}.jpg") for i in range(3)])
    rows = [f"{rude_server.url(f'picture{i}.jpg')}\t{text}\n" for i, text in enumerate(captions)]
    (tmp_path / "urls.tsv").write_text("url\tcaption\n" + "".join(rows))
    model = {"text": {"tokenizer": str(models[0])}}
    content["pretrain"] = {"optimizer": {"steps": 5}, "model": model}
    told = r"round-00/pairs: none of 3 texts was kept \(empty_text 3\), so there is no pair to train on, and"
    with pytest.raises(NothingLeft, match=told):
        run_rounds(load(tmp_path, content), 0, print)


def test_a_human_set_whose_pictures_come_later_is_read_again(tmp_path: Path, models: Models, rude_server: Any) -> None:
    from blip_bootstrap.config import AnnotatedSet
    from blip_pipelines.ingest.annotated import ingest_annotated
    from tests.support.tiny_pipeline import encode

    (tmp_path / "human.jsonl").write_text('{"image": "a.jpg", "captions": ["x"]}\n')
    out = tmp_path / "out"
    out.mkdir()
    config = AnnotatedSet(path=tmp_path / "human.jsonl")
    with pytest.raises(InputError, match="none of 1 rows has a readable picture"):
        ingest_annotated(out, config.path, config)
    (tmp_path / "a.jpg").write_bytes(encode(1))
    assert ingest_annotated(out, config.path, config)["success"] == 1


def test_a_human_set_beyond_its_limit_is_an_alarm(tmp_path: Path, models: Models, rude_server: Any) -> None:
    from tests.support.tiny_pipeline import encode

    (tmp_path / "a.jpg").write_bytes(encode(1))
    lines = [json.dumps({"image": name, "captions": ["x"]}) for name in ("a.jpg", "b.jpg", "c.jpg")]
    (tmp_path / "human.jsonl").write_text("\n".join(lines))
    content = configuration(tmp_path, models, [rude_server.url(f"picture{i}.jpg") for i in range(3)])
    content |= {"select": {"itm_threshold": 0.0}}
    content["human"] = {"path": str(tmp_path / "human.jsonl"), "max_failed_share": 0.5}
    config = load(tmp_path, content)
    assert run_rounds(config, 1, print)
    message = "66.7% of the human-annotated pictures cannot be used (other 2); the limit is human.max_failed_share 0.5"
    assert ours(config) == [("failed_human", message)]
