"""Which addresses and names are of the open Internet, and that looking names up ends at the deadline."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

import pytest

from blip_bootstrap.config import DownloadConfig
from blip_pipelines.fetch import addresses
from blip_pipelines.fetch.addresses import is_private_name, is_public, literal, resolve
from blip_pipelines.fetch.deadlines import Deadline, FetchError
from blip_pipelines.fetch.fetch import fetch


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.127.255.255", "127.9.9.9", "169.254.1.1", "172.16.0.1",
        "172.31.255.255", "192.0.0.1", "192.0.0.9", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1",
        "198.19.255.255", "198.51.100.7", "203.0.113.7", "224.0.0.1", "239.255.255.250", "240.0.0.1",
        "255.255.255.255",
    ],
)  # fmt: skip
def test_no_ipv4_address_of_a_special_range_is_public(address: str) -> None:
    assert not is_public(address)
    low = int.from_bytes(socket.inet_aton(address))
    tail = f"{low >> 16:x}:{low & 0xFFFF:x}"
    wrapped = [
        f"::{address}", f"::ffff:{address}", f"::ffff:0:{address}", f"64:ff9b::{address}", f"64:ff9b:1::{address}",
        f"64:ff9b:1:ffff::{address}", f"2002:{tail}::1", f"2002:{tail}:1::{address}",
        f"2001:0:808:808::{~low >> 16 & 0xFFFF:x}:{~low & 0xFFFF:x}",  # Teredo, the client's address inverted
        f"2001:0:{tail}::{~0x08080808 >> 16 & 0xFFFF:x}:{~0x08080808 & 0xFFFF:x}",  # and as Teredo's server
        f"2606:2800:220:1:0:5efe:{address}", f"2606:2800:220:1:200:5efe:{address}",
    ]  # fmt: skip
    assert [one for one in wrapped if is_public(one)] == []


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254",
        "fd20:ce::254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "64:ff9b::100.100.100.200",
    ],
)  # fmt: skip
def test_metadata_services_of_clouds_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "::", "::1", "::8.8.8.8", "::ffff:0:8.8.8.8", "64:ff9b:1::8.8.8.8", "100::1", "fc00::1", "fdff::1", "fe80::1",
        "fe80::1%eth0", "febf::1", "fec0::1", "feff::1", "ff02::1", "ff0e::1", "2001:db8::1", "3fff::1", "3ffe::1",
        "2001:2::1", "2001:10::1", "2001:20::1", "5f00::1", "4000::1", "e000::1",
    ],
)  # fmt: skip
def test_no_ipv6_address_of_a_special_range_is_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1", "8.8.8.8", "100.63.255.255", "100.128.0.1", "172.32.0.1", "192.0.1.1", "198.20.0.1", "223.255.255.1",
        "168.63.129.17", "2606:2800:220:1:248:1893:25c8:1946", "2a00:1450::1", "2400:cb00::1", "::ffff:8.8.8.8",
        "64:ff9b::8.8.8.8", "2002:808:808::1", "2606:2800:220:1:0:5efe:8.8.8.8",
    ],
)  # fmt: skip
def test_all_others_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"), ("127.0.0.1.", "127.0.0.1"), ("2130706433", "127.0.0.1"), ("0x7f.1", "127.0.0.1"),
        ("0X7F000001", "127.0.0.1"), ("0177.0.0.1", "127.0.0.1"), ("127.1", "127.0.0.1"), ("::1", "::1"),
        ("[::1]", "::1"), ("fe80::1%eth0", "fe80::1"), ("1.2.3.4.5", None), ("999.1.1.1", None), ("a.example", None),
        ("12345678901234567890", None), ("", None),
    ],
)  # fmt: skip
def test_hosts_that_are_numbers(host: str, address: str | None) -> None:
    assert literal(host) == address


@pytest.mark.parametrize("name", ["metadata.google.internal", "metadata.google.internal.", "localhost", "a.localhost",
                                  "printer.local", "db.corp", "nas.home.arpa", "metadata.goog"])  # fmt: skip
def test_names_of_private_networks_are_refused_before_they_are_looked_up(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("looked up"))
    assert fetch(f"http://{name.upper()}/a.jpg", DownloadConfig(num_retries=0)).error_class == "private_address"
    assert not is_private_name(f"{name.rstrip('.')}.example.org")


class SilentNameServer:
    """getaddrinfo that answers only once it is let go."""

    def __init__(self) -> None:
        self.let_go, self.asked = threading.Event(), 0

    def __call__(self, host: str, port: int, **_: Any) -> Any:
        self.asked += 1
        self.let_go.wait(30)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]


def num_lookups() -> int:
    return sum(thread.name.startswith("look up") for thread in threading.enumerate())


def test_a_silent_name_server_costs_no_more_than_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    server = SilentNameServer()
    monkeypatch.setattr(socket, "getaddrinfo", server)
    started = time.monotonic()
    config = DownloadConfig(timeout_s=0.3, num_retries=1)
    fetched = fetch("http://slow.example/a.jpg", config)
    assert (fetched.error_class, server.asked) == ("timeout", 1)  # the second try waits for the first one's lookup
    assert fetched.error_message == "slow.example: no name server answers within 0.3 s"
    assert time.monotonic() - started < 10
    server.let_go.set()
    wait_until(lambda: num_lookups() == 0)


def test_given_up_lookups_are_limited_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    server = SilentNameServer()
    monkeypatch.setattr(socket, "getaddrinfo", server)
    monkeypatch.setattr(addresses, "_free", threading.BoundedSemaphore(3))
    for at in range(8):
        with pytest.raises(FetchError, match=f"host{at}: no name server answers"):
            resolve(f"host{at}", 80, True, Deadline.after(0.05))
    assert num_lookups() == 3
    server.let_go.set()
    wait_until(lambda: num_lookups() == 0)
    assert resolve("host9", 80, True, Deadline.after(9)) == ["127.0.0.1"]


def wait_until(condition: Any) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
