"""This machine, as people know it who look after a cluster."""

from __future__ import annotations

import socket

_addresses: list[str] = []


def known_by(address: str) -> None:
    """Note the address by which a cluster knows this machine; who starts the workers of a training there knows it."""
    _addresses[:] = [address]


def this_host() -> str:
    """The name of this machine, and its address in the cluster where that is noted.

    Names alone tell few machines apart: containers of one image may share theirs.
    """
    return " ".join([socket.gethostname(), *(f"({address})" for address in _addresses)])
