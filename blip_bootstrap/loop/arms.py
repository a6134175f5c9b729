"""Control arms of other artifacts, which are trained once for all rounds and rules that do not change them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from blip_bootstrap.config import Section, TrainControlsConfig
from blip_bootstrap.loop.artifacts import damaged_files
from blip_bootstrap.loop.growth import begun_in
from blip_bootstrap.storage.manifest import digest_of_recipe, recipe_by_today
from blip_bootstrap.storage.run_folder import ARTIFACTS, MANIFEST, read_json
from blip_bootstrap.stores.store import fetched, is_there
from blip_pipelines.train.control_pairs import FIGURES

OF_PAIRS = ("captions", "pairs", "truth_pairs")
"""Inputs that decide about the pairs of an arm alone, which the step compares; those of `oracle` are the last one."""


def arms_elsewhere(
    root: Path, recipe: Mapping[str, Any], section: Section | None, folder: Path
) -> dict[str, list[Path]]:
    """Where other artifacts have the arms that `recipe` asks for, made of the same but perhaps of other pairs.

    Each by its name, whole ones alone, also of what is half-made; those that `folder` has already are left out.
    """
    if not isinstance(section, TrainControlsConfig):
        return {}
    wanted = [arm for arm in section.arms if not is_there(folder / arm / FIGURES)]
    found: dict[str, list[Path]] = {arm: [] for arm in wanted}
    for other in sorted((root / ARTIFACTS / str(recipe["step"])).glob("*")):
        begun = begun_in(other) if wanted and other != folder else None
        if not begun or _but_pairs(begun["recipe"], section) != _but_pairs(recipe, section):
            continue
        damaged = {name.partition("/")[0] for name in damaged_files(other, {"files": [], **begun})}
        same_truth = _truth_of(begun["recipe"]) == _truth_of(recipe)
        for arm in (one for one in wanted if one not in damaged and (same_truth or one != "oracle")):
            if is_there(other / arm / FIGURES):
                found[arm].append(fetched(other / arm))
    return {arm: places for arm, places in found.items() if places}


def _but_pairs(recipe: Mapping[str, Any], section: TrainControlsConfig) -> str:
    by_today = recipe_by_today(recipe, section)
    config = {name: value for name, value in by_today["config"].items() if name != "arms"}
    inputs = {name: of for name, of in recipe["inputs"].items() if name.rpartition("/")[2] not in OF_PAIRS}
    return digest_of_recipe({**by_today, "config": config, "inputs": inputs})


def _truth_of(recipe: Mapping[str, Any]) -> list[str]:
    return [of for name, of in recipe["inputs"].items() if name.rpartition("/")[2] == "truth_pairs"]


def with_model_and_figures(damaged: Sequence[str]) -> list[str]:
    """Damaged files of control arms, with what says that the arm is whole: so the step makes the arm's model anew."""
    found = dict.fromkeys(damaged)
    for name in damaged:
        arm, _, rest = name.partition("/")
        if rest.startswith("model/"):
            found |= dict.fromkeys([f"{arm}/model/counts.json", f"{arm}/{FIGURES}"])
    return [*found]


def seconds_of_arm(root: Path, folder: str, arm: str) -> float:
    """What making a control arm took: its part of the artifact, under `folder` of the run, that has trained it."""
    manifest = read_json(root / folder / MANIFEST) or {}
    homes = {str(one["name"]).partition("/")[0]: str(one.get("at", "")) for one in manifest.get("files", [])
             if str(one["name"]).endswith(f"/{FIGURES}") and str(one["name"]).count("/") == 1}  # fmt: skip
    if home := homes.get(arm):
        return seconds_of_arm(root, home.rpartition(f"/{arm}/")[0], arm)
    return float(manifest.get("seconds") or 0.0) / max(1, sum(not at for at in homes.values()))
