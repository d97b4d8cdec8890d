"""One container or handler that cannot tell spoils nobody else's statistics, and nothing of what has gone is kept."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from ropewalk.errors import RopewalkError
from ropewalk.linux.cgroup import CgroupStats
from ropewalk.pods import stats
from ropewalk.pods.records import Container, ContainerPhase, Pod, PodPhase
from ropewalk.pods.stats import Stats
from ropewalk.runtimes.handler import Task
from ropewalk.runtimes.registry import Handlers
from ropewalk.spec.container import ContainerSpec
from ropewalk.spec.pod import PodSpec
from ropewalk.state.database import Database
from ropewalk.state.store import Table
from ropewalk.storage.snapshotter import Usage
from tests.fakes.world import FakeHandler, FakeSnapshotter, World


class Accounting(FakeHandler):
    """A handler with accounts of its own, which may hang or fail; those of others are in cgroups."""

    name = "own"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.hangs: set[str] = set()
        self.asked = self.asked_at_once = 0
        self.fails: set[str] = set()

    async def stats(self, id: str, task: Task) -> CgroupStats | None:
        self.asked += 1
        self.asked_at_once = max(self.asked, self.asked_at_once)
        try:
            if id in self.hangs:
                await asyncio.Event().wait()
        finally:
            self.asked -= 1
        if id in self.fails:
            raise RopewalkError("the shim is gone")
        return CgroupStats(cpu_usage_ns=5)


class Cgroups:
    def stats(self, path: str) -> CgroupStats | None:
        return CgroupStats(cpu_usage_ns=7)


class Network:
    async def stats(self, attachment: object) -> list[Any]:
        return []


class Node:
    """Records and what counts them. `add` makes a running container."""

    def __init__(self, path: Path) -> None:
        database = Database(str(path / "state.db"))
        self.database = database
        self.pods = Table(database, "pods", Pod, noun="pod sandbox")
        self.containers = Table(database, "containers", Container, noun="container")
        self.world = World()
        self.handler = Accounting(self.world)
        plain = FakeHandler(self.world)
        cgroups: Any = Cgroups()
        network: Any = Network()
        self.snapshotter = FakeSnapshotter(self.world)
        self.stats = Stats(
            self.pods,
            self.containers,
            cgroups,
            network,
            self.snapshotter,
            Handlers({"crun": plain, "own": self.handler}, "crun"),
            mountpoint="/data",
        )
        self.pods.add(
            Pod(id="p", spec=PodSpec(), phase=PodPhase.READY, handler="own", created_at=1, boot_id="", cgroup="/p")
        )

    def add(self, id: str, handler: str = "own") -> None:
        self.containers.add(
            Container(
                id=id,
                pod_id="p",
                spec=ContainerSpec(),
                phase=ContainerPhase.RUNNING,
                handler=handler,
                boot_id="",
                cgroup=f"/p/{id}",
                image_id="i",
                snapshot=id,
                task=Task(1, 1),
            )
        )


@pytest.fixture
def node(tmp_path: Path) -> Any:
    node = Node(tmp_path)
    yield node
    node.database.close()


def kept(node: Node) -> set[str]:
    """Ids of which a reading is kept, for the next rate."""
    return set(node.stats._rates._last)


def cpu(found: list[stats.ContainerStats]) -> dict[str, int | None]:
    return {each.container.id: each.cgroup.cpu_usage_ns if each.cgroup else None for each in found}


async def test_handlers_that_hang_are_asked_side_by_side_and_not_waited_for(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stats, "PATIENCE", 0.01)
    ids = [str(number) for number in range(30)]
    for id in ids:
        node.add(id)
    node.add("other", "crun")
    node.handler.hangs = set(ids[1:])
    found = cpu(await node.stats.containers([*ids, "other"]))
    assert (found["0"], found["1"], found["other"]) == (5, None, 7)
    assert list(found) == [*ids, "other"]
    assert node.handler.asked_at_once == len(ids) - 1


async def test_one_that_fails_is_told_without_numbers(node: Node) -> None:
    for id in ("good", "bad"):
        node.add(id)
    node.handler.fails = {"bad"}
    assert cpu(await node.stats.containers(["good", "bad"])) == {"good": 5, "bad": None}


async def test_a_layer_that_is_gone_already_has_no_bytes(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """An undo that failed half-way has removed the layer and kept the row."""
    node.add("half")
    node.add("whole")

    async def usage(self: FakeSnapshotter, key: str) -> Usage:
        if key == "half":
            await self.mounts(key)  # raises NotFound
        return Usage(bytes=3)

    monkeypatch.setattr(FakeSnapshotter, "usage", usage)
    found = await node.stats.containers(["half", "whole"])
    assert [each.writable.bytes for each in found] == [0, 3]


async def test_what_goes_while_it_is_counted_is_neither_told_nor_kept(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.add("gone")
    node.add("kept")
    monkeypatch.setattr(stats, "PATIENCE", 0.01)
    node.handler.hangs = {"gone"}
    counting = asyncio.ensure_future(node.stats.containers(["gone", "kept"]))
    await asyncio.sleep(0)
    node.containers.remove("gone")
    assert cpu(await counting) == {"kept": 5}
    assert kept(node) == {"kept"}
    node.containers.remove("kept")
    assert kept(node) == set()


async def test_pods_that_go_leave_no_rate(node: Node) -> None:
    node.add("c")
    assert [len(each.containers) for each in await node.stats.pods(["p"])] == [1]
    assert kept(node) == {"p", "c"}
    node.containers.remove("c")
    node.pods.remove("p")
    assert kept(node) == set()


async def test_a_container_that_is_being_made_is_not_told(node: Node) -> None:
    node.add("c")
    node.containers.add(structs.replace(node.containers["c"], id="m", phase=ContainerPhase.MAKING, task=None))
    [pod] = await node.stats.pods(["p"])
    assert [each.container.id for each in pod.containers] == ["c"]
