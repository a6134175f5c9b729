"""Spot checks: drawing, answering on the local page, and what the answers say."""

from __future__ import annotations

import random
import shutil
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blip_bootstrap.errors import InputError
from blip_bootstrap.labels.estimates import estimates, estimates_of
from blip_bootstrap.labels.page import HOST, Labelling, LabelServer, serve_labels
from blip_bootstrap.labels.sample import answer_by_truth, draw_sample
from blip_bootstrap.labels.truth import Truth, load_truth
from blip_bootstrap.query.questions import query
from blip_bootstrap.query.views import connect
from blip_bootstrap.schemas import shown_tables, tables
from blip_bootstrap.schemas.text_columns import SCORES
from blip_bootstrap.select.logistic import wilson
from blip_bootstrap.storage import parquet
from blip_bootstrap.storage.labels import read_labels, write_labels
from blip_bootstrap.storage.run_folder import labels_path


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def test_the_sample_is_stratified_repeatable_and_unanswered(run: Path) -> None:
    path = draw_sample(run, 1, size=40)
    rows = read_labels(path)
    assert Counter((row["source"], row["kept"]) for row in rows) == {
        ("web", True): 10, ("web", False): 10, ("synthetic", True): 10, ("synthetic", False): 10,
    }  # fmt: skip
    assert {row["answer"] for row in rows} == {None}
    assert read_labels(draw_sample(run, 1, size=40)) == rows
    assert read_labels(draw_sample(run, 1, size=40, seed=1)) != rows


def test_a_sample_is_the_first_of_each_stratum_by_the_seeds_order(run: Path) -> None:
    """As a sort of all texts would have it, which takes memory that grows with them."""
    rank = "row_number() OVER (PARTITION BY source, kept ORDER BY md5_number_lower({}), key)"
    place = rank.format("concat_ws(' ', 3, key, source, candidate)")
    total = "count(*) OVER (PARTITION BY source, kept) AS stratum_rows"
    asked = (
        f"SELECT key, source, candidate, kept, {place} AS place, {total} "
        "FROM pairs WHERE round = 1 AND coalesce(reason, '') <> 'empty_text'"
    )
    with connect(run) as connection:
        ordered = query(connection, f"{asked} ORDER BY place, source DESC, kept DESC LIMIT 70").to_pylist()
    sample = read_labels(draw_sample(run, 1, size=70, seed=3))
    for name in ("key", "source", "candidate", "kept", "stratum_rows"):
        assert [row[name] for row in sample] == [row[name] for row in ordered]
    with_texts = {(row["key"], row["source"]): row["caption"] for row in sample}
    with connect(run) as connection:
        found = query(connection, "SELECT key, source, caption FROM pairs WHERE round = 1").to_pylist()
    texts = {(row["key"], row["source"]): row["caption"] for row in found}
    assert all(texts[name] == text for name, text in with_texts.items())
    assert len(read_labels(draw_sample(run, 1, size=10_000))) == 155, "all but the empty one"


def test_a_sample_of_one_source_spends_all_answers_there(run: Path) -> None:
    rows = read_labels(draw_sample(run, 1, size=40, sources=["web"]))
    assert Counter((row["source"], row["kept"]) for row in rows) == {("web", True): 20, ("web", False): 20}
    assert {row["stratum_rows"] for row in rows if row["kept"]} == {50}


def test_a_sample_has_every_score_of_its_texts(run: Path) -> None:
    """So that a rule can be learned from the file alone; a score that the captions lack is null."""
    scores = ("captioner", "num_tokens", "itc_score", "logprob", "clip_score", *(one.name for one in SCORES))
    files = parquet.parquet_files(run / "round-01/captions")
    for file in files:
        table = parquet.read_parquet(file)
        rows = [row | {"lift": len(row["caption"]) / 10, "captioner": "some/model"} for row in table.to_pylist()]
        parquet.write_parquet(file, parquet.rows_to_table(rows, tables.CAPTIONS), tables.CAPTIONS)
    captions = [row for file in files for row in parquet.read_parquet(file).to_pylist()]
    known = {(row["key"], row["source"], row["candidate"]): row for row in captions}
    path = draw_sample(run, 1, size=40)
    assert parquet.read_parquet(path).schema.equals(shown_tables.LABELS.schema)
    rows = read_labels(path)
    for row in rows:
        of_captions = known[row["key"], row["source"], row["candidate"]]
        assert {name: row[name] for name in scores} == {name: of_captions[name] for name in scores}
    assert all(row["lift"] and row["agreement"] is None for row in rows)
    assert {row["itc_score"] for row in read_labels(draw_sample(run, 0, size=10))} == {None}, "round 0 has no captions"


def test_captions_made_before_the_scores_give_null(run: Path) -> None:
    for file in parquet.parquet_files(run / "round-01/captions"):
        pq.write_table(parquet.read_parquet(file).drop_columns([one.name for one in SCORES]), file)
    rows = read_labels(draw_sample(run, 1, size=40))
    assert len(rows) == 40
    assert {row["lift"] for row in rows} == {None}
    assert all(row["itc_score"] is not None for row in rows)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [({"answer": "maybe"}, "row 1: .*'maybe'"), ({"key": None}, "row 1: key None"), ({"source": None}, "source None")],
)
def test_a_row_that_is_no_answer_is_told(run: Path, wrong: dict[str, object], told: str) -> None:
    path = draw_sample(run, 1, size=4)
    rows = read_labels(path)
    write_labels(path, [rows[0], rows[1] | wrong, *rows[2:]])
    for ask in (lambda: estimates(run, 1), lambda: Labelling(run, 1)):
        with pytest.raises(InputError, match=told):
            ask()


def test_a_text_to_judge_cannot_become_markup(run: Path) -> None:
    path = draw_sample(run, 1, size=2)
    write_labels(path, [row | {"caption": "</figcaption><script>alert(1)</script>"} for row in read_labels(path)])
    page = Labelling(run, 1).page()
    assert page.count("<script") == 1
    assert "&lt;script&gt;alert(1)" in page


def test_answers_are_not_drawn_over(run: Path) -> None:
    path = draw_sample(run, 1, size=4)
    rows = read_labels(path)
    write_labels(path, [rows[0] | {"answer": "yes"}, *rows[1:]])
    with pytest.raises(InputError, match="has answers already"):
        draw_sample(run, 1, size=4)


def test_estimates_by_truth_contain_the_truth(run: Path) -> None:
    draw_sample(run, 1, size=200)
    truth = load_truth(run / "truth.tsv")
    assert answer_by_truth(run, 1, truth) == 77, "only web texts have a truth here"
    found = {(one.name, one.source): one for one in estimates(run, 1)}
    noise = found["noise", "web"]
    assert noise.low is not None
    assert noise.high is not None
    assert noise.low < 24 / 77 < noise.high
    assert found["noise", "synthetic"].share is None
    assert found["precision", "web"].share == pytest.approx(49 / 50)


def test_intervals_of_stratified_samples_cover_as_promised() -> None:
    """1,000 spot checks of 60 texts in a made-up round: at least some 93 % of the intervals hold the truth."""
    rng = random.Random(3)
    strata = {("web", True): (9000, 0.05), ("web", False): (3000, 0.7)}
    total = sum(rows for rows, _ in strata.values())
    noise = sum(rows * share for rows, share in strata.values()) / total
    recall = 9000 * 0.95 / (9000 * 0.95 + 3000 * 0.3)
    held = Counter[str]()
    for _ in range(1000):
        rows = [
            {"source": source, "kept": kept, "stratum_rows": size, "answer": "no" if rng.random() < share else "yes"}
            for (source, kept), (size, share) in strata.items()
            for _ in range(30)
        ]
        for one in estimates_of("web", rows):
            truth = {"noise": noise, "noise_kept": 0.05, "precision": 0.95, "recall": recall}[one.name]
            held[one.name] += (one.low or 0) <= truth <= (one.high or 0)
    assert min(held.values()) >= 930, held


def test_wilson_of_a_plain_sample() -> None:
    assert wilson(0.3, 10) == pytest.approx((0.1078, 0.6032), abs=1e-4)
    assert wilson(0.0, 20)[0] == 0


def test_answers_of_another_program_are_read(run: Path) -> None:
    """NaN where nothing is, bytes for texts; lists are told by their row, a column that is there twice by its file."""
    path = draw_sample(run, 1, size=4)
    table = parquet.read_parquet(path)
    for answers, found in (([b"yes", None, b"", b"no"], ["yes", None, None, "no"]), ([float("nan")] * 4, [None] * 4)):
        at = table.schema.get_field_index("answer")
        pq.write_table(table.set_column(at, "answer", pa.array(answers)), path)
        assert [row["answer"] for row in read_labels(path)] == found
    pq.write_table(table.set_column(at, "answer", pa.array([["yes"]] * 4)), path)
    with pytest.raises(InputError, match="row 0: a list of 1 where a text was expected"):
        read_labels(path)
    pq.write_table(table.append_column("answer", table["answer"]), path)
    with pytest.raises(InputError, match="a column is there twice"):
        read_labels(path)


def test_a_file_that_holds_no_labels_is_told(run: Path) -> None:
    with pytest.raises(InputError, match="draw a sample first"):
        estimates(run, 0)
    with pytest.raises(InputError, match="no sample to label"):
        Labelling(run)
    parquet.write_parquet(labels_path(run, 0), parquet.rows_to_table([], tables.PAIRS), tables.PAIRS)
    with pytest.raises(InputError, match="answer, round, stratum_rows"):
        read_labels(labels_path(run, 0))


def post(port: int, **sent: str) -> str:
    body = urllib.parse.urlencode(sent).encode()
    with urllib.request.urlopen(f"http://{HOST}:{port}/", data=body, timeout=10) as response:
        return str(response.read().decode())


def test_answers_on_the_page_go_to_the_file_at_once(run: Path) -> None:
    path = draw_sample(run, 1, size=3)
    labelling = Labelling(run)
    with LabelServer(0, labelling) as server:
        port, token = server.server_port, labelling.token
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}/", timeout=10) as response:
                page = response.read().decode()
            assert "0 of 3 answered" in page
            assert "data:image/jpeg;base64," in page
            assert "ITM" not in page, "the score would sway the answer"
            post(port, at="0", token=token, answer="yes")
            assert [row["answer"] for row in read_labels(path)] == ["yes", None, None]
            post(port, at="1", token=token, answer="back")
            post(port, at="0", token=token, answer="no")
            post(port, at="1", token=token, answer="unsure")
            assert "All texts have an answer" in post(port, at="2", token=token, answer="no")
            for wrong in ({"token": "x"}, {"at": "9"}, {"answer": "maybe"}, {"at": "-1"}):
                with pytest.raises(urllib.error.HTTPError) as caught:
                    post(port, **({"at": "0", "token": token, "answer": "yes"} | wrong))
                caught.value.close()
            foreign = urllib.request.Request(f"http://{HOST}:{port}/", headers={"Host": "evil.example"})
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(foreign, timeout=10)
            caught.value.close()
        finally:
            server.shutdown()
            thread.join()
    assert [row["answer"] for row in read_labels(path)] == ["no", "unsure", "no"]


def test_serving_ends_when_all_is_answered(run: Path) -> None:
    path = draw_sample(run, 1, size=2)
    write_labels(path, [row | {"answer": "yes"} for row in read_labels(path)])
    said: list[str] = []
    assert serve_labels(run, 1, 0, said.append) == path
    assert "all 2 texts are answered" in said[-1]


def test_a_partial_text_fits(run: Path) -> None:
    draw_sample(run, 1, size=200)
    answer_by_truth(run, 1, Truth({f"{at:03d}.jpg": "partial" for at in range(80)}, {}))
    assert {row["answer"] for row in read_labels(labels_path(run, 1)) if row["source"] == "web"} == {"yes"}


def test_the_ends_of_an_interval_are_exact() -> None:
    for number in (1, 7, 17.16, 27, 1000):
        assert wilson(0.0, number)[0] == 0.0
        assert wilson(1.0, number)[1] == 1.0
