"""Recipes of runs that people have stay what they are; `tests/fixtures/run_before_rooms.tar.xz` is such a run."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from blip_bootstrap.config import DownloadConfig, PretrainConfig, Section, TrainControlsConfig, load_config
from blip_bootstrap.config.inputs import FIRST_AGENT
from blip_bootstrap.errors import InputError
from blip_bootstrap.loop.layout import Artifact, Layout
from blip_bootstrap.loop.whole import manifest_in
from blip_bootstrap.storage.manifest import digest_of_recipe, recipe_by_today, recipe_of
from blip_bootstrap.storage.run_folder import MANIFEST, TRAINED, manifests, read_json

FIXTURE = Path(__file__).parents[2] / "fixtures" / "run_before_rooms.tar.xz"


def test_digests_of_a_run_made_before_follow_from_its_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tarfile.open(FIXTURE) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    config = load_config(Path("config.yaml"))
    artifacts = [one for number in (0, 1) for one in vars(Layout(config, number)).values() if isinstance(one, Artifact)]
    sections = {one.name: one.section for one in artifacts if one.section}
    made = manifests(config.root)
    assert len(made) == 18
    pages = (".html", ".json")  # they follow from what they show, and have no section
    for manifest in (one for one in made if not one["name"].endswith(pages)):
        recipe, section = manifest["recipe"], sections.get(manifest["name"])
        today = recipe_of(recipe["step"], section, recipe["inputs"])
        if manifest["name"] != "images":  # whose recipes held time-out and retries once
            assert digest_of_recipe(today) == manifest["digest"], manifest["name"]
        assert recipe_by_today(recipe, section) == today, manifest["name"]


def by_today(old: Section, new: Section, *lacking: str) -> bool:
    """Whether a recipe of `old`, made when it had no settings `lacking`, counts as one of `new`."""
    recipe = recipe_of("step", old, {})
    for name in lacking:
        *parents, last = name.split(".")
        settings = recipe["config"]
        for parent in parents:
            settings = settings[parent]
        del settings[last]
    return recipe_by_today(recipe, new) == recipe_of("step", new, {})


def test_a_setting_that_is_idle_beside_another_makes_nothing_anew() -> None:
    none, crop = PretrainConfig(augment="none"), PretrainConfig(augment="crop")
    assert by_today(none, none, "crop_area")
    assert by_today(none, none.model_copy(update={"crop_area": 0.7}))
    assert not by_today(crop, crop, "crop_area")
    assert not by_today(crop, crop.model_copy(update={"crop_area": 0.7}))
    assert not by_today(crop, none, "crop_area")
    assert not by_today(none, crop, "crop_area")


def test_it_is_idle_in_a_section_within_another_too() -> None:
    config = load_config(None, ["controls.arms=[human_only]", "pretrain.augment=none"])
    controls = TrainControlsConfig.of(config)
    assert by_today(controls, controls, "pretrain.crop_area")


def test_the_user_agent_counts_as_that_of_the_first_releases() -> None:
    assert by_today(DownloadConfig(), DownloadConfig(user_agent="another"))
    assert recipe_of("download", DownloadConfig(), {})["config"]["user_agent"] == FIRST_AGENT


def test_the_number_of_workers_makes_no_training_anew() -> None:
    many = PretrainConfig.model_validate({"num_workers": 8, "min_workers": 2, "optimizer": {"stall_timeout_s": 60}})
    assert recipe_of("pretrain", many, {}) == recipe_of("pretrain", PretrainConfig(), {})
    assert recipe_of("pretrain", many, {})["config"]["num_workers"] == 1


@pytest.mark.parametrize("step", ["pretrain", "finetune_filter", "select_pairs"])
def test_who_reads_a_damaged_manifest_of_a_trained_model_is_not_told_to_delete_it_first(
    tmp_path: Path, step: str
) -> None:
    home = tmp_path / "artifacts" / step / "0123456789abcdef"
    home.mkdir(parents=True)
    (home / MANIFEST).write_text('{"recipe"')
    (tmp_path / "round-00").mkdir()
    (tmp_path / "round-00" / "it").symlink_to(home)
    told = rf"MANIFEST\.json: .*; {'put it back' if step in TRAINED else 'delete'}"
    with pytest.raises(InputError, match=told):
        read_json(tmp_path / "round-00" / "it" / MANIFEST)
    with pytest.raises(InputError, match=told):
        manifest_in(home)
