"""The audits for those who must answer for the data: where it is from, who spoke against it, and its licences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from blip_bootstrap.audit.audits import audit
from blip_bootstrap.query.domains import registered_domain
from blip_bootstrap.query.questions import query
from blip_bootstrap.query.views import connect
from blip_bootstrap.schemas.tables import IMAGES
from blip_bootstrap.storage.parquet import read_parquet, rows_to_table, write_parquet

ROWS: list[dict[str, Any]] = [
    {"url": "https://img.example.co.uk/a.jpg", "size_bytes": 100, "extra": json.dumps({"license": "CC-BY"})},
    {"url": "https://www.Example.co.uk:8080/b.jpg", "size_bytes": 50, "x_robots_tag": "noai"},
    {"url": "http://a.github.io/c.jpg", "size_bytes": 120, "tdm_reservation": "1 (header) https://a/policy"},
    {"url": "http://b.github.io/c.jpg", "size_bytes": 30, "tdm_reservation": "0 (header)", "x_robots_tag": "nofollow"},
    {"url": "http://127.0.0.1/c.jpg", "size_bytes": 10, "content_usage": "train-ai=n (header)"},
    {"url": "http://c.org/d.jpg", "robots_txt": "disallowed", "error_class": "robots_txt", "status": "rejected"},
    {"url": "http://[::1]/d.jpg", "robots_txt": "allowed", "content_usage": "train-ai=y (robots.txt)", "size_bytes": 5},
    {"url": "", "status": "rejected", "error_class": "blank_url"},
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    empty = dict.fromkeys(IMAGES.schema.names) | {"dataset": "d", "status": "success", "caption": "t"}
    rows = [empty | {"key": f"{at:010d}"} | row for at, row in enumerate(ROWS)]
    write_parquet(tmp_path / "images/part-00000.parquet", rows_to_table(rows, IMAGES), IMAGES)
    return tmp_path


def answers(root: Path, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = audit(root, None, [name])[0].table.to_pylist()
    return rows


def test_hosts_count_by_the_domain_that_somebody_registered(run: Path) -> None:
    found = answers(run, "domains")
    assert [(row["domain"], row["urls"], row["pictures"], row["size_bytes"]) for row in found] == [
        ("example.co.uk", 2, 2, 150), ("a.github.io", 1, 1, 120), ("b.github.io", 1, 1, 30), ("127.0.0.1", 1, 1, 10),
        ("[::1]", 1, 1, 5), ("c.org", 1, 0, None), ("(no URL)", 1, 0, None),
    ]  # fmt: skip
    assert [row["in_top_tenth"] for row in found] == [True] + 6 * [False]
    assert sum(row["bytes_share"] or 0 for row in found) == pytest.approx(1)
    assert found[0]["pictures_share"] == pytest.approx(2 / 6)
    with connect(run) as connection:
        assert query(connection, "SELECT count(*) AS n FROM domains").to_pylist() == [{"n": 7}]


def test_what_has_no_registered_domain() -> None:
    assert [registered_domain(host) for host in ("localhost", "10.0.0.1", "[::1]", "", None, "co.uk", ".")] == [
        None
    ] * 7
    assert registered_domain("a.b.example.com.") == "example.com"


def test_opt_outs_by_directive_and_host(run: Path) -> None:
    found = {(row["directive"], row["host"]): (row["rows"], row["pictures"]) for row in answers(run, "opt_outs")}
    assert found == {
        ("robots_txt", "c.org"): (1, 0), ("x_robots_tag", "www.example.co.uk"): (1, 1),
        ("tdm_reservation", "a.github.io"): (1, 1), ("content_usage", "127.0.0.1"): (1, 1),
    }  # fmt: skip


def test_licences_where_a_list_names_them(run: Path) -> None:
    assert [(row["licence"], row["urls"]) for row in answers(run, "licences")] == [("(none)", 7), ("CC-BY", 1)]
    assert {type(row["size_bytes"]) for row in answers(run, "licences")} <= {int, type(None)}


def test_where_nobody_said_anything_the_tables_are_empty(run: Path) -> None:
    columns = ["x_robots_tag", "tdm_reservation", "content_usage", "robots_txt", "extra", "error_class", "size_bytes"]
    for file in (run / "images").glob("*.parquet"):
        rows = [row | dict.fromkeys(columns) for row in read_parquet(file).to_pylist()]
        write_parquet(file, rows_to_table(rows, IMAGES), IMAGES)
    assert answers(run, "domains")
    assert answers(run, "opt_outs") == answers(run, "licences") == []
