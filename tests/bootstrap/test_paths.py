"""Paths as users write them, and the folders that a container lacks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from blip_bootstrap.audit.audits import audit
from blip_bootstrap.config import SelectConfig, load_config
from blip_bootstrap.errors import CheckpointError, ConfigError, InputError
from blip_bootstrap.labels.sample import draw_sample
from blip_bootstrap.loop.check import check_config
from blip_bootstrap.paths import local_path, model_name, name_the_user, path_argument, run_argument, user_folder
from blip_bootstrap.query.questions import query
from blip_bootstrap.query.views import connect
from blip_bootstrap.report.figures import round_metrics
from blip_bootstrap.report.round_page import write_report
from blip_bootstrap.report.why import why
from blip_bootstrap.select.pairs import select_pairs
from blip_training.runtime.sources import resolve_source
from tests.support.finished_run import make_run

NAMES = (
    "br[1]",
    "st*r",
    "q?x",
    "wo:rd",
    "quo'te\"d",
    "pct%20#h",
    "sp ace ünï",
    "a{b,c}",
    "back\\slash",
    "~tilde",
    "[1]",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_may_be_called_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """By a relative name too, beside a folder that the name would match if it were a pattern."""
    monkeypatch.chdir(tmp_path)
    for beside in ("br1", "star", "qax", "1"):
        make_run(tmp_path / beside)
    make_run(tmp_path / name)
    root = Path(name)
    num_pairs = sum(pq.read_metadata(file).num_rows for file in (tmp_path / name).glob("round-0?/pairs/*.parquet"))
    with connect(root) as connection:
        (row,) = query(connection, "SELECT count(*) AS n, count(DISTINCT round) AS r FROM pairs").to_pylist()
    assert row == {"n": num_pairs, "r": 2}
    assert {one["gap"] for one in audit(root, 1, ["accounting"])[0].table.to_pylist()} == {0}
    assert why(root, "0000000001").texts.num_rows == 3
    assert write_report(root, 1).is_file()
    assert draw_sample(root, 1, size=4).is_file()
    counts = select_pairs(tmp_path / "out", root / "round-01" / "captions", config=SelectConfig())
    assert counts["rows"] == round_metrics(root, 1)["web_captions"] + round_metrics(root, 1)["synthetic_captions"]


def test_home_is_expanded_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    lists = [{"path": "~/web.tsv", "serve": "~/pictures"}]
    config = load_config(
        None,
        [f"download.urls={lists}", "truth=~/t.jsonl", "human={path: ~/h.jsonl, image_root: ~/h}",
         "captioner.checkpoint=~/cap",
         "caption.filters=[~/f]", "pretrain.model.text.tokenizer=~/vocab.txt", "select.labels=~/l.parquet"],
        root="~/run",
    )  # fmt: skip
    assert config.human
    found: list[Any] = [
        config.root, config.download.urls[0].path, config.download.urls[0].serve, config.truth, config.human.path,
        config.human.image_root, config.captioner.checkpoint, *config.caption.filters,
        config.pretrain.model.text.tokenizer, config.select.labels,
    ]  # fmt: skip
    assert all(str(one).startswith(f"{tmp_path}/") for one in found), found
    assert path_argument("~") == tmp_path
    assert model_name("org/name") == "org/name"


def test_a_configuration_comes_back_from_json() -> None:
    config = load_config(None, ["truth=t.jsonl", "download.urls=[{path: a.tsv}]"], root="b[1]")
    assert type(config).model_validate_json(config.model_dump_json()) == config


def test_a_folder_called_tilde_is_reached_by_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert local_path("./~x") == tmp_path / "~x"
    assert local_path(local_path("./~x")) == tmp_path / "~x"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("s3://bucket/run", "is a URI"), (Path("s3://bucket/run"), "is a URI"), ("file:///run", "is a URI"),
        ("hdfs://a/b", "is a URI"), ("https://host/run", "is a URI"), ("", "is empty"), ("  ", "is empty"),
        ("a\0b", "not plain"), ("a\nb", "not plain"), ("\udcff", "not plain"), ("~nobody-of-that-name/x", "no home"),
        (None, "put it in quotes"),
        (2024, "put it in quotes"), (False, "put it in quotes"), (["x"], "put it in quotes"),
    ],
)  # fmt: skip
def test_what_is_no_path_is_one_line(value: object, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        local_path(value)


def test_a_wrong_root_is_one_mistake_of_the_configuration() -> None:
    for setting in ("root=~", "root=s3:/bucket/run", "root=2024", "root=", "root=~nobody-of-that-name/x"):
        with pytest.raises(ConfigError, match=r"^root: ") as caught:
            load_config(None, [setting])
        assert len(caught.value.mistakes) == 1


def test_runs_to_read_may_lie_on_a_store() -> None:
    assert str(run_argument("s3://bucket/run")) == "s3:/bucket/run"
    with pytest.raises(InputError, match="is a URI"):
        run_argument("hdfs://bucket/run")
    with pytest.raises(InputError, match="is a URI"):
        path_argument("s3://bucket/run")


def test_a_root_on_the_command_line_is_no_yaml() -> None:
    for name in ("[1]", "*x", "no", "2024-01-01", "a: b", "x #y", "1"):
        assert load_config(None, root=name).root == Path(name)


def test_missing_and_wrong_places_are_told_by_their_setting(tmp_path: Path) -> None:
    (tmp_path / "list.tsv").write_text("url\tcaption\n")
    (tmp_path / "empty").mkdir()
    urls = [{"path": str(tmp_path / "list.tsv"), "serve": str(tmp_path / "none")}, {"path": str(tmp_path / "empty")}]
    long = "x" * 300
    config = load_config(
        None,
        [f"download.urls={urls}", "filter.checkpoint=a/b", "captioner.checkpoint=a/b", f"truth={tmp_path}/list.tsv/x",
         f"human.path={long}", "select.strategy=target_noise", f"select.labels={tmp_path}/labels.parquet"],
    )  # fmt: skip
    told = check_config(config, 1)
    assert [line.partition(": ")[0] for line in told] == [
        "download.urls.1.path", "download.urls.0.serve", "human.path", "truth", "select.labels",
    ]  # fmt: skip
    assert told[0].endswith("no file of this folder is one that can be read here; name the file")
    assert "cannot be read (File name too long)" in told[2]


# ---------------------------------------------------------------------------------------------------- no name, no home


def test_the_users_folders_in_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_folder("XDG_CACHE_HOME", ".cache") == tmp_path
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_folder("XDG_CACHE_HOME", ".cache") == tmp_path / ".cache"
    monkeypatch.setattr(Path, "home", _no_home)
    assert user_folder("XDG_CACHE_HOME", ".cache").name == ".cache"


def _no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_a_user_without_a_name_gets_one_for_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getuser", _no_user)
    monkeypatch.setattr(Path, "home", _no_home)
    monkeypatch.setenv("USER", "")
    monkeypatch.setenv("HOME", "")
    name_the_user()
    assert os.environ["USER"] == f"uid-{os.getuid()}"
    assert Path(os.environ["HOME"]).is_absolute()


def _no_user() -> str:
    raise KeyError("getpwuid(): uid not found: 54321")


def test_every_question_works_for_a_user_without_a_name_or_home(finished_run: Path) -> None:
    outside = ["unshare", "-U", "--map-user=54321"]
    if os.name != "posix" or _fails([*outside, "true"]):
        pytest.skip("no user namespaces here")
    environment = {k: v for k, v in os.environ.items() if k not in ("USER", "LOGNAME", "LNAME", "USERNAME", "HOME")}
    for words in (["sql", "SELECT 1"], ["audit", "--name", "noise"], ["why", "0000000001"]):
        command = [*outside, sys.executable, "-m", "blip_bootstrap", *words, "--root", str(finished_run)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr


def _fails(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode != 0
    except OSError:
        return True


def test_a_model_with_a_dot_before_it_is_never_asked_for_at_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "here").mkdir(parents=True)
    assert model_name("./owner/here") == "owner/here"
    assert model_name("./owner/gone") == "./owner/gone"
    with pytest.raises(CheckpointError, match=r"\./owner/gone: no such file or folder"):
        resolve_source(str(model_name("./owner/gone")))


def test_a_model_whose_name_is_too_long_is_a_line() -> None:
    for name in ("x" * 300, "./" + "x" * 300, "/" + "x" * 300):
        with pytest.raises(CheckpointError, match=r"no such file|neither a file"):
            resolve_source(str(model_name(name)))
