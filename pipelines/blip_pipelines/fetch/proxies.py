"""The proxies that the environment names in http_proxy, https_proxy, all_proxy and no_proxy."""

from __future__ import annotations

import base64
import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

from blip_bootstrap.errors import InputError
from blip_pipelines.fetch.addresses import literal


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy: host, port, and the value of Proxy-Authorization ("Basic ..."; empty without a password)."""

    host: str
    port: int
    authorization: str = field(default="", repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """The headers for the proxy alone, which the server behind it does not get."""
        return {"Proxy-Authorization": self.authorization} if self.authorization else {}


@dataclass(frozen=True)
class Proxies:
    """The proxies of `http` and of `https` URLs, and the hosts that are reached without one (`no_proxy`)."""

    of_scheme: Mapping[str, Proxy] = field(default_factory=dict)
    direct: tuple[str, ...] = ()

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] | None = None) -> Proxies:
        """Read the proxies from `environment` (default: this process's); lower-case names win over upper-case ones.

        `all_proxy` is for a scheme without a proxy of its own; an empty value means none. HTTP_PROXY is ignored where
        REQUEST_METHOD is set: in a CGI program it holds a header that the client chose.
        Raises InputError for a proxy that is not `http://[user:password@]host[:port]`.
        """
        known = os.environ if environment is None else environment
        found = {}
        for scheme in ("http", "https"):
            name, value = _first(known, f"{scheme}_proxy")
            if value is None:
                name, value = _first(known, "all_proxy")
            if value:
                found[scheme] = _proxy(name, value)
        _, direct = _first(known, "no_proxy")
        return cls(found, tuple((direct or "").replace(",", " ").lower().split()))

    def for_host(self, scheme: str, host: str, port: int) -> Proxy | None:
        """The proxy of a URL with this scheme, host (lower case) and port; None where it is fetched directly."""
        if any(_matches(entry, host.rstrip("."), port) for entry in self.direct):
            return None
        return self.of_scheme.get(scheme)


def _first(known: Mapping[str, str], name: str) -> tuple[str, str | None]:
    """The variable `name`, else its upper-case form, and its value; None where neither is set."""
    for spelled in (name, name.upper()):
        if spelled in known and not (spelled == "HTTP_PROXY" and "REQUEST_METHOD" in known):
            return spelled, known[spelled].strip()
    return name, None


def _proxy(name: str, value: str) -> Proxy:
    """The proxy in the variable `name`. Raises InputError, which never shows the password."""
    given = value if "://" in value else f"http://{value}"
    try:
        parts = urlsplit(given)
        host, port = parts.hostname, parts.port or 80
    except ValueError:
        host = None
    if host is None:
        raise InputError(f"{name}: not a proxy; write http://host:port")
    if parts.scheme != "http":
        raise InputError(
            f"{name}: {parts.scheme}://{host} is a kind of proxy that is not supported; write http://host:port (it "
            "carries https URLs too), or leave it out"
        )
    return Proxy(host, port, basic_authorization(parts))


def basic_authorization(parts: SplitResult) -> str:
    """The header's value for the user and password of a URL (RFC 7617, UTF-8); empty where it has none."""
    if parts.username is None:
        return ""
    user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return "Basic " + base64.b64encode(user.encode()).decode("ascii")


def _matches(entry: str, host: str, port: int) -> bool:
    """Whether an entry of no_proxy covers the host.

    An entry is `*`, a domain (with all its subdomains), an address or a network, each with or without a port.
    """
    address = literal(host)
    network = _network(entry)
    if network is None:
        entry, colon, number = entry.rpartition(":") if entry.count(":") == 1 or "]:" in entry else (entry, "", "")
        if colon and number != str(port):
            return False
        network = _network(entry)
    if network is not None:
        return address is not None and ipaddress.ip_address(address) in network
    if entry == "*":
        return True
    name = entry.removeprefix("*").strip(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))


def _network(entry: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        return None
