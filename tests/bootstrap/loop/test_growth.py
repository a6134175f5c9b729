"""A run grows: lists are added and taken away, failed rows fetched again, and only the parts of these are new."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from blip_bootstrap.audit.audits import audit
from blip_bootstrap.audit.shortfalls import shortfalls
from blip_bootstrap.errors import ConfigError, RunFailed
from blip_bootstrap.query.verdicts import pair_figures
from blip_bootstrap.storage.parquet import parquet_files
from tests.support.growing_rounds import FIRST, MORE, GrowingRounds, ask, manifest, no_gap, of
from tests.support.stub_rounds import all_bytes


@pytest.fixture
def grown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GrowingRounds:
    return GrowingRounds(tmp_path, monkeypatch)


def kept_texts(root: Path, number: int = 1) -> set[tuple[str, str]]:
    sql = "SELECT i.url, p.source FROM pairs p JOIN images i USING (key) WHERE p.kept AND p.round = "
    return {*ask(root, f"{sql}{number}")}


def test_a_list_that_is_added_makes_its_own_parts_alone(grown: GrowingRounds) -> None:
    one, two = grown.lists(FIRST), grown.lists(FIRST, MORE)
    grown.run(1, one)
    assert grown.parts == ["images/part-00000", "images/part-00001", *of(0, 1, tables=["pairs", "captions", "pairs"])]
    before = all_bytes(grown.root)
    said = grown.run(1, two)
    why = "urls 1 of them -> 2 of them; another list list-1"
    assert f"images: making it anew, because of {why}; the one before stays" in said
    assert grown.parts == of(2, 3)
    assert {name: one for name, one in all_bytes(grown.root).items() if name in before} == before
    assert "round-01/captions: caption_and_score (2 of 4 parts as they are)" in said
    for place in ("images", "round-01/captions", "round-01/pairs"):
        folder = (grown.root / place).resolve()
        assert [path.is_symlink() for path in sorted(folder.glob("part-*"))] == [True, True, False, False]
        entries = {one["name"]: one for one in manifest(grown, place)["files"]}
        home = json.loads((folder / "part-00000.parquet").resolve().with_name("MANIFEST.json").read_text())
        told = {key: home["files"][0][key] for key in ("name", "bytes", "sha256", "rows")}
        assert told.items() <= entries["part-00000.parquet"].items()
        assert (grown.root / entries["part-00000.parquet"]["at"]).is_file()
        assert "at" not in entries["part-00003.parquet"]
    assert no_gap(grown.root)
    assert ask(grown.root, "SELECT count(*), count(*) FILTER (listed) FROM images") == [(10, 10)]
    for setting in (one, two, one):  # back and forth
        assert all(line.endswith(": current") for line in grown.run(1, setting) if line.startswith(("im", "round-01")))
        assert grown.parts == []


def test_a_setting_of_the_rule_makes_all_pairs_and_no_captions(grown: GrowingRounds) -> None:
    two = grown.lists(FIRST, MORE)
    grown.run(1, grown.lists(FIRST))
    grown.run(1, two)
    grown.run(1, two, "select.itm_threshold=0.95")
    assert grown.parts == of(0, 1, 2, 3, tables=["pairs"])
    grown.run(1, grown.lists(FIRST, MORE, ["w"]), "select.itm_threshold=0.95", "select.synthetic_share=0.5")
    assert grown.parts == [*of(4, tables=["images", "captions"]), *of(0, 1, 2, 3, 4, tables=["pairs"])]


def test_text_rules_set_web_texts_aside_and_make_no_captions_anew(grown: GrowingRounds) -> None:
    """A text of figures is of `few_letters`: no web pair in any round; the captioner's text of the picture is one."""
    rule = "text_rules={rules: [few_letters], min_letters_share: 0.8}"
    first, more = ["u0", "12345678", "u2"], ["87654321", "u4"]
    grown.run(1, grown.lists(first))
    grown.run(1, grown.lists(first), rule, remake=(0,))
    assert grown.parts == of(0, tables=["pairs", "pairs"])
    said = grown.run(1, grown.lists(first, more), rule, remake=(0,))
    assert grown.parts == of(1, tables=["images", "pairs", "captions", "pairs"])
    assert "round-01/pairs: select_pairs (1 of 2 parts as they are)" in said
    why = "SELECT round, source, rejected, url FROM pairs JOIN images USING (key) WHERE reason = 'few_letters'"
    dropped = [(number, "web", None, url) for number in (0, 1) for url in ("12345678", "87654321")]
    assert ask(grown.root, f"{why} ORDER BY ALL") == dropped
    assert ("12345678", "synthetic") in kept_texts(grown.root)
    assert no_gap(grown.root)
    assert no_gap(grown.root, 0)
    shares = pair_figures(parquet_files(grown.root / "round-01/pairs"))
    assert (shares["web_captions"], shares["web_scored"], shares["dropped_by_reason"]["few_letters"]) == (5, 3, 2)
    grown.run(1, grown.lists(first, more))
    assert grown.parts == of(1, tables=["pairs"]), "without the rule the pairs of before are there again"


def test_references_that_are_others_make_all_captions_anew(grown: GrowingRounds) -> None:
    """The first pictures of the images: those of the first part suffice for two, not for three."""
    for references, made in ((2, [2, 3]), (3, [2, 3]), (5, [2, 3]), (6, [0, 1, 2, 3])):
        own = f"caption.references={references}"
        grown.run(1, grown.lists(FIRST), own)
        grown.run(1, grown.lists(FIRST, MORE), own)
        assert [part for part in grown.parts if part.startswith("captions")] == of(*made, tables=["captions"])


def test_rows_that_leave_a_list_stay_and_become_no_pairs(grown: GrowingRounds) -> None:
    two = grown.lists(FIRST, MORE)
    grown.run(1, two)
    all_kept = kept_texts(grown.root)
    said = grown.run(1, grown.lists(FIRST[:4], MORE))
    assert grown.parts == of(1, tables=["pairs"])
    assert "round-01/pairs: select_pairs (3 of 4 parts as they are)" in said
    assert manifest(grown, "images")["counts"]["removed"] == 2
    assert ask(grown.root, "SELECT url FROM images WHERE NOT listed ORDER BY url") == [("u4",), ("u5",)]
    why = "SELECT source, rejected, kept, count(*) FROM pairs WHERE reason = 'not_listed' GROUP BY ALL ORDER BY 1"
    assert ask(grown.root, why) == [("synthetic", None, False, 2), ("web", None, False, 2)]
    assert kept_texts(grown.root) == {one for one in all_kept if one[0] not in ("u4", "u5")}
    assert no_gap(grown.root)
    figures = next(one for one in audit(grown.root, 1, ["reasons"])[0].table.to_pylist() if one["fate"] == "not_listed")
    assert figures["texts"] == 2
    shares = pair_figures(parquet_files(grown.root / "round-01/pairs"))
    assert (shares["web_captions"], shares["web_scored"], shares["dropped_by_reason"]["not_listed"]) == (8, 8, 4)
    grown.run(0, grown.lists(FIRST[:4], MORE), remake=())
    assert [part for part in grown.parts if part.startswith("pairs")] == of(1, tables=["pairs"])
    assert ask(grown.root, "SELECT count(*) FROM pairs WHERE round = 0 AND reason = 'not_listed'") == [(2,)]
    assert no_gap(grown.root, 0)
    grown.run(1, two)
    assert grown.parts == []


def test_dead_urls_that_leave_a_list_count_no_more(grown: GrowingRounds) -> None:
    grown.gone = {"u4", "u5"}
    grown.run(1, grown.lists(FIRST), "download.max_failed_share=0.3")
    assert [name for name, _ in shortfalls(grown.root, 1)] == ["failed_images"]
    less = grown.lists(FIRST[:4])
    grown.run(1, less, "download.max_failed_share=0.3")
    assert manifest(grown, "images")["counts"] == {"rows": 6, "success": 4, "removed": 2}
    assert [*shortfalls(grown.root, 1)] == []
    downloads = audit(grown.root, 1, ["downloads"])[0].table.to_pylist()
    assert [(one["status"], one["urls"], one["share"]) for one in downloads] == [("success", 4, 1)]
    said = grown.run(1, less, "download.max_failed_share=0.3", retry="failed")
    assert "images: no row failed, so that there is none to try again" in said
    assert no_gap(grown.root)


def test_a_list_of_dead_urls_takes_no_place(grown: GrowingRounds) -> None:
    """Pictures of rows that left the lists, in parts of which some rows stay, are none of theirs."""
    grown.gone = {"u0"}
    grown.run(1, grown.lists(FIRST))
    shown = (grown.root / "images").resolve()
    with pytest.raises(RunFailed, match=r"^images: none of 1 URLs gave a picture .*; those of before stay"):
        grown.run(1, grown.lists(["u0"]))
    assert (grown.root / "images").resolve() == shown
    assert (shown / "part-00000.parquet").is_file()
    grown.gone = set()
    assert "images: current" in grown.run(1, grown.lists(FIRST))


def test_every_rule_leaves_rows_out_that_are_not_listed(grown: GrowingRounds) -> None:
    for rule in (
        ("strategy=fraction", "keep_fraction=0.5"), ("strategy=best_per_image",), ("variety=1.0",),
        ("strategy=fraction", "score=[itm, itc]"), ("synthetic_share=0.3",),
    ):  # fmt: skip
        settings = tuple(f"select.{one}" for one in rule)
        grown.run(1, grown.lists(FIRST, MORE), *settings)
        grown.run(1, grown.lists(FIRST[:3], MORE[1:]), *settings)
        sql = "SELECT DISTINCT i.url FROM pairs p JOIN images i USING (key) WHERE round = 1 AND reason = 'not_listed'"
        assert ask(grown.root, sql) == [("v0",)]  # the part of u3 to u5 has no row that is listed
        assert no_gap(grown.root)


def test_failed_rows_are_fetched_again_into_new_parts(grown: GrowingRounds) -> None:
    one = grown.lists(FIRST)
    grown.gone = {"u1", "u4"}
    grown.run(1, one)
    first = manifest(grown, "images")
    assert ask(grown.root, "SELECT count(*) FILTER (status = 'success'), count(*) FROM images") == [(4, 6)]
    grown.gone = {"u4"}
    said = grown.run(1, one, retry="failed:timeout")
    assert grown.parts == of(2)
    assert (grown.root / "images").resolve().name == f"{first['digest'][:16]}-2"
    assert manifest(grown, "images")["digest"] == first["digest"]
    assert manifest(grown, "images")["retry"] == "failed:timeout"
    urls = "SELECT url, status, count(*) FROM images GROUP BY ALL HAVING count(*) > 1 OR status <> 'success'"
    assert ask(grown.root, urls) == [("u4", "failed_to_download", 1)]
    assert ask(grown.root, "SELECT count(*) FROM images") == [(6,)]
    assert no_gap(grown.root)
    assert "round-01/captions: caption_and_score (2 of 3 parts as they are)" in said
    assert all(line.endswith(": current") for line in grown.run(1, one) if line.startswith(("images", "round-01")))
    assert grown.parts == []
    grown.run(1, one, retry="failed")  # in vain: a version all the same
    assert (grown.root / "images").resolve().name.endswith("-3")
    assert no_gap(grown.root)
    grown.gone = set()
    grown.run(1, one, retry="failed")
    assert ask(grown.root, "SELECT count(*), count(*) FILTER (status = 'success') FROM images") == [(6, 6)]
    before = all_bytes(grown.root)
    assert "images: no row failed, so that there is none to try again" in grown.run(1, one, retry="failed")
    assert all_bytes(grown.root) == before
    grown.run(1, grown.lists(FIRST, MORE))
    back = grown.run(1, grown.lists(FIRST))  # to the last version
    assert "images: current" in back
    assert (grown.root / "images").resolve().name.endswith("-4")


@pytest.mark.parametrize(
    ("retry", "told"),
    [
        ("failed:timeot", "did you mean failed:timeout?"),
        ("all", "is failed, or failed:CLASS for one error class"),
        ("failed:duplicate_row", "--retry failed:duplicate_row: is failed, or"),
        ("failed:", "CLASS is one of unsupported_scheme"),
    ],
)
def test_what_cannot_be_fetched_again_is_told(grown: GrowingRounds, retry: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        grown.run(0, grown.lists(FIRST), retry=retry)
    assert told in str(caught.value)
    assert not grown.root.exists()


def test_a_killed_retry_is_gone_on_with_by_the_same_command(grown: GrowingRounds) -> None:
    one, grown.gone = grown.lists(FIRST), {"u1"}
    grown.run(0, one)
    exact, grown.gone = (grown.root / "images").resolve(), set()
    again = exact.with_name(f"{exact.name}-2")
    grown.run(0, one, retry="failed")
    (again / "MANIFEST.json").unlink()  # as if it had not been written
    recipe = json.loads((exact / "MANIFEST.json").read_text())["recipe"]
    (again / ".recipe.json").write_text(json.dumps({"name": "images", "recipe": recipe, "retry": "failed"}))
    (grown.root / "images").unlink()
    record = grown.root / "shared.json"
    for path in (record, grown.root / "round-00/round.json"):
        path.write_text(path.read_text().replace(again.name, exact.name))
    grown.run(0, one)  # without it, the whole one counts
    assert ((grown.root / "images").resolve(), (again / "MANIFEST.json").exists()) == (exact, False)
    said = grown.run(0, one, retry="failed")
    assert "images: download_images (going on)" in said
    assert [part for part in grown.parts if part.startswith("images")] == []
    assert (grown.root / "images").resolve() == again


def test_rows_that_were_fetched_again_outlive_their_manifest(grown: GrowingRounds) -> None:
    """The version before lacks them, and does not come back in its place."""
    one, grown.gone = grown.lists(FIRST), {"u1"}
    grown.run(1, one)
    exact, grown.gone = (grown.root / "images").resolve(), set()
    grown.run(1, one, retry="failed")
    content = manifest(grown, "images")["content"]
    (grown.root / "images/MANIFEST.json").unlink()
    said = grown.run(1, one)
    assert "images: download_images (going on)" in said
    assert grown.parts == []
    assert (grown.root / "images").resolve() == exact.with_name(f"{exact.name}-2")
    assert manifest(grown, "images")["content"] == content
    assert ask(grown.root, "SELECT count(*) FILTER (status = 'success') FROM images") == [(6,)]
    grown.run(1, grown.lists(FIRST, MORE))
    grown.run(1, grown.lists(FIRST))  # back to the last version
    assert manifest(grown, "images")["content"] == content


def test_a_limit_shows_the_first_rows_and_costs_nothing_either_way(grown: GrowingRounds) -> None:
    one = grown.lists(FIRST)
    grown.run(1, one, "download.limit=3")
    assert [part for part in grown.parts if part.startswith("images")] == of(0, tables=["images"])
    grown.run(1, one)
    assert grown.parts == of(1)
    grown.run(1, one, "download.limit=3")
    assert grown.parts == []


def test_a_run_of_the_version_before_grows(grown: GrowingRounds) -> None:
    """Whose MANIFESTs do not say of what each part was made."""
    grown.run(1, grown.lists(FIRST))
    for path in (grown.root / "artifacts").glob("*/*/MANIFEST.json"):
        made = json.loads(path.read_text())
        made["files"] = [{key: value for key, value in one.items() if key != "of"} for one in made["files"]]
        del made["check"], made["checksum"]
        path.write_text(json.dumps(made))
    grown.run(1, grown.lists(FIRST, MORE))
    assert grown.parts == of(2, 3)
