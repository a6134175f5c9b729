"""What is forgotten is gone from every file, and the run that goes on is one that never had it."""

from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from blip_bootstrap.cli.app import app
from blip_bootstrap.errors import InputError, RunFailed
from blip_bootstrap.storage.lock import locked
from blip_bootstrap.storage.run_folder import out_of_date
from blip_bootstrap.storage.withdrawn import HASHES, JOURNAL
from blip_bootstrap.withdrawal.asked import Asked, asked
from blip_bootstrap.withdrawal.forget import begin, end, plan_withdrawal
from blip_bootstrap.withdrawal.lineage import artifacts_of
from tests.support.forgetting import GONE, KEYS, TEXTS, forgotten, holding, is_whole, no_gap
from tests.support.kills import Killed, killed_after
from tests.support.small_world_runs import SmallRuns, manifest_of, rows_of, weights_of
from tests.support.tiny_pipeline import encode


def forget(root: Path, *arguments: str) -> Result:
    result = CliRunner().invoke(app, ["forget", "--root", str(root), *arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def forget_gone(root: Path, *more: str) -> Result:
    return forget(root, *(word for url in GONE for word in ("--url", url)), *more)


def statuses(root: Path) -> dict[str, str]:
    return {row["key"]: row["status"] for row in rows_of(root, "images")}


def test_no_file_holds_it_and_every_other_row_is_as_it_was(root: Path, runs: SmallRuns) -> None:
    before = {place: rows_of(root, place) for place in ("images", "round-01/captions", "round-01/pairs")}
    jpgs = [row["jpg"] for row in before["images"] if row["key"] in KEYS]
    synthetic = [row["caption"] for row in before["round-01/captions"] if row["key"] in KEYS]
    wanted = [*jpgs, *(one.encode() for one in (*GONE, *TEXTS, *synthetic))]
    assert all(len({line.split(": ", 1)[1] for line in holding(root, [one])}) == 1 for one in wanted)
    assert forget_gone(root).exit_code == 0
    assert holding(root, wanted) == []
    for place, rows in before.items():
        after = rows_of(root, place)
        assert [row for row in after if row["key"] not in KEYS] == [row for row in rows if row["key"] not in KEYS]
    gone = [row for row in rows_of(root, "images") if row["key"] in KEYS]
    assert gone == [dict.fromkeys(gone[0]) | {"key": key, "status": "withdrawn"} for key in KEYS]
    assert is_whole(root)
    assert not (root / JOURNAL).exists()
    assert (root / HASHES).read_text().split() == [
        word for url in sorted(hashlib.sha256(one.encode()).hexdigest() for one in GONE) for word in ("url", url)
    ]


def test_a_damaged_manifest_is_told_and_nothing_is_taken_out(root: Path) -> None:
    """It is not known what it is of; as something half-made it would be deleted."""
    (captions,) = (root / "artifacts/caption_and_score").glob("*/MANIFEST.json")
    text = captions.read_text()
    for damaged in (text[:-20], text.replace('"name"', '"mane"', 1)):
        captions.write_text(damaged)
        before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
        with pytest.raises(InputError, match=r"MANIFEST\.json: (damaged|not readable JSON) \("):
            forget_gone(root)
        with pytest.raises(InputError, match=r"MANIFEST\.json: damaged \(.*\); nothing is taken out"):
            artifacts_of(root)
        after = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
        assert {path: data for path, data in after.items() if path.name != ".lock"} == {
            path: data for path, data in before.items() if path.name != ".lock"
        }


def test_the_next_run_is_one_in_which_these_answered_404(root: Path, runs: SmallRuns, tmp_path: Path) -> None:
    forgotten(root, *GONE)
    told = out_of_date(root)
    assert told[0] == "its model was trained on 2 texts of rows that are withdrawn"
    assert 1 in told
    runs.run(root)
    assert not [what for what in runs.paid if what[0] == "fetch"]
    assert out_of_date(root) == {}
    assert no_gap(root)
    assert no_gap(root, 0)
    runs.dead |= {*GONE}
    runs.run(tmp_path / "other")
    for place in ("round-00/pairs", "round-01/captions", "round-01/pairs"):
        assert rows_of(root, place) == rows_of(tmp_path / "other", place)
    for place in ("round-00/model", "round-01/captioner", "round-01/filter", "round-01/model"):
        assert weights_of(root, place) == weights_of(tmp_path / "other", place)
    assert all("current" in line for line in runs.run(root) if not line.startswith("overview"))
    counts = manifest_of(root, "images")["counts"]
    assert counts == {"rows": 12, "success": 8, "withdrawn": 2, "rejected": 1, "blank_url": 1,
                      "failed_to_download": 1, "http_4xx": 1}  # fmt: skip


def test_a_row_that_nothing_was_trained_on_leaves_models_and_captions_current(root: Path, runs: SmallRuns) -> None:
    assert forgotten(root, "http://web/missing")["stale"] == []
    assert out_of_date(root) == {}
    said = runs.run(root)
    assert runs.paid == []
    assert "round-01/captions: current" in said
    assert "round-01/model: current" in said


def test_dry_run_shows_what_would_go_and_changes_nothing(root: Path) -> None:
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file() and path.name != ".lock"}
    result = forget_gone(root, "--dry-run")
    assert "2 rows of the lists, 2 stored pictures" in result.output
    assert "round-01/model" in result.output
    assert "stale, all together" in result.output
    assert "nothing was changed" in result.output
    assert {path: path.read_bytes() for path in before} == before
    assert not (root / HASHES).exists()
    assert not (root / "withdrawals").exists()


def test_the_receipt_says_where_it_had_been_and_no_url(root: Path) -> None:
    forgotten(root, *GONE)
    (path,) = (root / "withdrawals").glob("*.json")
    told = json.loads(path.read_text())
    assert (told["rows"], told["pictures"]) == (2, 2)
    assert [*told["keys"].values()] == [[*KEYS]]
    assert {file.split("/")[1] for file in told["files"]} >= {"download_images", "caption_and_score", "select_pairs"}
    assert {one["name"] for one in told["stale"]} >= {"round-00/model", "round-01/captions", "round-01/model"}
    assert not any(url in path.read_text() for url in GONE)


def test_killed_anywhere_the_same_command_ends_it(root: Path, runs: SmallRuns, tmp_path: Path) -> None:
    plan, _ = plan_withdrawal(root, asked(GONE))
    shutil.copytree(root, tmp_path / "whole", symlinks=True)
    begin(tmp_path / "whole", plan)
    end(tmp_path / "whole")
    names = [path for path in (tmp_path / "whole").rglob("*") if path.is_file()]
    right = {path.relative_to(tmp_path / "whole"): path.read_bytes() for path in names if path.name != ".lock"}
    shutil.move(root, tmp_path / "first")
    count, tried = 0, 0
    while True:
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(tmp_path / "first", root, symlinks=True)
        with killed_after(count) as done, suppress(Killed):
            begin(root, plan)
            end(root)
        if done[0] < count:
            break
        if (root / JOURNAL).exists():
            with pytest.raises(RunFailed, match="forget"):
                runs.run(root)
            with locked(root):
                end(root)
        else:  # before the journal was there, or after it went
            begin(root, plan)
            end(root)
        files = [path for path in root.rglob("*") if path.is_file() and path.name != ".lock"]
        assert {path.relative_to(root): path.read_bytes() for path in files} == right, count
        count, tried = count + 7, tried + 1
    assert tried > 8


def test_lists_do_not_bring_it_back(root: Path, runs: SmallRuns) -> None:
    """Growth, another configuration, a limit, and rows that are tried again."""
    forgotten(root, *GONE)
    rows = [line.split("\t") for line in (runs.given / "web.tsv").read_text().splitlines()[1:]]
    try:
        runs.write_list([*((url, text) for url, text in rows), (GONE[0], "another text"), ("http://web/77.jpg", "new")])
        runs.run(root, 0)
        assert [what for what in runs.paid if what[0] == "fetch"] == [("fetch", "http://web/77.jpg")]
        counts = manifest_of(root, "images")["counts"]
        assert (counts["rows"], counts["withdrawn"], counts["success"]) == (14, 3, 9)
        assert no_gap(root, 0)
        runs.run(root, 0, retry="failed")
        assert [what for what in runs.paid if what[0] == "fetch"] == [("fetch", "http://web/missing")]
        assert manifest_of(root, "images")["counts"]["withdrawn"] == 3
        assert no_gap(root, 0)
        runs.run(root, 0, "download.limit=5")
        assert not [what for what in runs.paid if what[0] == "fetch"]
        assert manifest_of(root, "images")["counts"] == {"rows": 5, "success": 4, "withdrawn": 1}
        runs.run(root, 0, "download.image_size=32")
        assert not {url for _, url in runs.paid} & {*GONE}
        assert manifest_of(root, "images")["counts"]["withdrawn"] == 3
        assert no_gap(root, 0)
    finally:
        runs.write_list([(url, text) for url, text in rows])


def test_copies_go_along_and_the_same_bytes_elsewhere_are_named(tmp_path: Path, runs: SmallRuns) -> None:
    rows = [line.split("\t") for line in (runs.given / "web.tsv").read_text().splitlines()[1:]]
    before = (runs.given / "web.tsv").read_text()
    try:
        runs.bodies["http://mirror.org/1.jpg"] = encode(3)
        more = [(GONE[0], "another text of it"), (GONE[0], rows[3][1]), ("http://mirror.org/1.jpg", "a mirrored one")]
        runs.write_list([*((url, text) for url, text in rows), *more])
        root = tmp_path / "run"
        runs.run(root, 0)
        result = forget(root, "--url", GONE[0])
        assert "3 rows of the lists" in result.output
        assert "stays: row 0000200002, http://mirror.org/1.jpg" in result.output
        assert [key for key, status in statuses(root).items() if status == "withdrawn"] == [
            "0000000003", "0000200000", "0000200001"
        ]  # fmt: skip
        assert holding(root, [GONE[0].encode(), b"another text of it", b"a text of picture 3"]) == []
        digest = hashlib.sha256(encode(3)).hexdigest()
        assert "1 rows of the lists" in forget(root, "--sha256", digest).output
        assert statuses(root)["0000200002"] == "withdrawn"
        assert not [file for file in holding(root, [encode(3), b"mirror.org"]) if "config.yaml" not in file]
        runs.bodies["http://other.org/9.jpg"] = encode(3)
        runs.write_list([*((url, text) for url, text in rows), *more, ("http://other.org/9.jpg", "once more")])
        runs.run(root, 0)
        assert statuses(root)["0000300000"] == "withdrawn", "the same bytes from another host"
        assert holding(root, [b"once more", b"other.org"]) == []
        assert no_gap(root, 0)
    finally:
        (runs.given / "web.tsv").write_text(before)


def test_domains_and_lists(root: Path, tmp_path: Path) -> None:
    (tmp_path / "gone.csv").write_text(f"URL,why\n{GONE[0]},asked\n")
    (tmp_path / "plain.txt").write_text(f"{GONE[1]}\nhttp://nowhere/1.jpg\n")
    result = forget(root, "--list", str(tmp_path / "gone.csv"), "--list", str(tmp_path / "plain.txt"), "--dry-run")
    assert "2 rows of the lists" in result.output
    assert "1 of what was asked has no row here" in result.output
    plan, _ = plan_withdrawal(root, Asked(domains=frozenset({"web"})))
    assert plan.receipt["rows"] == 11
    begin(root, plan)
    end(root)
    assert set(statuses(root).values()) == {"withdrawn", "rejected"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "nothing to forget"),
        (["--sha256", "abc"], "no sha256"),
        (["--domain", "http://a.org/x"], "no domain or host"),
        (["--domain", "co.uk"], "nobody's own"),
        (["--list", "nowhere.txt"], "no file"),
        (["--url", " "], "blank"),
    ],
)
def test_what_cannot_be_is_one_line(root: Path, arguments: list[str], told: str) -> None:
    result = CliRunner().invoke(app, ["forget", "--root", str(root), *arguments])
    assert told in str(result.exception or result.output)
    assert not (root / HASHES).exists()


def test_hosts_below_a_domain_are_of_it_and_others_are_not() -> None:
    one = asked(domains=["Example.org"])
    urls = [
        "http://img.example.org/a",
        "https://u:p@EXAMPLE.org:8080",
        "http://notexample.org/",
        "http://a.b/example.org",
    ]
    assert [one.is_of_domain(url) for url in urls] == [True, True, False, False]
