"""Several captioners and filters and a second scorer in one caption step."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from blip_bootstrap.config import CaptionConfig, Config, RayConfig, SelectConfig
from blip_bootstrap.errors import CheckpointError
from blip_bootstrap.select.pairs import select_pairs
from blip_bootstrap.storage.manifest import recipe_of
from blip_bootstrap.storage.parquet import parquet_files, read_parquet
from blip_pipelines.caption.step import caption_and_score
from blip_pipelines.caption.worker import CaptionWorker
from blip_pipelines.scoring.sources import distinct_names, name_of_model
from blip_training.data.decode import decode_image
from blip_training.evaluate.clip_scorer import ClipScorer
from tests.support.tiny_scorers import save_clip

Models = tuple[Path, Path]
CONFIG = CaptionConfig(candidates=2, device="cpu", seed=7, batch_size=8)


@pytest.fixture(scope="module")
def more(tmp_path_factory: pytest.TempPathFactory, make_model: Callable[..., Path]) -> Models:
    """A second captioner and a second filter, at 40 and 24 px."""
    folder = tmp_path_factory.mktemp("more")
    return make_model(folder / "captioner", 40, seed=2), make_model(folder / "filter", 24, seed=3)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, make_images: Callable[..., Path]) -> Path:
    return make_images(tmp_path_factory.mktemp("images"), 20, 20, damaged=(3,))


@pytest.fixture(scope="module")
def rows(images: Path) -> pa.Table:
    return read_parquet(images / "part-00000.parquet")


def config_with(**settings: Any) -> CaptionConfig:
    return CaptionConfig.model_validate(CONFIG.model_dump() | settings)


def by_text(table: pa.Table) -> dict[tuple[str, str, int], dict[str, Any]]:
    return {(row["key"], row["source"], row["candidate"]): row for row in table.to_pylist()}


def test_each_captioner_writes_its_candidates_and_each_row_says_which(
    rows: pa.Table, models: Models, more: Models
) -> None:
    both = by_text(CaptionWorker(*models, config_with(captioners=[str(more[0])]))(rows))
    alone = by_text(CaptionWorker(*models, CONFIG)(rows))
    # Agreement is with the texts of all captioners.
    first_two = {key: row | {"agreement": alone[key]["agreement"]} for key, row in both.items() if key[2] < 2}
    assert first_two.keys() == alone.keys()
    for key, row in first_two.items():  # the last digits of a score depend on how many texts are read at a time
        scores = [name for name, value in row.items() if isinstance(value, float)]
        assert [row[name] for name in scores] == pytest.approx([alone[key][name] for name in scores], abs=1e-4)
        assert row | dict.fromkeys(scores) == alone[key] | dict.fromkeys(scores)
    names = {row["candidate"]: row["captioner"] for row in both.values() if row["source"] == "synthetic"}
    first, second = name_of_model(models[0]), name_of_model(more[0])
    assert names == {0: first, 1: first, 2: second, 3: second}
    assert {row["captioner"] for row in both.values() if row["source"] == "web"} == {None}
    other = by_text(CaptionWorker(more[0], models[1], config_with(candidates=4))(rows))
    for key, row in both.items():
        if key[2] >= 2:
            assert (row["caption"], row["seed"]) == (other[key]["caption"], other[key]["seed"])


@pytest.mark.parametrize("combine", ["mean", "min"])
def test_filters_are_combined_and_their_own_scores_kept(
    rows: pa.Table, models: Models, more: Models, combine: str
) -> None:
    table = CaptionWorker(*models, config_with(filters=[str(more[1])], combine=combine))(rows)
    parts = [by_text(CaptionWorker(models[0], filter, CONFIG)(rows)) for filter in (models[1], more[1])]
    how = np.mean if combine == "mean" else np.min
    num_scored = 0
    for key, row in by_text(table).items():
        for score in ("itm", "itc"):
            of_each = [part[key][f"{score}_score"] for part in parts]
            if of_each[0] is None:
                assert (row[f"{score}_score"], row[f"{score}_scores"]) == (None, None)
                continue
            assert row[f"{score}_scores"] == pytest.approx(of_each, abs=1e-6)
            assert row[f"{score}_score"] == pytest.approx(how(of_each), abs=1e-6)
            num_scored += 1
    assert num_scored > 80
    assert {row["itm_scores"] for row in parts[0].values()} == {None}


def test_a_filter_without_itc_has_no_say_in_it(rows: pa.Table, models: Models, more: Models, tmp_path: Path) -> None:
    from blip_training.checkpoint.store import load_med, save_med

    med, tokenizer = load_med(more[1])
    med.capabilities = frozenset({"match"})
    save_med(tmp_path / "itm_only", med, tokenizer)
    table = CaptionWorker(*models, config_with(filters=[str(tmp_path / "itm_only")]))(rows.slice(0, 2))
    for row in table.to_pylist():
        assert row["itc_scores"] == [pytest.approx(row["itc_score"]), None]
        assert row["itm_scores"][0] != row["itm_scores"][1]


def test_every_model_encodes_each_image_once(rows: pa.Table, models: Models, more: Models) -> None:
    """Four captioners and filters, of which one plays both parts."""
    config = config_with(captioners=[str(models[1])], filters=[str(more[1]), str(more[0])])
    worker = CaptionWorker(*models, config)
    seen: dict[str, int] = {}
    assert len(worker.models.all) == 4

    def counting(name: str, encode: Callable[..., Any]) -> Callable[..., Any]:
        def count(pixels: torch.Tensor) -> Any:
            seen[name] = seen.get(name, 0) + len(pixels)
            return encode(pixels)

        return count

    for model in worker.models.all:
        model.med.encode_image = counting(model.name, model.med.encode_image)  # type: ignore[method-assign]
    worker(rows)
    assert list(seen.values()) == [17] * 4


def test_the_second_score_is_the_scorers(rows: pa.Table, models: Models, tmp_path: Path) -> None:
    folder = save_clip(tmp_path / "clip")
    table = CaptionWorker(*models, config_with(scorer=str(folder)))(rows)
    scorer = ClipScorer(folder)
    pictures = {row["key"]: row["jpg"] for row in rows.to_pylist()}
    num_scored = 0
    for row in table.to_pylist():
        if row["itm_score"] is None:
            assert row["clip_score"] is None
            continue
        pixels = [scorer.to_pixels(decode_image(pictures[row["key"]], "test"))]
        with torch.inference_mode():
            expected = scorer.score(pixels, [row["caption"]], torch.tensor([0]))
        assert row["clip_score"] == pytest.approx(expected[0], abs=1e-5)
        num_scored += 1
    assert num_scored > 40


def test_metadata_and_the_recipe_name_every_model(rows: pa.Table, models: Models, more: Models, tmp_path: Path) -> None:
    scorer = save_clip(tmp_path / "clip")
    config = config_with(captioners=[str(more[0])], filters=[str(more[1])], combine="min", scorer=str(scorer))
    metadata = CaptionWorker(*models, config).metadata
    assert json.loads(metadata["captioners"]) == [str(models[0]), str(more[0])]
    assert json.loads(metadata["filters"]) == [str(models[1]), str(more[1])]
    assert (metadata["combine"], metadata["scorer"]) == ("min", str(scorer))
    recipe = recipe_of("caption_and_score", config, {})["config"]
    assert [len(digest) for digest in (*recipe["captioners"], *recipe["filters"], recipe["scorer"])] == [64] * 3
    (scorer / "config.json").write_text((scorer / "config.json").read_text() + " ")
    assert recipe_of("caption_and_score", config, {})["config"]["scorer"] != recipe["scorer"]
    hub = Config.model_validate({"caption": {"filters": ["some/model"]}}).caption
    assert recipe_of("caption_and_score", hub, {})["config"]["filters"] == ["some/model"]


def test_names_that_are_alike_are_told_apart() -> None:
    assert distinct_names(["/a/runs/round-01/captioner", "Salesforce/blip"]) == [
        "round-01/captioner",
        "Salesforce/blip",
    ]
    assert distinct_names(["/a/runs/captioner", "/b/runs/captioner"]) == ["/a/runs/captioner", "/b/runs/captioner"]


def test_a_model_that_lacks_its_part_is_refused(models: Models, more: Models, tmp_path: Path) -> None:
    from blip_training.checkpoint.store import load_med, save_captioner

    save_captioner(tmp_path / "captioner", *load_med(more[0]))
    with pytest.raises(CheckpointError, match="captioner cannot match: its checkpoint holds weights for decode only"):
        CaptionWorker(*models, config_with(filters=[str(tmp_path / "captioner")]))


@pytest.mark.ray
def test_the_step_runs_with_relative_folders_and_blip2s_rule_selects_from_it(
    tmp_path: Path, images: Path, models: Models, more: Models, ray_config: RayConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_clip(tmp_path / "clip")
    (tmp_path / "second").symlink_to(more[0])
    monkeypatch.chdir(tmp_path)
    config = config_with(captioners=["second"], filters=[str(more[1])], scorer="clip", candidates=5, num_actors=1)
    counts = caption_and_score(tmp_path / "captions", images, *models, config, ray_config)
    assert (counts["images"], counts["synthetic"]) == (18, 170)
    rule = SelectConfig(strategy="top_k", top_k=2, score="clip", itm_threshold=0.0, drop_flagged=False)
    assert select_pairs(tmp_path / "pairs", tmp_path / "captions", config=rule)["kept"] == 34
    pairs = [row for file in parquet_files(tmp_path / "pairs") for row in read_parquet(file).to_pylist()]
    captions = by_text(pa.concat_tables(read_parquet(file) for file in parquet_files(tmp_path / "captions")))
    for key in {row["key"] for row in pairs if row["kept"]}:
        of_image = [row for row in pairs if row["key"] == key and row["reason"] in (None, "not_selected")]
        score = {id(row): captions[key, row["source"], row["candidate"]]["clip_score"] for row in of_image}
        kept = [score[id(row)] for row in of_image if row["kept"]]
        assert sorted(kept) == sorted(score.values())[-2:]
