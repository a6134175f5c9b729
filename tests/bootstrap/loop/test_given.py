"""Given models are opened and checked before the first URL is fetched, and by `config check`."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from blip_bootstrap.config import Config, ModelConfig, load_config
from blip_bootstrap.errors import ConfigError
from blip_bootstrap.loop import rounds
from blip_bootstrap.loop.given import (
    STAMP,
    check_given,
    given_models,
    look_into_given,
    note_given,
    seem_right,
    stamp_of,
)
from blip_bootstrap.loop.rounds import run_rounds
from blip_training.checkpoint.fresh import vqa_from_med
from blip_training.checkpoint.store import save_captioner, save_filter, save_vqa
from blip_training.data.tokenizer import Tokenizer
from blip_training.evaluate.glance import looks_right
from blip_training.model.med import Med

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "picture", "of", *(f"w{i}" for i in range(60))]
LONG = "a picture of " + " ".join(f"w{i}" for i in range(25))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A captioner, a filter and a model for questions, and a list of no URLs."""
    folder = tmp_path_factory.mktemp("models")
    sizes = {"width": 32, "depth": 1, "heads": 2}
    config = {
        "vision": sizes | {"image_size": 16, "patch_size": 8},
        "text": sizes | {"intermediate": 32, "max_positions": 40},
        "embed_dim": 8,
    }
    tokenizer = Tokenizer(WORDS)
    torch.manual_seed(0)
    med = Med(ModelConfig.model_validate(config), tokenizer.num_tokens)
    save_captioner(folder / "cap", med, tokenizer)
    save_filter(folder / "itm", med, tokenizer)
    save_vqa(folder / "vqa", vqa_from_med(med), tokenizer)
    (folder / "urls.tsv").write_text("url\tcaption\nhttp://127.0.0.1:9/a.jpg\ta w1\n")
    return folder


@pytest.fixture
def given(models: Path, tmp_path: Path) -> Path:
    """Copies that a test may damage."""
    shutil.copytree(models, tmp_path / "given")
    return tmp_path / "given"


def settings_of(folder: Path, captioner: str = "cap", filter: str = "itm") -> list[str]:
    return [
        f"root={folder / 'run'}", f"download.urls=[{{path: {folder / 'urls.tsv'}}}]", "pretrain.optimizer.steps=0",
        f"captioner.checkpoint={folder / captioner}", f"filter.checkpoint={folder / filter}",
    ]  # fmt: skip


def config_of(folder: Path, *settings: str, captioner: str = "cap", filter: str = "itm") -> Config:
    return load_config(None, [*settings_of(folder, captioner, filter), *settings])


def test_right_models_have_no_mistakes(given: Path) -> None:
    assert check_given(config_of(given), 1) == []
    assert [one.needs for one in given_models(config_of(given), 1)] == ["decode", "match"]
    assert list(given_models(config_of(given), 0)) == []


def test_every_model_that_cannot_do_its_part_is_a_line(given: Path) -> None:
    more = [f"caption.captioners=[{given / 'vqa'}]", f"caption.filters=[{given / 'cap'}, {given / 'gone' / 'x'}]"]
    found = check_given(config_of(given, *more, f"caption.scorer={given / 'cap'}", captioner="itm", filter="vqa"), 1)
    assert [line.split(": ")[0] for line in found] == [
        "captioner.checkpoint", "filter.checkpoint", "caption.captioners.0", "caption.filters.0", "caption.filters.1",
        "caption.scorer",
    ]  # fmt: skip
    said = "\n".join(found)
    for part in (
        "cannot decode",
        "answers questions",
        "cannot match",
        "no such file or folder",
        "model_type is 'blip'",
    ):
        assert part in said
    assert len(found) == len(said.splitlines())


def plugged_in(given: Path, writer: str, judge: str, vlm: str) -> list[str]:
    one = {"name": "w", "kind": "blip", "options": {"checkpoint": str(given / writer)}, "prompts": {"a": "a picture"}}
    other = {"name": "v", "kind": "vqa_score", "options": {"checkpoint": vlm}}
    judges = [{"name": "j", "kind": "blip_itm", "options": {"checkpoint": str(given / judge)}}, other]
    return [f"caption.writers={json.dumps([one])}", f"caption.judges={json.dumps(judges)}"]


def test_checkpoints_of_writers_and_judges_are_opened_too(given: Path) -> None:
    right = config_of(given, *plugged_in(given, "cap", "itm", str(given / "cap")))
    assert [(one.where, one.needs) for one in given_models(right, 1)][2:] == [
        ("caption.writers.w", "write"), ("caption.judges.j", "match"), ("caption.judges.v", "read"),
    ]  # fmt: skip
    assert check_given(right, 1) == []
    assert seem_right(right, 1)
    wrong = config_of(given, *plugged_in(given, "itm", "cap", "nobody/vlm"))  # the last is of no hub here
    found = check_given(wrong, 1)
    assert [line.split(": ")[0] for line in found] == ["caption.writers.w", "caption.judges.j", "caption.judges.v"]
    for line, part in zip(found, ("cannot decode", "cannot match", "nobody/vlm"), strict=True):
        assert part in line
    assert not seem_right(wrong, 1)
    mistaken = config_of(given, "caption.judges=[{name: j, kind: dual_encoder, options: {checkpoint: 5}}]")
    assert len([*given_models(mistaken, 1)]) == 2  # what is wrong with options is said by themselves


def damage_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def damage_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])


def damage_shapes(folder: Path) -> None:
    (folder / "med.json").unlink()
    content = json.loads((folder / "config.json").read_text())
    content["text_config"]["intermediate_size"] = 64
    (folder / "config.json").write_text(json.dumps(content))


def damage_tokenizer(folder: Path) -> None:
    Tokenizer(WORDS[:-1]).save(folder)


def lose_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "vocab.txt"):
        (folder / name).unlink()


def point_at_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (damage_config, "config.json: cannot be read"),
        (damage_weights, "download it again"),
        (damage_shapes, "of another shape"),
        (damage_tokenizer, "70 tokens, its tokenizer has 69"),
        (lose_tokenizer, "neither tokenizer.json nor vocab.txt"),
        (point_at_weights, "Git LFS pointer"),
    ],
)
@pytest.mark.parametrize("which", ["cap", "itm"])
def test_a_damaged_model_ends_a_run_before_the_first_url(given: Path, damage: Any, says: str, which: str) -> None:
    damage(given / which)
    with pytest.raises(ConfigError) as caught:
        run_rounds(config_of(given), 1, lambda line: None)
    (line,) = caught.value.mistakes
    assert line.startswith({"cap": "captioner", "itm": "filter"}[which] + ".checkpoint: ")
    assert says in line
    assert not (given / "run").exists()
    assert looks_right(str(given / which), "decode" if which == "cap" else "match") is False


def test_models_look_right_without_torch_before_the_first_url(given: Path) -> None:
    """Where the download begins torch is not loaded; nothing is said of these models, nor of their tokenizer."""
    code = (
        "import sys\nfrom blip_bootstrap.config import load_config\nfrom blip_bootstrap.loop import rounds\n"
        "def download_images(*_, **__): sys.exit(3 if 'torch' in sys.modules else 0)\n"
        "rounds.download_images = download_images\n"
        f"rounds.run_rounds(load_config(None, {settings_of(given)!r}), 1, lambda line: None)\n"
    )
    assert looks_right(str(given / "cap"), "decode")
    assert looks_right(str(given / "itm"), "match")
    assert looks_right(str(given / "itm"), "tokenizer")
    assert not looks_right(str(given / "itm"), "decode")
    config = config_of(given)
    assert seem_right(config, 1)
    assert not seem_right(config_of(given, f"caption.prompt={LONG}"), 1)
    sources = os.pathsep.join(str(Path(__file__).parents[3] / part) for part in (".", "pipelines", "training"))
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": sources}, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_model_that_only_seemed_right_ends_a_run_once_the_images_are_there(
    given: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = given / "itm" / "model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if name.endswith("weight"))
    save_file(weights | {name: weights[name] * float("nan")}, file, metadata={"format": "pt"})
    made: list[str] = []

    def make(output: Path, *_: object, **__: object) -> dict[str, int]:
        made.append(output.name)
        return {"rows": 1, "success": 1}

    monkeypatch.setattr(rounds, "download_images", make)
    monkeypatch.setattr(rounds, "no_pictures", lambda counts: None)
    with pytest.raises(ConfigError, match=r"filter.checkpoint: .*itm"):
        run_rounds(config_of(given), 1, lambda line: None)
    assert len(made) == 1
    assert not (given / "run" / STAMP).exists()


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        (f"caption.prompt={LONG}", "^caption.prompt 'a .*' has 29 tokens with .DEC., sampler.max_tokens is 20"),
        ("caption.sampler={max_tokens: 3, min_tokens: 1}", "has 4 tokens with .DEC., sampler.max_tokens is 3"),
        ("caption.sampler={max_tokens: 41, preset: beam}", "max_tokens is 41, the model has positions for 40"),
    ],
)  # fmt: skip
def test_a_prompt_leaves_room_for_a_caption(given: Path, setting: str, says: str) -> None:
    (line,) = check_given(config_of(given, setting), 1)
    assert re.search(says, line), line


def test_prompts_of_a_model_that_is_still_to_be_trained(given: Path) -> None:
    (given / "human.jsonl").write_text("")
    text = "{width: 32, depth: 1, heads: 2, intermediate: 32, max_positions: 32, max_tokens: 12, tokenizer: %s}"
    own = [
        "pretrain.optimizer.steps=3", "captioner.checkpoint=", "filter.checkpoint=", f"human.path={given}/human.jsonl",
        f"held_out.path={given}/human.jsonl", f"pretrain.model.text={text % (given / 'cap')}",
    ]  # fmt: skip
    assert check_given(config_of(given, *own), 1) == []
    found = check_given(config_of(given, *own, f"caption.prompt={LONG}", f"captioner.prompt={LONG}"), 1)
    assert [line.split()[0] for line in found] == ["caption.prompt", "captioner.prompt:"]
    (line,) = check_given(config_of(given, *own, f"evaluate.prompt={LONG}"), 1)
    assert line.startswith("evaluate.prompt")
    (line,) = check_given(config_of(given, *own, f"pretrain.model.text.tokenizer={given}/no/where"), 0)
    assert line.startswith("pretrain.model.text.tokenizer: ")
    for part in ("text", "vision"):
        (line,) = check_given(config_of(given, *own, f"pretrain.model.{part}.start={given / 'cap'}"), 0)
        assert line.startswith(f"pretrain.model.{part}.start: ")


def test_what_was_found_right_is_not_opened_again_until_it_changes(
    given: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from blip_training.evaluate import opening

    config = config_of(given)
    (given / "run").mkdir()
    note_given(config, 1)
    times: list[str] = []
    opens = opening.Opened.open
    monkeypatch.setattr(opening.Opened, "open", lambda self, *what: (times.append(what[0]), opens(self, *what))[1])
    assert (check_given(config, 1), times) == ([], [])
    damage_weights(given / "itm")
    assert len(check_given(config, 1)) == 1
    assert len(times) == 2
    (given / "run" / STAMP).write_bytes(b"\xff\xff")
    assert len(check_given(config, 1)) == 1
    assert len(times) == 4
    note_given(config, 1)
    shutil.rmtree(given / "cap")
    lines = check_given(config, 1)
    assert lines[0].startswith("captioner.checkpoint: ")
    assert lines[1].startswith("filter.checkpoint: ")


@pytest.mark.parametrize("beside", ["vocab.txt", "tokenizer.json", "tokenizer_config.json"])
def test_a_tokenizer_beside_a_file_of_weights_counts(given: Path, beside: str) -> None:
    (given / "cap").rename(given / "released")
    config = config_of(given, captioner="released/model.safetensors")
    before = stamp_of(config, list(given_models(config, 1)))
    (given / "released" / beside).write_text("changed")
    assert stamp_of(config, list(given_models(config, 1))) != before


def blip_bootstrap(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    sources = os.pathsep.join(str(Path(__file__).parents[2] / part) for part in (".", "pipelines", "training"))
    environment = os.environ | {"PYTHONPATH": sources, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "blip_bootstrap", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)


def test_config_check_and_run_say_the_same_and_exit_with_2(given: Path) -> None:
    own = [
        part
        for setting in (
            f"download.urls=[{{path: {given / 'urls.tsv'}}}]", "pretrain.optimizer.steps=0",
            f"captioner.checkpoint={given / 'itm'}", f"filter.checkpoint={given / 'itm'}",
        )
        for part in ("--set", setting)
    ]  # fmt: skip
    checked = blip_bootstrap("config", "check", *own, cwd=given)
    ran = blip_bootstrap("run", "--round", 1, "--root", given / "run", "--ray", "none", *own, cwd=given)
    assert (checked.returncode, ran.returncode) == (2, 2)
    assert checked.stderr == ran.stderr
    assert checked.stderr.startswith("error: captioner.checkpoint: ")
    assert checked.stderr.count("\n") == 1
    assert not (given / "run").exists()
    right = blip_bootstrap("config", "check", *own, "--set", f"captioner.checkpoint={given / 'cap'}", cwd=given)
    assert (right.returncode, right.stdout, right.stderr) == (0, "ok\n", "")


def test_hub_names_that_are_not_here(given: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(None, ["captioner.checkpoint=someone/cap", f"filter.checkpoint={given / 'itm'}"])
    said: list[str] = []
    assert look_into_given(config, 1, said.append) == [
        f"{where} is not on this machine, and HF_HUB_OFFLINE keeps it from the hub"
        for where in ("captioner.checkpoint: someone/cap", "pretrain.model.text.tokenizer: bert-base-uncased")
    ]
    assert said == []
    found = check_given(config, 1)
    assert [line.split(": ")[0] for line in found] == ["captioner.checkpoint", "pretrain.model.text.tokenizer"]
    assert all("\n" not in line for line in found)
