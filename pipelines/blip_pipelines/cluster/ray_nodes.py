"""Runs a check on every node of the cluster; imported only where Ray is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from blip_bootstrap.errors import RunFailed
from blip_bootstrap.progress import tell
from blip_pipelines.failures.errors import Raised, packed, unpacked

ANSWER_S = 120.0
"""How long a node may take to answer: its first process of Ray's must start, on a busy machine."""


def on_each_node(what: str, check: Callable[..., None], *arguments: Any, answer_s: float = ANSWER_S) -> None:
    """Call `check(*arguments)` on each node that is alive; raises what the first that fails raises.

    A node that dies meanwhile is left out. Raises RunFailed for one that does not answer.
    """
    remote = ray.remote(num_cpus=0, max_retries=0)(_checked)
    asked = {
        remote.options(
            name="check node", scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(check, arguments): node
        for node in ray.nodes()
        if node["Alive"]
    }
    done, late = ray.wait(list(asked), num_returns=len(asked), timeout=answer_s)
    for answer in done:
        try:
            raised = ray.get(answer)
        except ray.exceptions.RayError:  # it is gone; who needs it finds the same
            tell(f"  ray  node {_name(asked[answer])} did not live to answer; going on without it")
            continue
        if raised is not None:
            raise unpacked(what, raised)
    if late:
        raise RunFailed(
            f"ray: node {_name(asked[late[0]])} does not answer within {answer_s:.0f} s; stop it, or run again"
        )


def _checked(check: Callable[..., None], arguments: tuple[Any, ...]) -> Raised | None:
    """In a worker: what the check raised."""
    try:
        check(*arguments)
    except Exception as error:  # noqa: BLE001 - raised by the driver
        return packed(error)
    return None


def _name(node: dict[str, Any]) -> str:
    return str(node.get("NodeManagerHostname") or node.get("NodeManagerAddress"))
