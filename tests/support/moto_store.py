"""An S3 server of loopback with everything that a run asks of one: moto's, in a thread of this process."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

BUCKET = "bucket"


@contextmanager
def moto_server() -> Iterator[str]:
    """The endpoint of a server with an empty bucket."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of moto's and boto3's own imports
        boto3 = pytest.importorskip("boto3")
        server_module = pytest.importorskip("moto.server")
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    server = server_module.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    try:
        client_of(boto3, endpoint).create_bucket(Bucket=BUCKET)
        yield endpoint
    finally:
        server.stop()


def client_of(boto3: Any, endpoint: str) -> Any:
    return boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )


class Bucket:
    """The bucket behind an endpoint, through a client that shares nothing with the project's."""

    def __init__(self, endpoint: str) -> None:
        import boto3  # type: ignore[import-untyped]  # a dev dependency, as above

        self.endpoint = endpoint
        self._client = client_of(boto3, endpoint)

    def __getitem__(self, key: str) -> bytes:
        body: bytes = self._client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return body

    def __setitem__(self, key: str, content: bytes) -> None:
        self._client.put_object(Bucket=BUCKET, Key=key, Body=content)

    def delete(self, key: str) -> None:
        self._client.delete_object(Bucket=BUCKET, Key=key)

    def names(self, prefix: str = "") -> list[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return sorted(one["Key"] for page in pages for one in page.get("Contents", []))

    def clear(self) -> None:
        for key in self.names():
            self.delete(key)


@contextmanager
def empty_store(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[dict[str, str], Bucket]]:
    """A server's empty bucket, and the variables that find it, which this process has while the body runs."""
    with moto_server() as endpoint:
        found = environment(endpoint, cache)
        for name, value in found.items():
            monkeypatch.setenv(name, value)
        bucket = Bucket(endpoint)
        bucket.clear()  # servers of one process have one memory
        yield found, bucket


def environment(endpoint: str, cache: Path) -> dict[str, str]:
    """The variables by which the project finds the server, and where its working copies go."""
    return {
        "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint, "XDG_CACHE_HOME": str(cache), "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip
