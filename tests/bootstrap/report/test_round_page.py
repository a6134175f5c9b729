"""The page of a round: whole, self-contained, safe, the same bytes for the same run."""

from __future__ import annotations

import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from blip_bootstrap.config import ReportConfig, SelectConfig
from blip_bootstrap.html import gallery as gallery_module
from blip_bootstrap.html.charts import Segment, histogram, lines, stack
from blip_bootstrap.html.gallery import galleries_html
from blip_bootstrap.labels.sample import draw_sample
from blip_bootstrap.query.questions import query
from blip_bootstrap.query.views import connect
from blip_bootstrap.report.round_page import page_html, write_report
from blip_bootstrap.report.why import story_html, why
from blip_bootstrap.schemas import tables
from blip_bootstrap.select.pairs import select_pairs
from blip_bootstrap.storage import parquet
from blip_bootstrap.storage.labels import read_labels, write_labels
from blip_bootstrap.storage.run_folder import languages_path

VOID = {"meta", "img", "br", "polyline", "line"}


class Checker(HTMLParser):
    """Balanced tags, unique ids, no reference to anything outside the page, an alt text for every picture."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.pictures = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if "id" in found:
            self.ids.append(found["id"] or "")
        if tag == "a":
            self.links.append(found["href"] or "")
        if tag == "img":
            self.pictures += 1
            assert found["alt"]
            assert (found["src"] or "").startswith("data:image/jpeg;base64,")
        assert tag not in ("script", "link", "iframe")
        assert tag != "svg" or (found["role"] == "img" and found["aria-label"])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def checked(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert len(checker.ids) == len(set(checker.ids))
    assert {link.removeprefix("#") for link in checker.links} <= set(checker.ids)
    assert "http-equiv" in page
    return checker


def test_the_page_is_whole_and_self_contained(finished_run: Path) -> None:
    page = page_html(finished_run, 1, ReportConfig())
    checker = checked(page)
    assert checker.pictures > 20
    for told in ("below_threshold", "Near the threshold", "itm_threshold", "threshold 0.5", "human set only", "98.0"):
        assert told in page
    assert page == page_html(finished_run, 1, ReportConfig())


def test_round_0_has_no_captioner_to_show(finished_run: Path) -> None:
    page = page_html(finished_run, 0, ReportConfig(num_gallery=3))
    assert checked(page).pictures <= 3 * 3
    assert "Any pictures" in page
    assert "Scores of the filter" not in page


def test_the_galleries_show_what_they_say(finished_run: Path) -> None:
    with connect(finished_run, [1]) as connection:
        found = {
            gallery.title: re.findall(r'<span class="key">(\d+)</span>', html)
            for gallery, html in galleries_html(connection, 1, 6, seed=0, threshold=0.5)
        }
        assert galleries_html(connection, 1, 0, seed=0, threshold=0.5) == []
        rows = query(connection, "FROM pairs WHERE round = 1").to_pylist()
    of_image: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        of_image.setdefault(row["key"], []).append(row)

    def fates(key: str) -> set[tuple[str, bool]]:
        return {(row["source"], row["kept"]) for row in of_image[key]}

    def scores(key: str) -> list[float]:
        return [row["itm_score"] for row in of_image[key] if row["itm_score"] is not None]

    turned = {key for key in of_image if {("web", False), ("synthetic", True)} <= fates(key)}
    dropped = {key for key in of_image if not any(kept for _, kept in fates(key))}
    for title, fitting in (("Web text dropped, synthetic text kept", turned), ("Everything dropped", dropped)):
        assert set(found.get(title, ())) <= fitting
        assert len(found.get(title, ())) == min(6, len(fitting))
    assert turned, "the run has none, so that nothing was tested"
    near = sorted(of_image, key=lambda key: (min((abs(s - 0.5) for s in scores(key)), default=9), key))
    assert found["Near the threshold"] == near[:6]
    apart = sorted(
        (key for key in of_image if len(scores(key)) > 1), key=lambda key: (min(scores(key)) - max(scores(key)), key)
    )
    assert found["Most surprising"] == apart[:6]


def test_a_run_with_nothing_but_pairs_still_gets_a_page(finished_run: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_run / "round-01/pairs", tmp_path / "round-01/pairs")
    (tmp_path / "round-01/pairs/MANIFEST.json").unlink()
    page = page_html(tmp_path, 1, ReportConfig())
    assert "no picture" in page
    checked(page)


def test_a_spot_check_that_was_answered_is_shown(finished_run: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(finished_run, tmp_path / "run"))
    assert "Spot check" not in page_html(root, 1, ReportConfig(num_gallery=1))
    path = draw_sample(root, 1, 40)
    write_labels(path, [row | {"answer": "yes" if row["kept"] else "no"} for row in read_labels(path)])
    page = page_html(root, 1, ReportConfig(num_gallery=1))
    checked(page)
    assert "Spot check" in page
    assert "precision, web" in page


def test_texts_of_the_web_cannot_become_markup(tmp_path: Path) -> None:
    row = {"key": "<b>k", "source": "web", "candidate": 0, "caption": "<script>alert(1)</script> & \"'", "kept": True,
           "itm_score": None, "reason": None}  # fmt: skip
    folder = tmp_path / "round-00/pairs"
    parquet.write_parquet(folder / "part-00000.parquet", parquet.rows_to_table([row], tables.PAIRS), tables.PAIRS)
    page = page_html(tmp_path, 0, ReportConfig())
    checked(page)
    assert "&lt;script&gt;" in page


def test_the_run_and_the_command_write_the_same_page(finished_run: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(finished_run, tmp_path / "run"))
    path = write_report(root, 1, ReportConfig(num_gallery=5))
    made, beside = path.read_bytes(), root / "round-01/.report.html.MANIFEST.json"
    record = json.loads(beside.read_text())
    assert (path, record["files"][0]["bytes"]) == (root / "round-01/report.html", len(made))
    assert record["settings"]["num_gallery"] == 5
    path.write_text("damaged")
    os.utime(beside, ns=(1, 1))
    assert write_report(root, always=True).read_bytes() == made  # as it was written, so with its settings
    assert beside.stat().st_mtime_ns > 1


def test_a_page_is_written_again_when_anything_that_it_shows_changes(finished_run: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(finished_run, tmp_path / "run"))
    said: list[str] = []

    def is_written(num_gallery: int = 1) -> bool:
        """Whether it was; and in no other case was the file touched."""
        said.clear()
        path = root / "round-01/report.html"
        before = path.read_bytes() if path.exists() else b""
        if before:
            os.utime(path, ns=(1, 1))
        write_report(root, 1, ReportConfig(num_gallery=num_gallery), say=said.append)
        assert (path.stat().st_mtime_ns == 1) == (path.read_bytes() == before)
        assert path.read_bytes() == before or len(said) == 2
        return len(said) == 2

    assert is_written()
    assert not is_written()
    path = draw_sample(root, 1, 40)
    write_labels(path, [row | {"answer": "yes" if row["kept"] else "no"} for row in read_labels(path)])
    assert is_written()
    assert said[0].endswith("write_report, because of another labels/round-01.parquet")
    assert "precision, web" in (root / "round-01/report.html").read_text()
    assert not is_written()
    languages_path(root, 1).unlink()
    assert is_written()
    before = json.loads((root / "round-00/metrics.json").read_text())
    (root / "round-00/metrics.json").write_text(json.dumps(before | {"cider": 9.125}))
    assert is_written()
    assert "was 9.125" in (root / "round-01/report.html").read_text()
    limit = {"download": {"max_failed_share": 0.01}}
    (root / "config.yaml").write_text(yaml.safe_dump(limit))
    assert is_written()
    assert said[0].endswith("because of another limits")
    (root / "config.yaml").write_text(yaml.safe_dump(limit | {"seed": 7}))
    assert not is_written()
    assert is_written(num_gallery=2)
    assert not is_written(num_gallery=2)


def test_a_page_of_an_earlier_version_is_current_until_something_that_it_shows_is_newer(
    finished_run: Path, tmp_path: Path
) -> None:
    """Its record names three inputs, by the names of the steps' artifacts."""
    root = Path(shutil.copytree(finished_run, tmp_path / "run"))
    beside, config, said = root / "round-01/.report.html.MANIFEST.json", ReportConfig(num_gallery=1), list[str]()
    write_report(root, 1, config)
    record = json.loads(beside.read_text())
    record["recipe"]["inputs"] = {"images": "a", "round-01/pairs": "b", "round-01/metrics.json": "c"}
    del record["checksum"]
    beside.write_text(json.dumps(record))
    write_report(root, 1, config, say=said.append)
    assert said == ["round-01/report.html: current"]
    path = draw_sample(root, 1, 40)
    write_labels(path, [row | {"answer": "yes" if row["kept"] else "no"} for row in read_labels(path)])
    assert "precision, web" in write_report(root, 1, config).read_text()


def test_what_is_few_is_not_shown_as_none() -> None:
    drawn = stack("URLs", [Segment("downloaded", 99_999, "kept"), Segment("timeout", 1, "dropped")], 100_000)
    assert "timeout 1 (under 0.1%)" in drawn


def test_charts_of_little_and_of_much() -> None:
    assert lines("none", {"loss": []}, ("web",)) == ""
    assert histogram("none", [0, 0], 0.5) == ""
    assert "polyline" in lines("one", {"loss": [(0.0, 1.0)]}, ("web",))
    long = lines("long", {"loss": [(float(step), 1 / (step + 1)) for step in range(100_000)]}, ("web",))
    assert len(long) < 10_000
    drawn = histogram("scores", [1, 2, 3, 4], 0.5)
    assert drawn.count("filled dropped") == drawn.count("filled kept") == 2
    assert "30.0% below" in drawn


def test_galleries_of_a_large_round_are_chosen_among_an_even_sample(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shown() -> dict[str, list[str]]:
        with connect(finished_run, [1]) as connection:
            found = galleries_html(connection, 1, 100, seed=0, threshold=0.5)
        return {gallery.title: re.findall(r'<span class="key">(\d+)</span>', html) for gallery, html in found}

    every = shown()
    monkeypatch.setattr(gallery_module, "AMONG", 20)
    some = shown()
    among = set(some["Any pictures"])
    assert 10 <= len(among) <= 35 < len(every["Any pictures"])
    for title, keys in some.items():
        assert set(keys) <= among & set(every[title])
    assert some == shown()


def selected_by(finished_run: Path, root: Path, **rule: Any) -> Path:
    """A copy of the run whose round 1 was selected by another rule."""
    shutil.copytree(finished_run, root)
    shutil.rmtree(root / "round-01/pairs")
    select_pairs(root / "round-01/pairs", root / "round-01/captions", config=SelectConfig.model_validate(rule))
    return root


ITC = {"strategy": "fraction", "score": "itc", "keep_fraction": 0.4}
RANKS = {"strategy": "fraction", "score": ["itm", "itc"], "keep_fraction": {"web": 0.3, "synthetic": 0.6}}
TOP = {"strategy": "top_k", "score": ["itm", "itc"]}


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ({}, r"ITM (?P<score>\d\.\d{3}) \(cut (?P<cut>0\.500)\)"),
        (ITC, r"ITC (?P<score>\d\.\d{3}) \(cut (?P<cut>\d\.\d{3})\) · ITM \d\.\d{3}"),
        (RANKS, r"rule (?P<score>\d\.\d{3}) \(cut (?P<cut>\d\.\d{3})\) · ITM \d\.\d{3}"),
        (TOP, r"ITM (?P<score>\d\.\d{3}) \(cut (?P<cut>0\.500)\) · rule \d\.\d{3}"),
    ],
)
def test_galleries_and_stories_show_the_score_that_decided(
    finished_run: Path, tmp_path: Path, rule: dict[str, Any], told: str
) -> None:
    root = selected_by(finished_run, tmp_path / "run", **rule)
    with connect(root, [1]) as connection:
        found = galleries_html(connection, 1, 30, seed=0, threshold=None)
    texts = re.findall(
        r'<span class="fate"><b>(\w+)</b> · (\w+) · ([^<]*)</span>', dict(found_titles(found))["Any pictures"]
    )
    assert len(texts) > 30
    cuts: dict[str, set[str]] = {}
    for fate, source, scores in texts:
        if scores in ("empty_text", "not_scored"):
            continue
        match = re.match(told, scores)
        assert match, scores
        cuts.setdefault(source, set()).add(match["cut"])
        below = float(match["score"]) < float(match["cut"])
        if match["score"] != match["cut"]:
            assert ("below_threshold" in scores) == below or fate == "dropped"
    assert all(len(each) == 1 for each in cuts.values())
    assert (cuts["web"] != cuts["synthetic"]) == (rule == RANKS), "ranks have a cut of each source"
    assert re.search(told, story_html(why(root, "0000000010")))


def found_titles(found: list[tuple[gallery_module.Gallery, str]]) -> list[tuple[str, str]]:
    return [(gallery.title, html) for gallery, html in found]


def test_the_page_says_what_the_rules_own_score_can_tell_without_an_answer(finished_run: Path, tmp_path: Path) -> None:
    page = page_html(selected_by(finished_run, tmp_path / "run", **RANKS), 1, ReportConfig(num_gallery=1))
    assert page.count("the rule&#x27;s own score, by which the rule cuts") == 2, "web and synthetic"
    assert re.search(r"The rule cuts by its own score: of what it keeps \d+% are right", page)


def test_near_the_threshold_is_near_the_cut_of_the_rule(finished_run: Path, tmp_path: Path) -> None:
    root = selected_by(finished_run, tmp_path / "run", **RANKS)
    with connect(root, [1]) as connection:
        html = dict(found_titles(galleries_html(connection, 1, 6, seed=0, threshold=None)))["Near the threshold"]
        cuts = {row["source"]: row["cut"] for row in query(connection, "FROM cuts").to_pylist()}
        rows = query(connection, "FROM pairs WHERE round = 1 AND rule_score IS NOT NULL").to_pylist()
    away: dict[str, float] = {}
    for row in rows:
        away[row["key"]] = min(away.get(row["key"], 9), abs(row["rule_score"] - cuts[row["source"]]))
    shown = re.findall(r'<span class="key">(\d+)</span>', html)
    assert shown == sorted(away, key=lambda key: (away[key], key))[:6]


@pytest.mark.parametrize(("score", "told"), [("itm", "threshold 0."), ("itc", None)])
def test_the_page_draws_the_cut_that_was_in_force(
    finished_run: Path, tmp_path: Path, score: str, told: str | None
) -> None:
    """A share of the texts is cut where it is found, and by another score there is no threshold of ITM's."""
    root = Path(shutil.copytree(finished_run, tmp_path / "run"))
    pairs, config = root / "round-01/pairs", SelectConfig(strategy="fraction", keep_fraction=0.25, score=score)
    manifest = json.loads((pairs / "MANIFEST.json").read_text())
    shutil.rmtree(pairs)
    counts = select_pairs(pairs, root / "round-01/captions", config=config)
    made = {**manifest, "counts": counts, "settings": config.model_dump(mode="json")}
    (pairs / "MANIFEST.json").write_text(json.dumps(made))
    page = page_html(root, 1, ReportConfig(num_gallery=3))
    assert ("Near the threshold" in page) == (told is not None)
    assert ("threshold 0." in page) == (told is not None)
    assert "threshold 0.5<" not in page
    checked(page)
