"""Every notebook runs from top to bottom: on a finished run, on small models, on results of a small experiment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from blip_training.checkpoint.store import save_captioner, save_filter, save_vqa
from blip_training.data.tokenizer import Tokenizer
from tests.support.benchmark_files import picture
from tests.support.tiny_med import WORDS, tiny
from tests.support.tiny_vqa import tiny_vqa

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))

ASKED = ("what is in the picture ? colour it how many things", "are there red circle two people on beach")


@pytest.fixture(scope="module")
def small_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Random models of each kind and a picture, by the environment variables that notebooks read."""
    words = dict.fromkeys([*WORDS, *" ".join(ASKED).split()])
    folder, tokenizer = tmp_path_factory.mktemp("models"), Tokenizer(list(words))
    save_captioner(folder / "captioner", tiny(tokenizer), tokenizer)
    save_filter(folder / "filter", tiny(tokenizer), tokenizer)
    save_vqa(folder / "vqa", tiny_vqa(tokenizer), tokenizer)
    picture(folder / "picture.png", 0)
    names = {"CAPTIONER": "captioner", "FILTER": "filter", "VQA": "vqa", "PICTURE": "picture.png"}
    return {f"BLIP_BOOTSTRAP_{name}": str(folder / at) for name, at in names.items()}


@pytest.fixture(scope="module")
def small_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files as `blip-bootstrap experiment FILE --results PATH` writes them: two arms of three seeds, and of one."""
    folder = tmp_path_factory.mktemp("results")
    gains = {"none": 0.0, "cf": 0.25}
    rows: list[dict[str, Any]] = [
        {"arm": arm, "seed": seed, "metric": metric, "value": start + gain + seed / 100}
        for arm, gain in gains.items()
        for seed in range(3)
        for metric, start in (("cider", 1.0), ("tr1", 0.25))
    ]
    (folder / "table1.json").write_text(json.dumps(rows))
    (folder / "empty.json").write_text("[]\n")
    strict = [row | {"arm": "strict", "value": row["value"] - 0.125} for row in rows if row["arm"] == "cf"]
    (folder / "mine.json").write_text(json.dumps([*rows, *strict]))
    (folder / "mine.yaml").write_text(
        "{name: mine, question: which, arms: {none: {round: 0}, cf: {}, strict: {}}, compare: [[strict, cf]]}"
    )
    (folder / "scale.json").write_text(json.dumps([row for row in rows if row["seed"] == 0]))
    return folder


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_runs(
    path: Path,
    finished_run: Path,
    small_models: dict[str, str],
    small_results: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    monkeypatch.setenv("BLIP_BOOTSTRAP_ROOT", str(finished_run))
    monkeypatch.setenv("BLIP_BOOTSTRAP_RESULTS", str(small_results))
    for name, value in small_models.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "notebooks are kept without outputs"
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    shown = SHOWN.get(path.stem, [])
    said = "".join(str(output) for cell in notebook.cells for output in cell.get("outputs", []))
    assert all(word in said for word in shown), [word for word in shown if word not in said]


SHOWN = {
    "demo": ["nucleus", "itm", "itc", "how many things are there?", "image/png"],
    "experiments": ["1.260 ± 0.010", "+0.250", "+0.250 to +0.250", "table1", "image/png", "-0.125 to -0.125"],
}
"""What must stand in the outputs of notebooks."""
