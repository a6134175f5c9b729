"""The view `domains`, and the SQL function that finds the registered domain of a host."""

from __future__ import annotations

from functools import cache

import duckdb
from duckdb.func import FunctionNullHandling
from publicsuffixlist import PublicSuffixList

HOST = "lower(regexp_extract(url[:1000], '^[a-zA-Z][a-zA-Z0-9+.-]*://(?:[^/?#@]*@)?(\\[[^\\]]*\\]|[^/:?#]+)', 1))"
"""SQL of the host of a row's `url`; empty where it has none."""

_BEGINNING = " || '/' || ".join(f"split_part(url[:1000], '/', {at})" for at in (1, 2, 3))
"""SQL of a URL up to its third slash, which has its host: fewer texts for the regular expression, which is slow."""

_DOMAINS = f"""
CREATE VIEW domains AS
WITH beginnings AS MATERIALIZED (
    SELECT {_BEGINNING} AS url, count(*) AS urls, count(*) FILTER (status = 'success') AS pictures,
        sum(size_bytes) FILTER (status = 'success') AS size_bytes
    FROM images WHERE listed AND status <> 'withdrawn' GROUP BY 1
), hosts AS (
    SELECT {HOST} AS host, sum(urls) AS urls, sum(pictures) AS pictures, sum(size_bytes) AS size_bytes
    FROM beginnings GROUP BY 1
), found AS (
    SELECT coalesce(registered_domain(host), nullif(host, '')) AS domain, sum(urls)::BIGINT AS urls,
        sum(pictures)::BIGINT AS pictures, sum(size_bytes)::BIGINT AS size_bytes
    FROM hosts GROUP BY 1
)
SELECT row_number() OVER by_size AS place, domain, urls, pictures, size_bytes,
    pictures / nullif(sum(pictures) OVER (), 0) AS pictures_share,
    size_bytes / nullif(sum(size_bytes) OVER (), 0) AS bytes_share, place <= ceil(count(*) OVER () / 10) AS in_top_tenth
FROM found WINDOW by_size AS (ORDER BY size_bytes DESC NULLS LAST, pictures DESC, domain)
"""


def create_domains(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the function `registered_domain(host)` and the view `domains` over the view `images`."""
    connection.create_function(
        "registered_domain", registered_domain, ["VARCHAR"], "VARCHAR", null_handling=FunctionNullHandling.SPECIAL
    )
    connection.execute(_DOMAINS)


def registered_domain(host: str | None) -> str | None:
    """The domain that somebody has registered: `example.co.uk` of `img.example.co.uk`.

    By the Public Suffix List, its private part too, so that each `NAME.github.io` counts by itself. None where there is
    none, as for an IP address or a bare name.
    """
    if not host or host.replace(".", "").isdigit() or ":" in host:
        return None
    found: str | None = _suffixes().privatesuffix(host.rstrip("."))
    return found


def is_public_suffix(domain: str) -> bool:
    """Whether others register names below this, as below `co.uk`, `com` and `github.io`."""
    return bool(PublicSuffixList(accept_unknown=False).publicsuffix(domain) == domain)


@cache
def _suffixes() -> PublicSuffixList:
    return PublicSuffixList()
