from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import pytest

from blip_bootstrap.config import Config, DownloadConfig, FinetuneConfig, HardTextsConfig, Section, load_config
from blip_bootstrap.errors import ConfigError, InputError, RunFailed
from blip_bootstrap.loop import rounds
from blip_bootstrap.loop.check import check_config
from blip_bootstrap.loop.layout import Artifact, Layout
from blip_bootstrap.loop.maker import Maker
from blip_bootstrap.loop.whole import read_manifest
from blip_bootstrap.schemas.tables import PAIRS
from blip_bootstrap.settings.marks import Later
from blip_bootstrap.storage.lock import locked
from blip_bootstrap.storage.manifest import digest_of_recipe, recipe_of
from blip_bootstrap.storage.parquet import rows_to_table, write_parquet
from blip_bootstrap.storage.run_folder import with_checksum
from blip_training.watch.trackers import PACKAGES
from tests.support.other_process import locked_elsewhere


class Recorder:
    """A step that counts its calls and copies its input's text; and what the Maker said."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.said: list[str] = []

    def copy_text(self, out: Path, *inputs: Path, config: object = None) -> dict[str, int]:
        self.calls.append(json.loads((out / ".recipe.json").read_text())["name"])
        (out / "text").write_text("".join(p.read_text() if p.is_file() else (p / "text").read_text() for p in inputs))
        return {"inputs": len(inputs)}


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def chain(tmp_path: Path, recorder: Recorder, *settings: str) -> Artifact:
    """Two artifacts in a row, the first from a file: caption's section, then select's."""
    config = load_config(None, settings, root=tmp_path / "run")
    make = Maker(config, recorder.said.append)
    source = Artifact("list", tmp_path / "list.txt", given=True)
    first = make(Artifact("captions", config.root / "captions", config.caption), recorder.copy_text, source)
    second = make(Artifact("pairs", config.root / "pairs", config.select), recorder.copy_text, first)
    assert second
    return second


def test_what_is_current_is_skipped_and_a_change_makes_only_what_follows(tmp_path: Path, recorder: Recorder) -> None:
    (tmp_path / "list.txt").write_text("one")
    pairs = chain(tmp_path, recorder)
    chain(tmp_path, recorder)
    assert recorder.calls == ["captions", "pairs"]
    assert recorder.said[-2:] == ["captions: current", "pairs: current"]
    chain(tmp_path, recorder, "select.itm_threshold=0.6")
    assert recorder.calls == ["captions", "pairs", "pairs"]
    assert "pairs: making it anew, because of itm_threshold 0.5 -> 0.6; the one before stays" in recorder.said
    (tmp_path / "list.txt").write_text("two")
    chain(tmp_path, recorder, "select.itm_threshold=0.6")
    assert recorder.calls[3:] == ["captions", "pairs"]
    assert (Path(pairs.path) / "text").read_text() == "two"


def test_a_speed_setting_makes_nothing_anew(tmp_path: Path, recorder: Recorder) -> None:
    (tmp_path / "list.txt").write_text("one")
    chain(tmp_path, recorder)
    chain(tmp_path, recorder, "caption.batch_size=7", "caption.num_actors=3", "caption.cpus_per_actor=.5")
    assert recorder.calls == ["captions", "pairs"]


def test_a_later_setting_counts_only_where_it_is_not_its_default() -> None:
    class Older(Section):
        top_k: int = 1

    class Younger(Older):
        min_words: Annotated[int, Later()] = 0

    older = recipe_of("select", Older(), {})
    assert recipe_of("select", Younger(), {}) == older
    assert recipe_of("select", Younger(min_words=3), {})["config"] == {"top_k": 1, "min_words": 3}

    class Lists(Section):
        urls: tuple[Older, ...]

    for section, expected in ((Older(), {"top_k": 1}), (Younger(min_words=3), {"top_k": 1, "min_words": 3})):
        assert recipe_of("download", Lists(urls=(section,)), {})["config"] == {"urls": [expected]}
    lists = load_config(None, ["download.urls=[{path: a.tsv}]"]).download
    assert set(recipe_of("download", lists, {})["config"]["urls"][0]) == {
        "path", "dataset", "url_column", "caption_column", "url_prefix", "serve", "serve_port",
    }  # fmt: skip


def test_hard_texts_count_only_where_a_share_is_set() -> None:
    off, on = FinetuneConfig(), FinetuneConfig(hard_texts=HardTextsConfig(near=0.5))
    assert "hard_texts" not in recipe_of("finetune_filter", off, {})["config"]
    explicit = FinetuneConfig(hard_texts=HardTextsConfig(near=0.0))
    assert recipe_of("finetune_filter", explicit, {}) == recipe_of("finetune_filter", off, {})
    assert recipe_of("finetune_filter", on, {})["config"]["hard_texts"]["near"] == 0.5


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_filter_is_made_from_the_captioner_only_where_it_reads_its_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    made: dict[str, list[str]] = {}

    class NotingMaker:
        def __init__(self, *inputs: object) -> None:
            """Makes nothing."""
            self.settled: set[str] = set()

        def __call__(self, output: Artifact | None, step: object, *inputs: Artifact | None) -> None:
            if output:
                made[output.name] = [one.name for one in inputs if one]

    monkeypatch.setattr(rounds, "Maker", NotingMaker)
    for shortfall in ("no_pictures", "no_pairs"):
        monkeypatch.setattr(rounds, shortfall, lambda counts: "")
    settings = ["human.path=human.jsonl", f"filter.hard_texts.captioner={share}"]
    rounds.run_round(load_config(None, settings, root=tmp_path), 1, print)
    names = ["round-00/model", "human"]
    assert made["round-01/captioner"] == names
    assert made["round-01/filter"] == names + ["round-01/captioner"] * (share > 0)


@pytest.mark.parametrize(
    ("setting", "mistake"),
    [
        ("captioner.hard_texts.near=0.5", "captioner.hard_texts: a captioner learns from right texts alone"),
        ("filter.prompt=a photo of", "filter.prompt: 'a photo of', the captioner's is 'a picture of'"),
    ],
)
def test_hard_texts_are_of_the_filter_and_begin_as_its_captioner_writes(
    tmp_path: Path, setting: str, mistake: str
) -> None:
    (tmp_path / "urls.tsv").write_text("url\tcaption\n")
    (tmp_path / "human.jsonl").write_text("")
    given = [f"download.urls=[{{path: {tmp_path / 'urls.tsv'}}}]", f"human.path={tmp_path / 'human.jsonl'}"]
    asked = [*given, "filter.hard_texts.captioner=0.5"]
    assert check_config(load_config(None, asked), 1) == []
    found = check_config(load_config(None, [*asked, setting]), 1)
    assert [line.startswith(mistake) for line in found] == [True]


def test_a_tracker_that_is_not_installed_is_told_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PACKAGES, "trackio", "a_package_that_nobody_has")
    (tmp_path / "urls.tsv").write_text("url\tcaption\n")
    (tmp_path / "human.jsonl").write_text("")
    given = [f"download.urls=[{{path: {tmp_path / 'urls.tsv'}}}]", f"human.path={tmp_path / 'human.jsonl'}"]
    asked = [*given, "filter.optimizer.trackers=[trackio]"]
    (told,) = check_config(load_config(None, asked), 1)
    assert told.startswith("filter.optimizer.trackers: trackio needs the package a_package_that_nobody_has; install it")
    assert check_config(load_config(None, asked), 0) == [], "round 0 has no filter"
    nothing = [*given, "pretrain.optimizer.trackers=[trackio]", "pretrain.optimizer.steps=0"]
    given_models = [f"{name}.checkpoint=org/{name}" for name in ("captioner", "filter")]
    assert check_config(load_config(None, [*nothing, *given_models]), 1) == [], "nothing is trained"


def test_a_given_filter_is_trained_on_no_hard_texts() -> None:
    with pytest.raises(ConfigError, match="hard_texts are of fine-tuning"):
        load_config(None, ["filter.checkpoint=org/itm", "filter.hard_texts.swapped=0.5"])


def test_how_the_fetcher_names_itself_makes_no_download_anew(tmp_path: Path) -> None:
    """Nor does the new default of it: runs of the first releases, whole or half-made, stay current."""
    said: list[str] = []
    made: list[str] = []

    def download(out: Path, config: DownloadConfig) -> dict[str, int]:
        made.append(config.user_agent)
        (out / "part").write_text("x")
        return {"rows": 1, "success": 1}

    def run(**settings: object) -> None:
        config = DownloadConfig.model_validate(settings)
        Maker(Config(root=tmp_path), said.append)(Artifact("images", tmp_path / "images", config), download)

    first = "Mozilla/5.0 (compatible; blip-bootstrap; +https://github.com/rom1504/img2dataset)"
    recipe = recipe_of("download", DownloadConfig(), {})
    assert recipe["config"]["user_agent"] == first  # so that a half-made download's place is the same, too
    assert recipe_of("download", DownloadConfig(user_agent="other/1", contact="me"), {}) == recipe
    run()
    run(user_agent="other/1")
    run(contact="me@lab.example", max_failed_share=0.5, use_proxies=False)
    assert len(made) == 1
    recipe_of_before(tmp_path / "images", user_agent="my-bot/2")
    run()
    assert said[-1] == "images: current"
    recipe_of_before(tmp_path / "images", timeout_s=99.0, num_retries=7)
    run()
    assert said[-1] == "images: current"
    recipe_of_before(tmp_path / "images", max_bytes=99)
    run()
    assert len(made) == 2
    assert "images: making it anew, because of max_bytes 99 -> 50000000; the one before stays" in said


def recipe_of_before(folder: Path, **settings: object) -> None:
    """Let the manifest say that these settings counted when the folder was made."""
    path = folder / "MANIFEST.json"
    manifest = json.loads(path.read_text())
    manifest["recipe"]["config"] |= settings
    path.write_text(json.dumps(with_checksum(manifest | {"digest": digest_of_recipe(manifest["recipe"])})))


def test_the_same_content_made_again_leaves_what_follows_current(tmp_path: Path, recorder: Recorder) -> None:
    (tmp_path / "list.txt").write_text("one")
    chain(tmp_path, recorder)
    chain(tmp_path, recorder, "caption.candidates=2")
    assert recorder.calls == ["captions", "pairs", "captions"]


def test_a_missing_or_short_file_is_made_anew_and_the_rest_is_kept(tmp_path: Path) -> None:
    config = Config(root=tmp_path)
    made: list[str] = []

    def write_parts(out: Path) -> dict[str, int]:
        for name in ("part-00000.parquet", "part-00001.parquet"):
            if not (out / name).exists():
                made.append(name)
                write_parquet(out / name, rows_to_table([], PAIRS), PAIRS)
        return {}

    said: list[str] = []
    artifact = Artifact("pairs", tmp_path / "pairs")
    Maker(config, said.append)(artifact, write_parts)
    part = tmp_path / "pairs" / "part-00001.parquet"
    part.write_bytes(part.read_bytes()[:40])
    Maker(config, said.append)(artifact, write_parts)
    assert made == ["part-00000.parquet", "part-00001.parquet", "part-00001.parquet"]
    assert "pairs: part-00001.parquet missing or damaged; making them anew" in said
    manifest = read_manifest(artifact)
    assert manifest
    assert [entry["rows"] for entry in manifest["files"]] == [0, 0]


def test_a_failed_step_publishes_nothing_and_the_next_try_goes_on_from_its_files(tmp_path: Path) -> None:
    config = Config(root=tmp_path)
    artifact = Artifact("thing", tmp_path / "thing")

    def half(out: Path) -> dict[str, int]:
        if (out / "first").exists():
            (out / "second").write_text("2")
            return {}
        (out / "first").write_text("1")
        raise RunFailed("broken off")

    with pytest.raises(RunFailed):
        Maker(config, lambda line: None)(artifact, half)
    assert not (tmp_path / "thing").exists()
    Maker(config, lambda line: None)(artifact, half)
    assert sorted(p.name for p in (tmp_path / "thing").iterdir()) == ["MANIFEST.json", "first", "second"]
    assert [p.name for p in (tmp_path / "thing").resolve().parent.iterdir()] == [(tmp_path / "thing").resolve().name]


def test_an_input_that_no_step_has_made_is_refused(tmp_path: Path, recorder: Recorder) -> None:
    make = Maker(Config(root=tmp_path), recorder.said.append)
    with pytest.raises(InputError, match="half-made"):
        make(Artifact("b", tmp_path / "b"), recorder.copy_text, Artifact("a", tmp_path / "a"))


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    (tmp_path / "MANIFEST.json").write_text("{")
    with pytest.raises(InputError, match=r"MANIFEST\.json: damaged"):
        read_manifest(Artifact("a", tmp_path))


def test_a_model_folder_counts_by_what_it_holds(tmp_path: Path, recorder: Recorder) -> None:
    start = tmp_path / "vit"
    start.mkdir()
    (start / "weights").write_text("1")
    (tmp_path / "list.txt").write_text("one")
    setting = f"pretrain.model.vision.start={start}"

    def pretrained() -> None:
        config = load_config(None, [setting], root=tmp_path / "run")
        source = Artifact("list", tmp_path / "list.txt", given=True)
        Maker(config, recorder.said.append)(
            Artifact("model", tmp_path / "model", config.pretrain), recorder.copy_text, source
        )

    pretrained()
    pretrained()
    (start / "weights").write_text("2")
    pretrained()
    assert recorder.calls == ["model", "model"]


def test_given_models_leave_fine_tuning_and_earlier_rounds_out(tmp_path: Path) -> None:
    listing = tmp_path / "urls.tsv"
    listing.write_text("url\tcaption\n")
    settings = [f"download.urls=[{{path: {listing}}}]", "pretrain.optimizer.steps=0"]
    lacking = load_config(None, settings, root=tmp_path)
    assert len(check_config(lacking, 1)) == 2
    given = load_config(None, [*settings, "captioner.checkpoint=org/cap", "filter.checkpoint=org/itm"], root=tmp_path)
    assert check_config(given, 1) == []
    at = Layout(given, 1)
    assert at.captioner
    assert (at.captioner.given, at.model, at.evaluation, at.previous_model) == (True, None, None, None)


def test_missing_files_of_a_config_are_listed(tmp_path: Path) -> None:
    config = load_config(
        None, ["download.urls=[{path: no.tsv}]", "human.path=no.jsonl", "held_out.path=no2.jsonl", "truth=t.jsonl"]
    )
    assert len(check_config(config, 1)) == 4


def test_a_pattern_or_a_folder_for_a_list_is_told_what_to_write(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("url")
    urls = [f"{{path: '{tmp_path}/*.tsv'}}", f"{{path: {tmp_path}}}", f"{{path: '{tmp_path}/*.csv'}}"]
    settings = [f"download.urls=[{', '.join(urls)}]", f"human.path={tmp_path}"]
    pattern, folder = check_config(load_config(None, settings), 0)
    assert pattern == f"download.urls.2.path: {tmp_path}/*.csv: no file has a name like this"
    assert folder == f"human.path: {tmp_path} is a folder; name the file in it"


@pytest.mark.parametrize(
    ("sampler", "candidates", "mistakes"),
    [("beam", 3, 0), ("beam", 4, 1), ("nucleus", 4, 0), ("beam, num_beams: 5", 4, 0), ("nucleus, num_beams: 2", 3, 1)],
)
def test_candidates_are_no_more_than_the_beams(tmp_path: Path, sampler: str, candidates: int, mistakes: int) -> None:
    listing = tmp_path / "urls.tsv"
    listing.write_text("url\tcaption\n")
    given = [f"download.urls=[{{path: {listing}}}]", "captioner.checkpoint=org/cap", "filter.checkpoint=org/itm"]
    asked = [f"caption.sampler={{preset: {sampler}}}", f"caption.candidates={candidates}"]
    found = check_config(load_config(None, [*given, *asked]), 1)
    assert [line.split(":")[0] for line in found] == ["caption.candidates"] * mistakes


def test_two_runs_on_one_root_are_refused(tmp_path: Path) -> None:
    with (
        locked_elsewhere(tmp_path),
        pytest.raises(RunFailed, match=r"another run is working on it \(.+@.+, process \d+, since 20"),
        locked(tmp_path),
    ):
        pass
    with locked(tmp_path):
        pass


def test_a_root_that_cannot_be_written_is_a_config_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="root"), locked(tmp_path / "file" / "run"):
        pass


def test_the_manifest_states_recipe_settings_counts_and_files(tmp_path: Path, recorder: Recorder) -> None:
    (tmp_path / "list.txt").write_text("one")
    pairs = chain(tmp_path, recorder)
    manifest = json.loads((Path(pairs.path) / "MANIFEST.json").read_text())
    assert manifest["recipe"]["step"] == "copy_text"
    assert manifest["settings"]["itm_threshold"] == 0.5
    assert manifest["counts"] == {"inputs": 1}
    assert manifest["files"][0]["sha256"] == "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
