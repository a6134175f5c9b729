"""Pictures that lists have several times, over whole rounds: what is trained on, made anew, borrowed and kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support import growing_rounds
from tests.support.growing_rounds import FIRST, MORE, GrowingRounds, ask, no_gap


@pytest.fixture
def grown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GrowingRounds:
    """Rounds in which the pictures of u0, u4 and v1 are the same."""
    image = growing_rounds._image

    def with_digest(key: str, url: str, is_gone: bool) -> dict[str, Any]:
        return image(key, url, is_gone) | {"sha256": "same" if url in ("u0", "u4", "v1") else url}

    monkeypatch.setattr(growing_rounds, "_image", with_digest)
    return GrowingRounds(tmp_path, monkeypatch)


def dropped(root: Path, number: int = 1) -> set[str]:
    return {url for (url,) in ask(root, f"SELECT i.url FROM pairs p JOIN images i USING (key) WHERE round = {number} "
                                        "AND reason = 'duplicate_picture' AND rejected IS NULL")}  # fmt: skip


def test_the_first_is_trained_on_and_parts_of_before_stay_as_lists_grow(grown: GrowingRounds) -> None:
    grown.run(1, grown.lists(FIRST))
    assert dropped(grown.root, 0) == dropped(grown.root) == {"u4"}
    groups = ask(grown.root, "SELECT key, exact_group FROM picture_groups WHERE duplicate_of IS NOT NULL")
    assert groups == [("0000100001", "0000000000")]
    grown.run(1, grown.lists(FIRST, MORE))
    assert [one for one in grown.parts if one.startswith("pairs")] == ["pairs/part-00002", "pairs/part-00003"]
    assert dropped(grown.root) == {"u4", "v1"}
    assert no_gap(grown.root)


def test_where_the_first_leaves_the_lists_the_next_is_trained_on(grown: GrowingRounds) -> None:
    grown.run(1, grown.lists(FIRST, MORE))
    grown.run(1, grown.lists(FIRST[1:], MORE))
    assert dropped(grown.root) == {"v1"}
    assert no_gap(grown.root)


def test_a_run_made_without_groups_is_kept_and_is_made_with_them_where_asked(grown: GrowingRounds) -> None:
    one = grown.lists(FIRST)
    grown.run(1, one, "duplicates.exact=false")
    assert dropped(grown.root) == set()
    assert not (grown.root / "groups").exists()
    said = grown.run(1, one)
    assert "round-01/captions: current" in said  # nothing above the pairs depends on it
    assert any(line.startswith("round-00: kept as it was made (another groups") for line in grown.run(1, one))
    assert (dropped(grown.root, 0), dropped(grown.root, 1)) == (set(), {"u4"})
    grown.run(1, one, remake=(0,))
    assert dropped(grown.root, 0) == {"u4"}


def test_without_duplicates_pairs_are_what_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grown = GrowingRounds(tmp_path, monkeypatch)
    monkeypatch.setattr(growing_rounds, "_image", _own_digests(growing_rounds._image))
    grown.run(1, grown.lists(FIRST), "duplicates.exact=false")
    said = grown.run(1, grown.lists(FIRST))
    assert "round-01/pairs: current" in said
    assert "groups: group_pictures" in said


def _own_digests(image: Any) -> Any:
    return lambda key, url, is_gone: image(key, url, is_gone) | {"sha256": url}
