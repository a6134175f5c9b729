"""`plan`: what it measures, on the user's images, on lists, and on drawn pictures."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.compute as pc
import pytest

from blip_bootstrap.config import CaptionConfig, Config, PretrainConfig, RayConfig
from blip_bootstrap.errors import CheckpointError
from blip_bootstrap.planning import duplicates, measure
from blip_bootstrap.planning.cost import plan_steps
from blip_bootstrap.planning.measure import measure_steps, of_plugged_in
from blip_bootstrap.planning.report import measure_report
from blip_bootstrap.planning.sample import drawn_sample, find_models, stored_sample, table_bytes, worded
from blip_bootstrap.schemas.tables import CAPTIONS
from blip_bootstrap.storage.parquet import parquet_files, read_parquet, write_parquet
from blip_pipelines.caption import probe
from blip_pipelines.caption.blocks import BLOCK_ROWS
from blip_pipelines.caption.probe import SampledCaptioning
from blip_pipelines.caption.step import caption_and_score
from blip_pipelines.caption.worker import CaptionWorker

Models = tuple[Path, Path]


@pytest.fixture(autouse=True)
def _fewer_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A selection of a few thousand rows is timed as one of many is."""
    monkeypatch.setattr(measure, "SELECT_ROWS", 3_000)
    monkeypatch.setattr(duplicates, "GROUPED_ROWS", 3_000)


def config_with(root: Path, models: Models, **more: Any) -> Config:
    given = {"captioner": {"checkpoint": str(models[0])}, "filter": {"checkpoint": str(models[1])}}
    caption = {"candidates": 2, "device": "cpu", "num_actors": 1, "sampler": {"max_tokens": 10}}
    stop = {"pretrain": {"optimizer": {"steps": 0}}}
    return Config.model_validate({"root": root, "caption": caption, **given, **stop, **more})


def test_a_stored_sample_has_the_pictures_and_says_what_share_was_fetched(
    tmp_path: Path, make_images: Callable[..., Path]
) -> None:
    folder = make_images(tmp_path / "images", 60, 30)
    sample = stored_sample(folder, 40, "mine")
    assert (len(sample.rows), sample.num_rows, sample.success_share) == (40, 60, 0.9)
    assert sample.size_bytes == sum(file.stat().st_size for file in parquet_files(folder))
    assert len(stored_sample(folder, 10, "mine").rows) == 10


@pytest.mark.usefixtures("registered_captioners", "registered_judges")
def test_writers_and_judges_are_told_by_themselves(tmp_path: Path, models: Models) -> None:
    writer = {"name": "w", "kind": "sure", "prompts": {"a": "b"}, "candidates": 2}
    judges = [{"name": "j", "kind": "plain"}, {"name": "w", "kind": "one"}]
    config = config_with(tmp_path, models).caption
    config = CaptionConfig.model_validate(config.model_dump() | {"writers": [writer], "judges": judges})
    actor = SampledCaptioning(str(models[0]), str(models[1]), config)
    actor.load()
    found = actor.measure(drawn_sample(tmp_path / "drawn", 8).rows, 60.0)
    assert set(found["plugged_in"]) == {"caption.writers.w", "caption.judges.j", "caption.judges.w"}
    assert min(found["plugged_in"].values()) > 0
    lines = [*of_plugged_in(dict.fromkeys(found["plugged_in"], 0.5), found["captions"], 8)]
    assert lines == [
        "caption.writers.w: 2 texts an image, 1 s an image, 2 requests, 14 prompt tokens, 8 completion tokens",
        "caption.judges.j: 5 texts an image, 2.5 s an image",
        "caption.judges.w: 5 texts an image, 2.5 s an image",
    ]


def test_a_worker_measures_what_a_worker_makes(tmp_path: Path, models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_with(tmp_path, models)
    sample = drawn_sample(tmp_path / "drawn", 24)
    actor = SampledCaptioning(str(models[0]), str(models[1]), config.caption)
    actor.load()
    found = actor.measure(sample.rows, 60.0)
    made = CaptionWorker(*models, config.caption)(sample.rows).to_pylist()
    assert [row["caption"] for row in found["captions"]] == [row["caption"] for row in made]
    assert found["images"] == 24
    assert found["decode_s"] > 0
    assert found["seconds"] > 0
    assert found["peak_bytes"] > 50_000_000
    stopped = actor.measure(sample.rows, 0.0)
    assert stopped["images"] == 12  # two batches of six: one to warm up, one that counts
    clock = itertools.count()
    monkeypatch.setattr(probe, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    # As for a GPU, whose blocks are longer than the sample: from the first block's end to the second's.
    assert actor._seconds_of_a_block(sample.rows) == 1 / BLOCK_ROWS


def test_bytes_are_those_of_whole_files_and_of_usual_words(tmp_path: Path, models: Models) -> None:
    made = CaptionWorker(*models, config_with(tmp_path, models).caption)(drawn_sample(tmp_path / "drawn", 24).rows)
    path = tmp_path / "captions" / "part-00000.parquet"
    write_parquet(path, made, CAPTIONS)
    assert 24 * table_bytes(made.to_pylist(), CAPTIONS, 24, 24) == pytest.approx(path.stat().st_size)
    rows = worded(made.to_pylist(), ["a red ball", "two dogs"])
    assert [row["caption"] for row in rows[:3]] == [made["caption"][0].as_py(), "a red ball", "two dogs"]
    web = [row["caption"] for row in rows if row["source"] == "web"]
    assert web == made.filter(pc.field("source") == "web")["caption"].to_pylist()
    assert worded(rows, []) == rows


def test_a_page_is_planned_with_every_gallery_full(tmp_path: Path, models: Models) -> None:
    config = config_with(tmp_path, models, report={"num_gallery": 5})
    images = drawn_sample(tmp_path / "drawn", 24).rows
    captions = CaptionWorker(*models, config.caption)(images).to_pylist()
    cost = measure_report(config, images, captions, tmp_path / "report")
    page = (tmp_path / "report" / "round-01" / "report.html").stat().st_size
    pictures = [len(jpg) * 4 / 3 for jpg in images["jpg"].to_pylist()]
    assert page < cost.fixed_bytes < page + 6 * 5 * max(pictures) * 1.1
    assert cost.fixed_bytes > 6 * 5 * min(pictures)


def test_models_are_the_given_the_newest_or_random_ones(tmp_path: Path, models: Models, make_model: Any) -> None:
    given = find_models(config_with(tmp_path, models), tmp_path / "scratch")
    assert (given.captioner, given.filter, given.trained) == (str(models[0]), str(models[1]), True)
    made = make_model(tmp_path / "run" / "round-02" / "captioner", 32, seed=5)
    (made / "MANIFEST.json").write_text("{}")
    model = {"vision": {"image_size": 32, "patch_size": 8, "width": 32, "depth": 1, "heads": 2}}
    text = {"tokenizer": str(models[0]), "width": 32, "depth": 1, "heads": 2, "intermediate": 64, "max_positions": 40}
    config = Config.model_validate({"root": tmp_path / "run", "pretrain": {"model": model | {"text": text}}})
    found = find_models(config, tmp_path / "scratch")
    assert (found.captioner, found.trained) == (str(made), False)
    assert (Path(found.filter) / "config.json").is_file()


@pytest.mark.ray
def test_rows_and_bytes_of_a_plan_are_those_of_the_step(
    tmp_path: Path, models: Models, make_images: Callable[..., Path], ray_config: RayConfig
) -> None:
    """The user's own images are there; each tenth was not fetched."""
    images = make_images(tmp_path / "images", 400, 200)
    config = config_with(tmp_path, models, ray=ray_config)
    said: list[str] = []
    costs, disk = measure_steps(config, 200, 60.0, said.append)
    planned: dict[str, Any] = {row["step"]: row for row in plan_steps(costs, 400, None, disk).to_pylist()}
    assert said == [f"plan: 200 images, of {tmp_path}"]
    assert list(planned) == ["start", "group pictures", "caption + score", "select", "report", "all"]
    counts = caption_and_score(tmp_path / "captions", images, *models, config.caption, ray_config)
    num_texts = int(counts["web"]) + int(counts["synthetic"])
    assert planned["caption + score"]["rows"] == num_texts == planned["select"]["rows"]
    rows = [row for file in parquet_files(tmp_path / "captions") for row in read_parquet(file).to_pylist()]
    assert planned["caption + score"]["size_bytes"] == pytest.approx(table_bytes(rows, CAPTIONS, 1, 10_000), rel=0.2)
    assert planned["caption + score"]["memory_bytes"] > 50_000_000


@pytest.mark.ray
@pytest.mark.long
def test_lists_are_fetched_and_training_is_timed(
    tmp_path: Path, models: Models, ray_config: RayConfig, rude_server: Any
) -> None:
    lines = [f"{rude_server.url(f'missing{i}' if i % 4 == 0 else f'picture{i}')}\ta dog {i}\n" for i in range(40)]
    lines = [line.replace("missing", "missing.") for line in lines]
    (tmp_path / "urls.tsv").write_text("url\tcaption\n" + "".join(lines))
    vision = {"image_size": 32, "patch_size": 8, "width": 32, "depth": 1, "heads": 2}
    text = {"tokenizer": str(models[0]), "width": 32, "depth": 1, "heads": 2, "intermediate": 64, "max_positions": 40}
    optimizer = {"steps": 1000, "batch_size": 8, "device": "cpu"}
    config = config_with(
        tmp_path / "run", models, ray=ray_config,
        download={"urls": [{"path": tmp_path / "urls.tsv"}], "allow_private_addresses": True, "num_retries": 0},
        pretrain={"model": {"vision": vision, "text": text}, "optimizer": optimizer, "itc": {"queue_size": 16}},
    )  # fmt: skip
    costs, disk = measure_steps(config, 40, 60.0, lambda line: None)
    planned: dict[str, Any] = {row["step"]: row for row in plan_steps(costs, 4_000, None, disk).to_pylist()}
    steps = ["download", "group pictures", "caption + score", "select", "pretrain", "report"]
    assert list(planned) == ["start", *steps, "all"]
    assert planned["download"]["rows"] == 4_000
    assert planned["caption + score"]["rows"] == 9_000
    assert planned["pretrain"]["seconds"] > 0
    assert planned["pretrain"]["size_bytes"] > 10_000
    assert not (tmp_path / "run").exists()


@pytest.mark.ray
def test_every_step_of_a_round_is_planned(tmp_path: Path, models: Models, ray_config: RayConfig) -> None:
    """No model, no list of URLs: the models are random, the pictures drawn, the annotated sets the user's."""
    vision = {"image_size": 32, "patch_size": 8, "width": 32, "depth": 1, "heads": 2}
    text = {"tokenizer": str(models[0]), "width": 32, "depth": 1, "heads": 2, "intermediate": 64, "max_positions": 60}
    optimizer = {"steps": 2000, "batch_size": 32, "device": "cpu", "threads": 1}
    part, no_queue = {"optimizer": optimizer}, {"itc": {"queue_size": 0}}
    lists = {name: {"path": annotated_list(tmp_path / name, 30)} for name in ("human", "held_out")}
    config = Config.model_validate(
        {
            "root": tmp_path / "run", "ray": ray_config, **lists, "captioner": part, "filter": part | no_queue,
            "pretrain": {"model": {"vision": vision, "text": text}, **part, **no_queue},
            "caption": {"device": "cpu", "num_actors": 1}, "evaluate": {"device": "cpu"},
            "controls": {"arms": ["human_only", "filter_only"], "num_parallel": 2},
        }
    )  # fmt: skip
    said: list[str] = []
    costs, disk = measure_steps(config, 24, 5.0, said.append)
    planned: dict[str, Any] = {row["step"]: row for row in plan_steps(costs, 1_000, None, disk).to_pylist()}
    assert list(planned) == [
        "start", "human", "held_out", "group pictures", "same pictures", "captioner", "filter", "caption + score",
        "filter_check", "select", "pretrain", "evaluate", "controls", "report", "all",
    ]  # fmt: skip
    assert said == ["plan: 24 images, drawn pictures; untrained models, whose captions are cut at the usual length"]
    (same,) = (cost for cost in costs if cost.step == "same pictures")
    assert 0 < same.fixed_s < planned["same pictures"]["seconds"]
    assert planned["same pictures"]["seconds"] == pytest.approx(  # one file, which one thread reads
        same.fixed_s + 1_000 * same.seconds_per_image
    )
    by_step = {cost.step: cost for cost in costs}
    caption = by_step["caption + score"]
    assert by_step["filter_check"].fixed_s == pytest.approx(caption.fixed_s + 30 * caption.seconds_per_image)
    fixed_s = {cost.step: cost.fixed_s for cost in costs}  # two arms at a time, without what goes to the disk
    assert fixed_s["controls"] == pytest.approx(fixed_s["pretrain"] + fixed_s["evaluate"])
    assert planned["controls"]["size_bytes"] > planned["pretrain"]["size_bytes"] > 10_000
    few = config.captioner.model_copy(
        update={"optimizer": config.captioner.optimizer.model_copy(update={"steps": 20, "warmup_steps": 0})}
    )
    alone = {"captioner": few, "filter": config_with(tmp_path, models).filter, "pretrain": no_steps(config.pretrain)}
    shorter, _ = measure_steps(config.model_copy(update=alone), 24, 5.0, said.append)
    assert {cost.step: cost.fixed_s for cost in shorter}["captioner"] < planned["captioner"]["seconds"]


def no_steps(config: PretrainConfig) -> PretrainConfig:
    return config.model_copy(update={"optimizer": config.optimizer.model_copy(update={"steps": 0})})


def annotated_list(path: Path, count: int) -> Path:
    """A list of `count` drawn pictures with two captions each, beside them."""
    path.mkdir()
    for row in drawn_sample(path / "drawn", count).rows.to_pylist():
        (path / f"{row['key']}.jpg").write_bytes(row["jpg"])
        line = {"image": f"{row['key']}.jpg", "captions": ["a red circle", "a circle"]}
        with (path / "list.jsonl").open("a") as file:
            file.write(f"{json.dumps(line)}\n")
    return path / "list.jsonl"


@pytest.mark.ray
def test_a_model_that_is_not_there_is_one_line(tmp_path: Path, models: Models, ray_config: RayConfig) -> None:
    config = config_with(tmp_path, (tmp_path / "none", models[1]), ray=ray_config)
    with pytest.raises(CheckpointError, match=r"none: no such file or folder"):
        measure_steps(config, 8, 1.0, lambda line: None)


def test_the_command_prints_a_table_or_json(
    tmp_path: Path, models: Models, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The costs are given, to see what is printed of them."""
    from blip_bootstrap.cli.plan import plan
    from blip_bootstrap.planning.cost import Cost

    costs = [Cost("caption + score", 2, 100, 0.5, "model", num_workers=2, unit=512)]
    monkeypatch.setattr(measure, "measure_steps", lambda *arguments: (costs, 1e9))
    plan(1_000_000, 4, as_json=True, settings=None, config=None, root=None)
    printed = json.loads(capsys.readouterr().out)
    assert (printed["images"], printed["workers"], printed["all"]["rows"]) == (1_000_000, 4, 2_000_000)
    plan(1_000_000, 4, as_json=False, settings=None, config=None, root=None)
    assert "caption + score" in capsys.readouterr().out
