"""Lists that grow, shrink and move, rows tried again, parts lost: nothing is fetched twice, every row is there once."""

from __future__ import annotations

import io
import json
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from blip_bootstrap.config import DownloadConfig, RayConfig, UrlList
from blip_bootstrap.errors import AccountingError, InputError
from blip_bootstrap.schemas.tables import IMAGES, SHARD
from blip_bootstrap.storage.manifest import describe_files
from blip_bootstrap.storage.notes import NOTES, known_by
from blip_bootstrap.storage.parquet import parquet_files, read_parquet
from blip_bootstrap.storage.parts import LEFT_OUT, read_left_out
from blip_pipelines.ingest import download
from blip_pipelines.ingest.download import ShardDownload, download_images
from blip_pipelines.lists.shards import write_shards
from tests.support import decoded_here
from tests.support.tiny_pipeline import serving

HERE = RayConfig(address="none")

Rows = list[tuple[str, str]]


class Web(ThreadingHTTPServer):
    """Serves a picture under every path, but for those that are `gone`; `asked` counts the requests by path."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), WebHandler)
        self.asked: Counter[str] = Counter()
        self.gone: dict[str, int] = {}

    def rows(self, numbers: Sequence[int]) -> Rows:
        """Rows of a list: the picture of each number, with a text."""
        return [(f"http://127.0.0.1:{self.server_port}/{n}", f"text {n}") for n in numbers]

    def fetched(self) -> list[int]:
        """The numbers that were asked for since the last call; no number is asked for more than once."""
        asked, self.asked = self.asked, Counter()
        pictures = {path[1:]: count for path, count in asked.items() if path[1:].isdecimal()}  # not robots.txt
        assert not [path for path, count in pictures.items() if count > 1]
        return sorted(map(int, pictures))


class WebHandler(BaseHTTPRequestHandler):
    server: Web

    def do_GET(self) -> None:
        self.server.asked[self.path] += 1
        status = self.server.gone.get(self.path, 200)
        stream = io.BytesIO()
        Image.new("RGB", (32, 32), ("red", "green", "blue")[len(self.path) % 3]).save(stream, "JPEG")
        body = stream.getvalue() if status == 200 else b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(autouse=True)
def _decoded_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part would start a process for the few pictures of its own."""
    monkeypatch.setattr(download, "WebStore", decoded_here.Here(decoded_here.web))


@pytest.fixture
def web() -> Iterator[Web]:
    with serving(Web()) as server:
        yield server


class Run:
    """The artifacts of one step: each call makes one of the lists as they are, out of those made before."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.kin, self.counts = folder, list[Path](), dict[str, Any]()
        self.settings: dict[str, Any] = {"rows_per_shard": 4, "num_retries": 0, "allow_private_addresses": True}

    def __call__(self, *lists: Rows, name: str | None = None, retry: str | None = None, **more: Any) -> Path:
        """Make an artifact, whole, and check it: every row of the lists is there once."""
        out = self.begin(name)
        config = self.config(lists, more)
        paths = [urls.path for urls in config.urls]
        self.counts = download_images(
            out, *paths, config=config, ray=HERE, kin=[one for one in self.kin if one != out], retry=retry
        )
        self.finish(out)
        check(out, [row for rows in lists for row in rows[: config.limit]], self.counts)
        return out

    def begin(self, name: str | None) -> Path:
        out = self.folder / "artifacts" / "download_images" / (name or f"d{len(self.kin)}")
        out.mkdir(parents=True, exist_ok=True)
        return out

    def finish(self, out: Path) -> None:
        (out / "MANIFEST.json").write_text(json.dumps({"files": describe_files(out), "counts": self.counts}))
        self.kin = [out, *(one for one in self.kin if one != out)]

    def config(self, lists: Sequence[Rows], more: dict[str, Any]) -> DownloadConfig:
        urls = []
        for at, rows in enumerate(lists):
            path = self.folder / f"list{at}.tsv"
            path.write_text("url\tcaption\n" + "".join(f"{url}\t{text}\n" for url, text in rows))
            urls.append(UrlList(path=path))
        return DownloadConfig(urls=tuple(urls), image_size=16, **{**self.settings, **more})


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def check(out: Path, listed: Rows, counts: dict[str, Any]) -> None:
    """Keys are unique and begin with their part's number; the lists are there, each row once; counts are of these."""
    kinds = {kind: rows_of(out, kind) for kind in ("listed", "removed", "retried")}
    every = [row for rows in kinds.values() for row in rows]
    assert len({row["key"] for row in every}) == len(every)
    assert Counter((row["url"], row["caption"]) for row in kinds["listed"]) == Counter(listed)
    tried = [row["uid"] for row in (*kinds["listed"], *kinds["removed"]) if row["status"] != "rejected"]
    assert len(set(tried)) == len(tried)
    current = kinds["listed"]
    found = Counter({"rows": len(current) + len(kinds["removed"]), "removed": len(kinds["removed"])})
    found.update(row["status"] for row in current)
    found.update(row["error_class"] for row in current if row["error_class"])
    assert counts == dict(+found)
    for part in parquet_files(out):
        assert {row["key"][:5] for row in read_parquet(part, ["key"]).to_pylist()} == {part.name[5:10]}
        shard = read_parquet(out / "rows" / part.name)
        assert shard.schema.equals(SHARD.schema)
        assert shard["uid"].to_pylist() == read_parquet(part, ["uid"])["uid"].to_pylist()
    assert {path.name for path in out.iterdir() if path.name.startswith(".")} <= {NOTES}


def rows_of(out: Path, kind: str) -> list[dict[str, Any]]:
    """The rows of one kind: listed, or one of those that are left out."""
    left_out = {
        (part, at): name
        for part, kinds in read_left_out(out).items()
        for name, spans in kinds.items()
        for first, last in spans
        for at in range(first, last + 1)
    }
    rows = [(part.name, row) for part in parquet_files(out) for row in read_parquet(part).to_pylist()]
    return [row for part, row in rows if left_out.get((part, int(row["key"][5:])), "listed") == kind]


def own(out: Path) -> list[str]:
    """The names of the parts that this artifact does not borrow."""
    return [part.name for part in parquet_files(out) if not part.is_symlink()]


def parts(*numbers: int) -> list[str]:
    return [f"part-{number:05d}.parquet" for number in numbers]


def test_rows_put_at_the_end_or_the_top_or_moved_are_the_only_ones_fetched(run: Run, web: Web) -> None:
    first = run(web.rows(range(10)))
    assert web.fetched() == [*range(10)]
    keys = {row["uid"]: row["key"] for row in rows_of(first, "listed")}
    longer = run(web.rows(range(13)))
    assert (web.fetched(), own(longer)) == ([10, 11, 12], parts(3))
    top = run(web.rows([20, 21, *range(13)]))
    assert (web.fetched(), own(top)) == ([20, 21], parts(4))
    moved = web.rows([20, 21, *range(13)])
    random.Random(0).shuffle(moved)
    assert (own(run(moved)), web.fetched()) == ([], [])
    assert {row["uid"]: row["key"] for row in rows_of(top, "listed")}.items() >= keys.items()
    assert own(first) == parts(0, 1, 2)  # as it was


def test_a_second_list_and_rows_that_both_have(run: Run, web: Web) -> None:
    run(web.rows(range(6)))
    web.fetched()
    both = run(web.rows(range(6)), web.rows([3, 4, 6, 7]))
    assert (web.fetched(), run.counts["duplicate_row"]) == ([6, 7], 2)
    swapped = run(web.rows([3, 4, 6, 7]), web.rows(range(6)))
    assert (web.fetched(), own(swapped)) == ([], [])
    assert {row["dataset"] for row in rows_of(both, "listed")} == {"list0", "list1"}


def test_repeated_and_blank_rows_are_counted_not_known(run: Run, web: Web) -> None:
    odd: Rows = [("", "x"), ("", "x"), ("", "y")]
    one = run([*web.rows([0, 1, 1]), *odd])
    assert run.counts == {"rows": 6, "success": 2, "rejected": 4, "blank_url": 3, "duplicate_row": 1}
    more = run([*web.rows([1, 0, 1, 1, 0]), *odd, ("", "x")])
    assert (run.counts["duplicate_row"], run.counts["blank_url"]) == (3, 4)
    assert (own(one), own(more), web.fetched()) == (parts(0, 1), parts(2), [0, 1])
    less = run(web.rows([1, 0]))
    assert (names(less), own(less), run.counts["removed"]) == (parts(0), [], 2)
    run([*web.rows([0, 1, 1]), *odd])
    assert web.fetched() == []


def names(out: Path) -> list[str]:
    return [part.name for part in parquet_files(out)]


def test_rows_that_are_removed_stay_and_come_back(run: Run, web: Web) -> None:
    whole = web.rows(range(10))
    run(whole)
    web.fetched()
    less = run([*whole[:2], *whole[4:]])
    assert read_left_out(less) == {"part-00000.parquet": {"removed": [(2, 3)]}}
    assert (run.counts["rows"], run.counts["removed"]) == (10, 2)
    other = run(whole[:3])  # no row of the second part and the third is in the list
    assert (names(other), run.counts) == (parts(0), {"rows": 4, "success": 3, "removed": 1})
    back = run(whole)
    assert (names(back), own(back), web.fetched()) == (parts(0, 1, 2), [], [])
    assert not (back / LEFT_OUT).exists()


def test_a_limit_is_a_view_of_the_first_rows(run: Run, web: Web) -> None:
    whole = web.rows(range(14))
    small = run(whole, limit=3)
    larger = run(whole, limit=6)
    assert (web.fetched(), own(small), own(larger)) == ([*range(6)], parts(0), parts(1))
    every = run(whole)
    assert (web.fetched(), own(every)) == ([*range(6, 14)], parts(2, 3))
    cut = run(whole, limit=8)
    assert (web.fetched(), names(cut), own(cut)) == ([], parts(0, 1, 2), parts(2))
    assert [row["key"] for row in rows_of(cut, "listed")][5:] == ["0000100002", "0000200000", "0000200001"]
    assert run.counts == {"rows": 8, "success": 8}
    (rows,) = [row for row in rows_of(every, "listed") if row["key"] == "0000200001"]
    assert rows in rows_of(cut, "listed")
    again = run(whole)  # finds the whole part, not the copy of its beginning
    assert (web.fetched(), own(again), names(again)) == ([], [], parts(0, 1, 2, 3))


def test_a_limit_where_rows_were_removed_and_of_two_lists(run: Run, web: Web) -> None:
    a, b = web.rows(range(6)), web.rows([*range(10, 16), 1, 5])
    run(a, b)
    web.fetched()
    less = run([a[0], *a[2:]], b, limit=2)
    assert (web.fetched(), run.counts) == ([], {"rows": 4, "success": 4})  # 0 2, 10 11: 1 is in b, after the limit
    assert {row["caption"] for row in rows_of(less, "listed")} == {"text 0", "text 2", "text 10", "text 11"}
    gone = run([a[0], *a[2:]], [*b[:6], b[7]], limit=2)
    assert run.counts == {"rows": 5, "success": 4, "removed": 1}
    assert [row["caption"] for row in rows_of(gone, "removed")] == ["text 1"]
    run(a, b)
    assert web.fetched() == []


def test_failed_rows_are_tried_again(run: Run, web: Web, capsys: pytest.CaptureFixture[str]) -> None:
    whole = web.rows(range(10))
    web.gone = {"/2": 404, "/3": 500, "/7": 404}
    first = run(whole)
    web.fetched()
    web.gone = {"/2": 404}
    second = run(whole, name="d0-2", retry="failed:http_4xx")
    assert (web.fetched(), own(second)) == ([2, 7], parts(3))
    assert "0 new rows, 2 failed rows tried again" in capsys.readouterr().err
    assert run.counts == {"rows": 10, "success": 8, "failed_to_download": 2, "http_5xx": 1, "http_4xx": 1}
    assert read_left_out(second) == {
        "part-00000.parquet": {"retried": [(2, 2)]},
        "part-00001.parquet": {"retried": [(3, 3)]},
    }
    tried = {row["url"][-2:]: row["attempts"] for row in rows_of(second, "listed")}
    known = [(one["status"], one["error_class"], one["http_status"]) for one in tried["/7"]]
    assert known == [("failed_to_download", "http_4xx", 404), ("success", None, 200)]
    assert [len(tried[row]) for row in ("/1", "/2", "/3")] == [1, 2, 1]
    third = run(whole, name="d0-3", retry="failed")
    assert (web.fetched(), run.counts["success"]) == ([2, 3], 9)
    grown = run(web.rows(range(12)))
    assert (web.fetched(), own(grown), run.counts["success"]) == ([10, 11], parts(5), 11)
    both = run(web.rows(range(13)), retry="failed")
    assert (web.fetched(), own(both)) == ([2, 12], parts(6))
    assert own(first) == parts(0, 1, 2)
    assert {row["uid"] for row in rows_of(third, "listed")} == {row["uid"] for row in rows_of(first, "listed")}


def test_where_there_is_nothing_to_try_again(run: Run, web: Web) -> None:
    whole = web.rows(range(5))
    web.gone = {"/2": 404}
    run(whole)
    with pytest.raises(InputError, match=r"failed:CLASS with one of unsupported_scheme, private_address, .*dns"):
        run(whole, name="new", retry="failed:time_out")
    with pytest.raises(InputError, match="no row of the lists has failed with timeout; there is none to try again"):
        run(whole, name="new", retry="failed:timeout")
    assert [*run.begin("new").iterdir()] == []
    run(web.rows([0, 1, 3, 4, 5]), retry="failed:timeout")  # there is a new row
    with pytest.raises(InputError, match="no row of the lists has failed; "):  # the one that has is not listed
        run(web.rows([0, 1, 3, 4, 5]), name="another", retry="failed")


def test_new_rows_and_rows_tried_again_copy_the_picture_of_their_url(run: Run, web: Web) -> None:
    whole = web.rows(range(6))
    web.gone = {"/3": 404}
    run(whole)
    web.fetched()
    edited = [*whole[:5], (whole[5][0], "another"), (whole[2][0], "a second"), (whole[3][0], "of none")]
    out = run(edited)
    rows = {row["caption"]: row for row in rows_of(out, "listed")}
    assert web.fetched() == [5]  # the row that had it is in no list any more
    assert rows["another"]["same_as"] is None
    assert rows["a second"]["same_as"] == rows["text 2"]["key"]
    assert rows["a second"]["jpg"] == rows["text 2"]["jpg"]
    assert rows["of none"]["error_message"] == f"the row {rows['text 3']['key']} with this URL failed"
    web.gone = {}
    out = run(edited, retry="failed")
    rows = {row["caption"]: row for row in rows_of(out, "listed")}
    assert web.fetched() == [3]
    assert rows["of none"]["same_as"] == rows["text 3"]["key"]
    assert rows["of none"]["status"] == rows["text 3"]["status"] == "success"


class Killed(BaseException):
    """Stands for a kill -9."""


def kill_after(monkeypatch: pytest.MonkeyPatch, num_shards: int) -> Callable[[], None]:
    """Let the next download die once it has written so many parts; the function that is returned lets it live."""
    made, real = [0], ShardDownload.__call__

    def dying(self: ShardDownload, shard: Any) -> Iterator[Any]:
        if made[0] == num_shards:
            raise Killed
        made[0] += 1
        yield from real(self, shard)

    monkeypatch.setattr(ShardDownload, "__call__", dying)
    return lambda: monkeypatch.setattr(ShardDownload, "__call__", real)


def test_a_retry_that_was_killed_goes_on(run: Run, web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = web.rows(range(12))
    web.gone = {f"/{n}": 404 for n in range(11)}
    run(whole)
    web.fetched()
    web.gone = {"/0": 404, "/8": 404}
    live = kill_after(monkeypatch, 1)
    with pytest.raises(Killed):
        run(whole, name="again", retry="failed")
    live()
    assert web.fetched() == [0, 1, 2, 3]
    again = run(whole, name="again", retry="failed")
    assert web.fetched() == [*range(4, 11)]  # 0, which failed again, had its try
    assert (own(again), run.counts["success"]) == (parts(3, 4, 5), 10)


def test_a_retry_is_gone_on_with_after_its_parts_went_elsewhere(
    run: Run, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed, the list grows out of what it had, and then it is asked for again."""
    whole = web.rows(range(12))
    web.gone = {f"/{n}": 404 for n in range(11)}
    run(whole)
    web.fetched()
    web.gone = {"/0": 404}
    live = kill_after(monkeypatch, 1)
    with pytest.raises(Killed):
        run(whole, name="again", retry="failed")
    live()
    run.kin.append(run.begin("again"))
    web.fetched()
    grown = run(web.rows(range(14)))
    assert (web.fetched(), own(grown), run.counts["success"]) == ([12, 13], parts(6), 6)
    again = run(whole, name="again", retry="failed")
    assert (web.fetched(), own(again)) == ([*range(4, 11)], parts(3, 4, 5))


def test_parts_of_another_size(run: Run, web: Web) -> None:
    run(web.rows(range(10)))
    web.fetched()
    larger = run(web.rows(range(30)), rows_per_shard=9)
    assert (web.fetched(), own(larger)) == ([*range(10, 30)], parts(3, 4, 5))
    assert [len(read_parquet(part)) for part in parquet_files(larger)] == [4, 4, 2, 9, 9, 2]


def test_what_is_half_made_has_parts_too(run: Run, web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = web.rows(range(12))
    live = kill_after(monkeypatch, 1)
    with pytest.raises(Killed):
        run(whole, name="half")
    live()
    run.kin = [run.begin("half")]
    assert web.fetched() == [0, 1, 2, 3]
    grown = run(web.rows(range(13)), name="grown")
    assert (web.fetched(), own(grown)) == ([*range(4, 13)], parts(3, 4, 5))  # 1 and 2 may still be fetched there
    half = run(whole, name="half")
    assert (web.fetched(), names(half), own(half)) == ([], parts(0, 3, 4), parts(0))


def test_killed_while_the_lists_are_cut(run: Run, web: Web) -> None:
    """Shards without a plan: some of them, cut of the same lists."""
    whole = web.rows(range(12))
    config = run.config([whole], {})
    write_shards(config.urls, run.begin("half") / "rows", 4, limit=7)
    half = run(whole, name="half")
    assert (own(half), web.fetched()) == (parts(0, 1, 2), [*range(12)])


def test_a_plan_that_lost_a_shard_is_made_anew(run: Run, web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = web.rows(range(12))
    live = kill_after(monkeypatch, 1)
    with pytest.raises(Killed):
        run(whole, name="half")
    live()
    (run.begin("half") / "rows" / "part-00001.parquet").unlink()
    with pytest.raises(AccountingError, match="8 rows for 12 of the lists; run again"):
        run(whole, name="half")
    half = run(whole, name="half")
    assert (own(half), web.fetched()) == (parts(0, 2, 3), [*range(12)])


@pytest.mark.parametrize("damage", ["lost", "cut short"])
def test_a_lost_part_is_fetched_alone_under_its_keys(run: Run, web: Web, damage: str) -> None:
    """Of a whole artifact, as the loop has it made anew: the damaged file is taken away, the MANIFEST stays."""
    whole = web.rows(range(10))
    first = run(whole)
    before = known_by(describe_files(first))
    web.fetched()
    spoil(first / "part-00001.parquet", damage)
    (first / "part-00001.parquet").unlink(missing_ok=True)
    run(whole, name="d0")
    assert (web.fetched(), known_by(describe_files(first))) == ([4, 5, 6, 7], before)
    (first / "rows" / "part-00002.parquet").unlink()
    run(whole, name="d0")
    assert (web.fetched(), known_by(describe_files(first))) == ([], before)
    for folder in (first, first / "rows"):
        (folder / "part-00000.parquet").unlink()
    run(whole, name="d0")
    assert (web.fetched(), names(first)) == ([0, 1, 2, 3], parts(1, 2, 3))


def spoil(part: Path, damage: str) -> None:
    if damage == "lost":
        part.unlink()
    else:
        part.write_bytes(part.read_bytes()[:-30])


def test_a_lost_part_is_taken_from_another_artifact(run: Run, web: Web) -> None:
    whole = web.rows(range(10))
    first = run(whole)
    copy = run.begin("copy")
    shutil.copytree(first, copy, dirs_exist_ok=True)
    run.kin.append(copy)
    web.fetched()
    (first / "part-00001.parquet").unlink()
    run(whole, name="d0")
    assert (web.fetched(), own(first)) == ([], parts(0, 2))


def test_a_lost_part_of_a_version_with_rows_left_out(run: Run, web: Web) -> None:
    """Its file lies in another artifact. A picture is gone by now: the row is the one that failed again."""
    web.gone = {"/1": 404, "/9": 404}
    first = run(web.rows(range(10)))
    web.fetched()
    web.gone = {"/9": 404}
    second = run(web.rows([0, 1, *range(3, 10)]), retry="failed")
    assert run.counts["removed"] == 1
    web.fetched()
    web.gone = {"/0": 404, "/1": 404, "/9": 404}
    (first / "part-00000.parquet").unlink()
    (second / "part-00000.parquet").unlink()
    (second / LEFT_OUT).unlink()
    run(web.rows([0, 1, *range(3, 10)]), name=second.name)
    assert web.fetched() == [0, 3]  # 1 is in the part that was tried again; 2 is in no list, and its picture is gone
    second_parts = {part.name: part.is_symlink() for part in parquet_files(second)}
    assert second_parts["part-00001.parquet"]
    (second / "part-00003.parquet").unlink()
    run(web.rows([0, 1, *range(3, 10)]), name=second.name)
    assert web.fetched() == [1, 9]


@pytest.mark.parametrize("damage", ["lost", "cut short"])
def test_the_list_grows_and_a_part_is_damaged(
    run: Run, web: Web, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is fetched again under its keys, so that what was made of its rows still fits."""
    first = run(web.rows(range(10)))
    web.fetched()
    spoil(first / "part-00001.parquet", damage)
    grown = run(web.rows([*range(5), *range(6, 12)]))
    assert (web.fetched(), own(grown)) == ([4, 6, 7, 10, 11], parts(1, 3))
    assert [row["key"] for row in rows_of(grown, "listed")][4:7] == ["0000100000", "0000100002", "0000100003"]
    assert ("not a readable Parquet file" in capsys.readouterr().err) == (damage == "cut short")


def as_before(out: Path) -> None:
    """Make it what an earlier version left: without the rows of the lists."""
    shutil.rmtree(out / "rows")
    manifest = json.loads((out / "MANIFEST.json").read_text())
    manifest["files"] = [one for one in manifest["files"] if not one["name"].startswith("rows/")]
    (out / "MANIFEST.json").write_text(json.dumps(manifest))


def test_an_artifact_of_a_version_before_grows_and_is_repaired(run: Run, web: Web) -> None:
    whole = web.rows(range(10))
    first = run(whole)
    as_before(first)
    before = known_by(describe_files(first))
    web.fetched()
    grown = run(web.rows(range(11)))
    assert (web.fetched(), own(grown)) == ([10], parts(3))
    for part in parquet_files(first):
        part.unlink()
    config = run.config([whole], {})
    counts = download_images(first, config.urls[0].path, config=config, ray=HERE)
    assert (web.fetched(), known_by(describe_files(first))) == ([*range(10)], before)
    assert counts == {"rows": 10, "success": 10}
    (first / "part-00001.parquet").unlink()
    download_images(first, config.urls[0].path, config=config, ray=HERE, kin=[grown])
    assert (web.fetched(), known_by(describe_files(first))) == ([4, 5, 6, 7], before)


def test_a_download_that_a_version_before_has_begun(run: Run, web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = web.rows(range(12))
    live = kill_after(monkeypatch, 1)
    with pytest.raises(Killed):
        run(whole, name="half")
    live()
    out = run.begin("half")
    (out / ".plan.json").unlink()
    (out / "rows").rename(out / ".lists")
    web.fetched()
    run.kin = [out]
    grown = run(web.rows(range(12, 14)), name="other")
    assert (web.fetched(), own(grown)) == ([12, 13], parts(3))
    half = run(whole, name="half")
    assert (web.fetched(), own(half)) == ([*range(4, 12)], parts(0, 1, 2))


def test_two_artifacts_of_a_version_before_that_are_at_odds(
    run: Run, web: Web, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both have a first part, of other rows: that of the artifact which is shown counts, and is not lost."""
    other, shown = Run(run.folder), Run(run.folder)
    other(web.rows(range(100, 107)), name="other")
    shown(web.rows(range(6)), name="shown")
    web.fetched()
    run.kin = [*shown.kin, *other.kin]
    both = run(web.rows([*range(100, 107), *range(6)]))
    assert web.fetched() == [100, 101, 102, 103, 104, 105, 106]
    assert (own(both), "left aside, it has other rows than" in capsys.readouterr().err) == (parts(2, 3), True)


def stub(row: dict[str, Any], gone: set[str], asked: Counter[str]) -> dict[str, Any]:
    """A row of images without a web: it fails where its URL is `gone`."""
    row = {**dict.fromkeys(IMAGES.schema.names), **row}
    if row["status"]:
        return row
    asked[row["url"]] += 1
    if row["url"] in gone:
        return row | {"status": "failed_to_download", "error_class": "http_4xx", "error_message": "gone"}
    return row | {"status": "success", "jpg": row["url"].encode()}


@pytest.mark.parametrize("seed", [1, 2, pytest.param(0, marks=pytest.mark.long)])
def test_any_order_of_changes(run: Run, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Lists are changed at random, with limits, retries and kills: rows are there once, and are fetched once."""
    draw, asked, gone = random.Random(seed), Counter[str](), set[str]()
    kills = [False]

    def fetch_rows(rows: list[dict[str, Any]], *_: object) -> Iterator[dict[str, Any]]:
        if kills[0] and draw.random() < 0.3:
            raise Killed
        return iter([stub(row, gone, asked) for row in rows])

    monkeypatch.setattr(download, "rows_or_word", fetch_rows)
    monkeypatch.setattr(download, "WebStore", lambda _: nullcontext())
    every = [(f"http://web/{n}", "" if n % 7 == 0 else f"t{n}") for n in range(60)] + [("", ""), ("", "x")]
    succeeded = set[str]()
    lists = [draw.choices(every[:30], k=12)]
    for step in range(12):
        lists = changed(lists, every, draw)
        gone = {url for url, _ in every if draw.random() < 0.3}
        retry = draw.choice([None, None, "failed", "failed:http_4xx"])
        settings = {"limit": draw.choice([None, None, 3, 9, 15]), "rows_per_shard": draw.choice([3, 4, 7])}
        asked.clear()
        for kills[0] in (draw.random() < 0.4, False):
            try:
                run(*lists, name=f"s{step}", retry=retry, **settings)
            except Killed:
                if draw.random() < 0.5:
                    run.kin.append(run.begin(f"s{step}"))
                    break
            except InputError:  # there is none to try again
                break
            else:
                break
        assert max(asked.values(), default=0) <= 1
        assert not asked.keys() & succeeded
        succeeded |= asked.keys() - gone


def changed(lists: list[Rows], every: Rows, draw: random.Random) -> list[Rows]:
    lists = [list(rows) for rows in lists]
    rows = draw.choice(lists)
    how = draw.randrange(6)
    if how == 0:
        rows.extend(draw.choices(every, k=5))
    elif how == 1:
        rows[:0] = draw.choices(every, k=3)
    elif how == 2:
        draw.shuffle(rows)
    elif how == 3 and len(rows) > 4:
        del rows[draw.randrange(len(rows) - 3) :][:3]
        rows.extend(draw.choices(every, k=1))
    elif how == 4 and len(lists) < 3:
        lists.append(draw.choices(every, k=4))
    elif len(lists) > 1:
        lists.pop(0)
    return lists
