"""Bodies that come packed although they were asked for as they are."""

from __future__ import annotations

import gzip
import time
import zlib

import pytest

from blip_pipelines.fetch.bodies import codings_of, unpack
from blip_pipelines.fetch.deadlines import FetchError
from tests.support.tiny_pipeline import encode

PICTURE = encode(1)
LIMIT = 1_000_000


def bare_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ([], PICTURE),
        (["identity"], PICTURE),
        (["none", "binary", "UTF-8", ""], PICTURE),
        (["gzip"], gzip.compress(PICTURE)),
        (["GZIP"], gzip.compress(PICTURE)),
        (["x-gzip"], gzip.compress(PICTURE)),
        (["gzip"], gzip.compress(PICTURE[:50]) + gzip.compress(PICTURE[50:])),
        (["gzip"], gzip.compress(PICTURE) + bytes(512)),
        (["gzip"], PICTURE),
        (["deflate"], zlib.compress(PICTURE)),
        (["deflate"], bare_deflate(PICTURE)),
        (["deflate"], gzip.compress(PICTURE)),
        (["deflate"], PICTURE),
        (["deflate, gzip"], gzip.compress(zlib.compress(PICTURE))),
        (["deflate", "identity, gzip"], gzip.compress(zlib.compress(PICTURE))),
    ],
)
def test_the_picture_comes_out(headers: list[str], body: bytes) -> None:
    assert unpack(body, codings_of(headers), LIMIT) == PICTURE


@pytest.mark.parametrize(
    ("headers", "body", "error_class"),
    [
        (["gzip"], gzip.compress(bytes(50_000_000)), "too_many_bytes"),
        (["deflate"], zlib.compress(bytes(50_000_000)), "too_many_bytes"),
        (["deflate"], bare_deflate(bytes(50_000_000)), "too_many_bytes"),
        (["gzip, gzip"], gzip.compress(gzip.compress(bytes(50_000_000))), "too_many_bytes"),
        (["gzip"], gzip.compress(bytes(600_000)) * 2, "too_many_bytes"),
        (["gzip"], gzip.compress(PICTURE)[:-20], "truncated_image"),
        (["gzip"], gzip.compress(PICTURE)[:40] + b"damage" + gzip.compress(PICTURE)[46:], "truncated_image"),
        (["br"], PICTURE, "other"),
        (["gzip, zstd"], PICTURE, "other"),
        (["gzip"] * 4, PICTURE, "other"),
        (["gzip"], gzip.compress(b"") * 100_000, "other"),
    ],
)
def test_bombs_and_damage_have_their_class(headers: list[str], body: bytes, error_class: str) -> None:
    started = time.monotonic()
    with pytest.raises(FetchError) as caught:
        unpack(body, codings_of(headers), LIMIT)
    assert caught.value.error_class == error_class
    assert time.monotonic() - started < 20


def test_the_limit_is_of_what_comes_out() -> None:
    assert len(unpack(gzip.compress(bytes(LIMIT)), ["gzip"], LIMIT)) == LIMIT
    with pytest.raises(FetchError, match="unpacks to more than 1,000,000 bytes"):
        unpack(gzip.compress(bytes(LIMIT + 1)), ["gzip"], LIMIT)
