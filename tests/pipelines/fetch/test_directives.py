from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from blip_bootstrap.config import DownloadConfig
from blip_pipelines.fetch.deadlines import FetchError
from blip_pipelines.fetch.directives import matches, preference, read_tdmrep, strictest, tdm_rule, utc_now
from blip_pipelines.fetch.robots import Site, SiteFiles, usage_rules

ROBOTS = """
User-agent: *
Disallow: /never/
Crawl-delay: 2
Content-Usage: / train-ai=n
Content-Usage: /ai-ok/ train-ai=y

User-agent: ExampleBot
Allow: /
Content-Usage: / train-ai=y
Request-rate: 1/5
"""


OURS = "blip-bootstrap"


def site(robots: str | None = None, tdmrep: str | None = None, status: int = 200, token: str = OURS) -> Site:
    return Site(SiteFiles(status, robots, tdmrep, utc_now()), token)


def refusal(of: Site, path: str, **settings: object) -> str | None:
    """The error class with which a site's files refuse a path."""
    try:
        of.check(urlsplit(f"https://host.example{path}"), DownloadConfig.model_validate(settings))
    except FetchError as error:
        return error.error_class
    return None


def test_the_example_of_the_content_usage_draft() -> None:
    """draft-ietf-aipref-attach, its example file and table."""
    ours, theirs = site(ROBOTS), site(ROBOTS, token="examplebot")
    assert [refusal(ours, path) for path in ("/test", "/never/test", "/ai-ok/test")] == [
        "disallowed", "robots_txt", None,
    ]  # fmt: skip
    assert [refusal(theirs, path) for path in ("/test", "/never/test", "/ai-ok/test")] == [None, None, None]
    assert refusal(ours, "/test", content_usage="record") is None
    assert refusal(ours, "/never/test", robots="record") == "disallowed"  # what it says of the use still counts
    said = ours.said(urlsplit("https://host.example/ai-ok/1.jpg"))
    assert (said.robots_txt, said.content_usage) == ("allowed", "robots.txt: train-ai=y")
    assert (ours.crawl_delay_s, theirs.crawl_delay_s, site(None).crawl_delay_s) == (2, 5, 0)


@pytest.mark.parametrize(
    ("status", "robots", "refused", "said"),
    [
        (404, None, None, "none"),
        (403, None, None, "none"),
        (429, None, None, "none"),
        (500, None, "robots_txt", "unreachable"),
        (503, None, "robots_txt", "unreachable"),
        (200, "", None, "allowed"),
        (200, "User-agent: *\nDisallow: /", "robots_txt", "disallowed"),
        (200, "User-agent: blip-bootstrap\nDisallow: /\n\nUser-agent: *\nAllow: /", "robots_txt", "disallowed"),
        (200, "User-agent: *\nDisallow: /\n\nUser-agent: BLIP-Bootstrap\nDisallow:", None, "allowed"),
        (200, "User-agent: otherbot\nDisallow: /", None, "allowed"),
        (200, "<html>not found</html>", None, "allowed"),
        (200, "User-agent: *\nDisallow: /a/\nAllow: /a/b", None, "allowed"),
        (200, "\ufeffUser-agent: *\r\nDisallow: /*.jpg$\r\n", "robots_txt", "disallowed"),
        (200, "User-agent: *\rDisallow: /a/\r", "robots_txt", "disallowed"),
    ],
)
def test_robots_txt(status: int, robots: str | None, refused: str | None, said: str) -> None:
    of = site(robots, status=status)
    assert refusal(of, "/a/b.jpg") == refused
    assert of.said(urlsplit("https://host.example/a/b.jpg")).robots_txt == said
    assert refusal(of, "/a/b.jpg", robots="record") is None


@pytest.mark.parametrize(
    ("values", "allowed"),
    [
        (["train-ai=n"], False),
        (["train-ai=y, search=n"], True),
        (["search=n"], None),
        ([], None),
        (["train-ai=y", "train-ai=n"], False),
        (["train-ai=n, train-ai=y"], True),
        (["train-ai=y, train-ai, search=n"], None),
        (['train-ai="n"'], None),
        (["train-ai;allow=n, train-ai=y"], True),
        (['train-ai=n;why="a, b"'], False),
        (["Train-AI=n"], None),
        (["train-ai=n, Bad"], None),
        (["train-ai=N"], None),
        (["  train-ai=n  "], False),
    ],
)
def test_content_usage_is_a_structured_dictionary(values: list[str], allowed: bool | None) -> None:
    """draft-ietf-aipref-vocab, section "Processing Algorithm", with its examples."""
    assert preference(values) is allowed


def test_several_statements_are_as_the_strictest() -> None:
    assert [strictest(found) for found in ([], [None], [True, None], [True, False], [None, False])] == [
        None, None, True, False, False,
    ]  # fmt: skip
    twice = site("User-agent: *\nContent-Usage: / train-ai=y\nContent-Usage: / train-ai=n")
    assert refusal(twice, "/a.jpg") == "disallowed"
    assert usage_rules("User-agent: a\nUser-agent: b\nContent-Usage: train-ai=n", "b") == {"/": ["train-ai=n"]}


def test_the_first_rule_of_tdmrep_counts() -> None:
    """The second example of the TDM Reservation Protocol, and files that are none."""
    text = """[{"location": "/directory-a/", "tdm-reservation": 1},
      {"location": "/directory-b/html/", "tdm-reservation": 1, "tdm-policy": "https://provider.com/policy.json"},
      {"location": "/directory-b/images/*.jpg", "tdm-reservation": 0}, {"location": "/", "tdm-reservation": 1}]"""
    of = site(tdmrep=text, status=404)
    assert refusal(of, "/directory-a/1.jpg") == refusal(of, "/elsewhere.jpg") == "disallowed"
    assert refusal(of, "/directory-b/images/1.jpg") is None
    assert refusal(of, "/directory-a/1.jpg", tdm_reservation="record") is None
    said = of.said(urlsplit("https://host.example/directory-b/html/1")).tdm_reservation
    assert said == "tdmrep.json: 1 https://provider.com/policy.json"
    for broken in ("", "{", '[1, {}, {"location": 3, "tdm-reservation": 1}]', "<html>", "[" * 100_000, "null"):
        assert tdm_rule(read_tdmrep(broken), "/a.jpg") is None


@pytest.mark.parametrize(
    ("pattern", "path", "matched"),
    [
        ("/", "/a", True),
        ("/a", "/b/a", False),
        ("/*.jpg", "/a/b.jpg?x", True),
        ("/*.jpg$", "/a/b.jpg?x", False),
        ("/*.jpg$", "/a.jpg/b.jpg", True),
        ("/a$", "/ab", False),
        ("/a$", "/a", True),
        ("/a*a$", "/a", False),
        ("*", "/any", True),
        ("/" + "*a" * 2_000 + "b", "/" + "a" * 5_000, False),
    ],
)
def test_patterns(pattern: str, path: str, matched: bool) -> None:
    assert matches(pattern, path) is matched
