"""What is forgotten goes from borrowed, half-made and unused artifacts, and what was decided beside it is stale."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from blip_bootstrap.storage.run_folder import read_json
from blip_bootstrap.withdrawal.asked import asked
from blip_bootstrap.withdrawal.forget import plan_withdrawal
from tests.support.forgetting import GONE, KEYS, TEXTS, forgotten, holding, is_whole, no_gap
from tests.support.small_world_runs import SmallRuns, manifest_of, rows_of
from tests.support.tiny_pipeline import encode


def test_borrowed_parts_and_artifacts_that_nothing_points_to(root: Path, runs: SmallRuns) -> None:
    """The list has grown, and a setting was another one for a while."""
    rows = [line.split("\t") for line in (runs.given / "web.tsv").read_text().splitlines()[1:]]
    try:
        runs.run(root, 1, "select.itm_threshold=0.2")
        runs.write_list([*((url, text) for url, text in rows), ("http://web/77.jpg", "new")])
        runs.run(root, 1)
        (home,) = {one["at"].split("/")[2] for one in manifest_of(root, "images")["files"] if "at" in one}
        assert not (root / "images").resolve().name.startswith(home)
        wanted = [*(one.encode() for one in (*GONE, *TEXTS))]
        wanted += [row["jpg"] for row in rows_of(root, "images") if row["key"] in KEYS]
        forgotten(root, *GONE)
        assert holding(root, wanted) == []
        assert is_whole(root)
        assert manifest_of(root, "images")["counts"]["withdrawn"] == 2
        said = runs.run(root, 1)
        assert not [what for what in runs.paid if what[0] == "fetch"]
        assert "images: current" in said
        assert no_gap(root)
    finally:
        runs.write_list([(url, text) for url, text in rows])


def test_what_is_half_made_is_without_it_and_goes_on(runs: SmallRuns, tmp_path: Path) -> None:
    """A download whose second part is not fetched yet, and captions of one block."""
    runs.dead.clear()
    root = tmp_path / "run"
    shutil.copytree(runs.folder / "first", root, symlinks=True)
    images, captions = (root / "images").resolve(), (root / "round-01/captions").resolve()
    for folder in (images, captions):
        manifest = read_json(folder / "MANIFEST.json")
        note = {"name": manifest["name"], "recipe": manifest["recipe"]}
        (folder / ".recipe.json").write_text(json.dumps(note))
        (folder / "MANIFEST.json").unlink()
    (images / "part-00001.parquet").unlink()
    blocks = captions / ".blocks"
    blocks.mkdir()
    shutil.copy(captions / "part-00000.parquet", blocks / "part-00000-000000.parquet")
    forgotten(root, *GONE)
    assert holding(root, [one.encode() for one in (*GONE, *TEXTS)]) == []
    runs.run(root, 0)
    fetched = {what for kind, what in runs.paid if kind == "fetch"}
    assert len(fetched) == 4, "of six rows one is blank, one is withdrawn"
    assert GONE[1] not in fetched
    assert manifest_of(root, "images")["counts"]["withdrawn"] == 2


def test_what_was_decided_beside_it_is_stale(tmp_path: Path, runs: SmallRuns) -> None:
    """References, a rule by ranks, the first of a group; the last row that goes is none of these."""
    rows = [line.split("\t") for line in (runs.given / "web.tsv").read_text().splitlines()[1:]]
    before = (runs.given / "web.tsv").read_text()
    runs.bodies["http://mirror.org/2.jpg"] = encode(0)
    given = ("caption.references=2", "select.variety=1")
    try:
        runs.write_list([*((url, text) for url, text in rows), ("http://mirror.org/2.jpg", "same")])
        root = tmp_path / "run"
        runs.run(root, 1, *given)
        assert _decided(root, "http://web/11.jpg") == {"round-01/pairs": "decided"}
        assert _decided(root, "http://web/0.jpg") == {
            "round-01/captions": "scored", "round-01/pairs": "decided", "groups": "grouped",
        }  # fmt: skip
        forgotten(root, "http://web/0.jpg")
        said = runs.run(root, 1, *given)
        assert any(line.startswith("groups: making it anew, it was grouped around") for line in said)
        assert "round-01/captions: caption_and_score" in said
        runs.dead.add("http://web/0.jpg")
        runs.run(tmp_path / "other", 1, *given)
        for place in ("groups", "round-00/pairs", "round-01/captions", "round-01/pairs"):
            assert rows_of(root, place) == rows_of(tmp_path / "other", place)
    finally:
        runs.dead.clear()
        (runs.given / "web.tsv").write_text(before)


def _decided(root: Path, *urls: str) -> dict[str, str]:
    """What would be stale without having been trained on these, by the first word of why."""
    stale = plan_withdrawal(root, asked(urls))[0].receipt["stale"]
    whys = {one["name"]: one["why"].split(" ")[0] for one in stale}
    return {name: why for name, why in whys.items() if why not in ("trained", "made")}
