"""Who gets which item, what is asked of Ray, and what is said where nobody works: with a Ray that is a stand-in."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from blip_bootstrap.errors import RunFailed
from blip_pipelines.cluster import crew as crew_module
from blip_pipelines.cluster.crew import Crew, Hand, Memory, Told, Try
from blip_pipelines.cluster.items import Pool

GB = 1_000_000_000


class Cluster:
    """Nodes with memory, and actors that answer when they are waited for; `does` says what comes of an item."""

    exceptions = ray.exceptions

    def __init__(self, nodes: dict[str, int], does: Callable[[Any, str], Any]) -> None:
        self.memory, self.does = nodes, does
        self.asked: list[int] = []
        self.free = dict(nodes)
        self.peak_bytes = 0
        self.num_waits = 0
        self.on_wait: Callable[[int], None] = lambda num: None

    def nodes(self) -> list[dict[str, Any]]:
        resources = {"CPU": 2.0, "GPU": 0.0}
        return [
            {"NodeID": name, "Alive": True, "Resources": resources | {"memory": float(memory)}}
            for name, memory in self.memory.items()
        ]

    def options(self, **asked: Any) -> Any:
        self.asked.append(asked.get("memory", 0))
        return SimpleNamespace(remote=lambda *_: Actor(self, asked.get("memory", 0)))

    def wait(self, refs: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        self.num_waits += 1
        self.on_wait(self.num_waits)
        ready = next((ref for ref in refs if ref.is_ready()), None)
        return ([ready], []) if ready else ([], refs)

    def get(self, ref: Any) -> Any:
        return ref.answer()

    def kill(self, actor: Any) -> None:
        actor.leave()


class Actor:
    def __init__(self, cluster: Cluster, asked: int) -> None:
        self.cluster, self.asked, self.node = cluster, asked, ""
        self.begin = SimpleNamespace(remote=lambda: Ref(self, None))
        self.do = SimpleNamespace(remote=lambda item, carefully: Ref(self, (pickle.loads(item), carefully)))

    def place(self) -> bool:
        found = next((name for name, free in self.cluster.free.items() if free >= self.asked), "")
        if not self.node and found:
            self.node = found
            self.cluster.free[found] -= self.asked
        return bool(self.node)

    def leave(self) -> None:
        if self.node in self.cluster.free:
            self.cluster.free[self.node] += self.asked
        self.node = ""


class Ref:
    def __init__(self, actor: Actor, given: Any) -> None:
        self.actor, self.given = actor, given

    def is_ready(self) -> bool:
        return self.actor.place()

    def answer(self) -> bytes:
        node, cluster = self.actor.node, self.actor.cluster
        outcomes = [cluster.does(self.given, node)] if self.given else []
        return pickle.dumps(Told(outcomes, 0, cluster.peak_bytes, node, cluster.memory.get(node, 0)))


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Crew, Cluster]]:
    def started(does: Callable[[Any, str], Any], nodes: dict[str, int], **pool: Any) -> tuple[Crew, Cluster]:
        cluster = Cluster(nodes, does)
        monkeypatch.setattr(crew_module, "ray", cluster)
        return Crew("test", cluster, (), Pool(**{"num_workers": 2, **pool}), {}), cluster

    return started


def item_of(given: Any, node: str) -> Any:
    return given[0]


def test_items_are_taken_as_workers_are_free(start: Callable[..., tuple[Crew, Cluster]]) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    crew, cluster = start(item_of, {"a": 10 * GB})
    for num_done, _ in enumerate(crew.outcomes(items())):
        assert len(taken) <= num_done + 1 + 2, "a list was made of the generator"
    assert taken == list(range(100))
    assert len(cluster.asked) == 2
    assert cluster.free == cluster.memory, "workers were left over"


def test_no_items_need_no_worker(start: Callable[..., tuple[Crew, Cluster]]) -> None:
    crew, cluster = start(item_of, {"a": 10 * GB})
    assert (list(crew.outcomes([])), cluster.asked) == ([], [])


def test_a_lost_machine_is_a_retry_and_says_nothing_about_the_item(
    start: Callable[..., tuple[Crew, Cluster]], capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = {f"spot{number}": GB for number in range(20)} | {"stays": GB}
    found: list[bool] = []

    def does(given: Any, node: str) -> Any:
        item, carefully = given
        if item == "long" and node != "stays":
            del cluster.memory[node], cluster.free[node]
            raise ray.exceptions.ActorDiedError
        found.append(carefully)
        return item

    crew, cluster = start(does, nodes, memory_bytes=GB)
    assert sorted(crew.outcomes(["long", "short"])) == ["long", "short"]
    assert found == [False, False]
    assert crew.num_retries > crew_module.MAX_TRIES
    assert "a worker died (its machine was lost); another one goes on\n" in capsys.readouterr().err


def test_an_items_own_deaths_end_the_step(start: Callable[..., tuple[Crew, Cluster]]) -> None:
    def does(given: Any, node: str) -> Any:
        raise ray.exceptions.ActorDiedError

    crew, _ = start(does, {"a": 10 * GB})
    with pytest.raises(RunFailed, match=r"test: 8 workers died of the same work.*run again to go on"):
        list(crew.outcomes(["bad"]))


def test_memory_is_asked_for_as_assumed_then_as_measured(start: Callable[..., tuple[Crew, Cluster]]) -> None:
    crew, cluster = start(item_of, {"small": 4 * GB}, num_workers=4, memory_bytes=3 * GB)
    cluster.peak_bytes = GB // 2
    assert sorted(crew.outcomes(range(12))) == list(range(12))
    assert cluster.asked[:4] == [3 * GB] * 4, "of which the node has place for one"
    assert set(cluster.asked[4:]) == {int(crew_module.SPARE * GB / 2)}
    assert len(cluster.asked) == 8


def test_workers_that_hold_more_than_their_node_has_become_fewer(start: Callable[..., tuple[Crew, Cluster]]) -> None:
    num_there: list[int] = []

    def does(given: Any, node: str) -> Any:
        num_there.append((10 * GB - cluster.free["a"]) // GB)
        return given[0]

    crew, cluster = start(does, {"a": 10 * GB}, num_workers=4, memory_bytes=GB)
    cluster.peak_bytes = 4 * GB
    assert sorted(crew.outcomes(range(20))) == list(range(20))
    assert num_there[0] == 4
    assert num_there[-1] == 10, "two of five each: as many as fit"
    assert crew.num_retries == 0


def test_what_is_set_is_asked_for_whatever_is_held(start: Callable[..., tuple[Crew, Cluster]]) -> None:
    crew, cluster = start(item_of, {"a": 10 * GB}, memory_bytes=2 * GB, memory_is_set=True)
    cluster.peak_bytes = 9 * GB
    assert len(list(crew.outcomes(range(9)))) == 9
    assert cluster.asked == [2 * GB] * 2


def test_no_more_is_asked_for_than_a_node_has(start: Callable[..., tuple[Crew, Cluster]]) -> None:
    crew, cluster = start(item_of, {"a": GB, "b": 2 * GB}, num_workers=1, memory_bytes=50 * GB)
    assert list(crew.outcomes(["x"])) == ["x"]
    assert cluster.asked == [2 * GB]


def test_a_cluster_without_place_is_told_and_waited_for(
    start: Callable[..., tuple[Crew, Cluster]], capsys: pytest.CaptureFixture[str]
) -> None:
    crew, cluster = start(item_of, {}, gpus=1.0, memory_bytes=2 * GB)

    def come(num_waits: int) -> None:
        if num_waits == 13:
            cluster.memory["new"] = cluster.free["new"] = 20 * GB

    cluster.on_wait = come
    assert list(crew.outcomes(["x"])) == ["x"]
    told = [line for line in capsys.readouterr().err.splitlines() if "no worker" in line]
    assert [line.split(" s: ")[0] for line in told] == [
        "  test  no worker could be started for 60",
        "  test  no worker could be started for 660",
    ]
    assert "each wants 1 CPU, 1 GPU" in told[0]
    assert "the cluster has 0 nodes with 0 CPUs and 0 GPUs" in told[0]
    assert "ray start --address" in told[0]


def test_deaths_count_once_their_machine_is_known_to_live(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray tells a worker's death before that of its node."""
    tried = Try(b"", ["a", "a", "b"])
    monkeypatch.setattr(crew_module, "ray", Cluster({"a": GB, "b": GB}, item_of))
    assert tried.num_deaths() == 3
    monkeypatch.setattr(crew_module, "ray", Cluster({"b": GB}, item_of))
    assert tried.num_deaths() == 1


def test_a_worker_that_ran_out_of_memory_is_followed_by_one_that_asks_for_more() -> None:
    memory = Memory(Pool(1, memory_bytes=GB))
    memory.ran_out(Hand(None, asked_bytes=GB))
    assert memory.needed_bytes == int(crew_module.SPARE * GB)
