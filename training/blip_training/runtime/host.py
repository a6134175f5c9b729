"""This machine, as people know it who look after a cluster."""

from __future__ import annotations

import socket
import sys


def this_host() -> str:
    """The name of this machine; in a process of Ray's also the address by which Ray knows it (`ray status` has both).

    Names alone tell few machines apart: containers of one image may share theirs.
    """
    ray = sys.modules.get("ray")  # where it is at work it is there; a plain training never loads it
    address = f" ({ray.util.get_node_ip_address()})" if ray and ray.is_initialized() else ""
    return f"{socket.gethostname()}{address}"
