"""Calls on one container that meet: with a pod that goes meanwhile, with each other, with what an undo left behind."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import Any

import pytest

from ropewalk.errors import Kind, RopewalkError
from ropewalk.linux import namespaces
from ropewalk.pods import phases
from ropewalk.pods.records import ContainerPhase
from ropewalk.runtimes.handler import Task
from ropewalk.spec.pod import LinuxContainerResources
from ropewalk.state.database import Database
from tests.fakes.world import FakeHandler
from tests.unit.pods.conftest import Bench, Gate, container_spec, pod_spec, settle


async def created(bench: Bench, name: str = "c") -> tuple[str, str]:
    """Ids of a pod and of a created container."""
    pod = await bench.daemon.sandboxes.run(pod_spec())
    return pod.id, (await bench.daemon.containers.create(pod.id, container_spec(name))).id


async def running(bench: Bench) -> tuple[str, str]:
    pod, id = await created(bench)
    await bench.daemon.containers.start(id)
    return pod, id


async def test_a_pod_that_ends_while_a_create_waits_gets_no_container(bench: Bench) -> None:
    pod = await bench.daemon.sandboxes.run(pod_spec())
    bench.world.hook = gate = Gate("create")
    first = asyncio.ensure_future(bench.daemon.containers.create(pod.id, container_spec("first")))
    await gate.reached.wait()
    second = asyncio.ensure_future(bench.daemon.containers.create(pod.id, container_spec("second")))
    await settle()
    bench.daemon.sandboxes.pods.apply(pod.id, phases.notready)  # its init was killed
    gate.opened.set()
    await first
    with pytest.raises(RopewalkError, match="not ready") as caught:
        await second
    assert caught.value.kind is Kind.STATE


async def test_a_pod_that_goes_while_its_handler_is_probed_is_not_found(bench: Bench) -> None:
    pod = await bench.daemon.sandboxes.run(pod_spec())
    daemon = await bench.restart(probed=False)
    create = asyncio.ensure_future(daemon.containers.create(pod.id, container_spec()))
    await settle()
    await daemon.sandboxes.remove(pod.id)
    daemon.probed()
    with pytest.raises(RopewalkError) as caught:
        await create
    assert caught.value.kind is Kind.NOT_FOUND


async def test_what_an_undo_left_behind_keeps_no_pod_from_stopping(bench: Bench) -> None:
    """The row is MAKING and has a task: nobody watches it, so nobody waits for its end either."""
    pod = await bench.daemon.sandboxes.run(pod_spec())
    broken = True

    async def hook(where: str) -> None:
        if where == "delete" and broken:
            raise RopewalkError("its mount is busy")

    bench.world.hook = hook
    apply = bench.daemon.containers.containers.apply
    with pytest.MonkeyPatch.context() as patch:

        def fails_at_the_end(id: str, transition: object, *facts: object, **how: bool) -> object:
            if transition is phases.tasked:
                apply(id, phases.tasked, *facts)
                raise RopewalkError("killed here")
            return apply(id, transition, *facts, **how)  # type: ignore[arg-type]

        patch.setattr(bench.daemon.containers.containers, "apply", fails_at_the_end)
        with pytest.raises(RopewalkError):
            await bench.daemon.containers.create(pod.id, container_spec())
    [left] = bench.daemon.containers.of(pod.id)
    assert left.phase is ContainerPhase.MAKING
    assert left.task is not None
    broken = False
    async with asyncio.timeout(5):
        await bench.daemon.sandboxes.stop(pod.id)
    assert not bench.world.processes
    await bench.daemon.sandboxes.remove(pod.id)
    assert bench.world.is_empty


async def test_what_nobody_watches_yet_is_stopped_and_its_end_is_told(bench: Bench) -> None:
    """Its adoption failed, or took too long: calls on it go on all the same."""
    _, id = await running(bench)
    daemon = await bench.restart(adopt=False)
    daemon.containers._queues.end_adoption(daemon.containers.get(id).pod_id)
    async with asyncio.timeout(5):
        await daemon.containers.stop(id, 60)
    ended = daemon.containers.get(id)
    assert (ended.phase, ended.exit_code) == (ContainerPhase.EXITED, 0)


async def test_a_stop_signal_that_could_not_be_sent_is_sent_by_the_next_stop(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, id = await running(bench)
    signal = FakeHandler.signal
    failures: list[Exception] = [RopewalkError("the shim does not answer", kind=Kind.UNAVAILABLE)]

    async def sometimes(self: FakeHandler, id: str, task: Task, signum: int) -> None:
        if failures:
            raise failures.pop()
        await signal(self, id, task, signum)

    monkeypatch.setattr(FakeHandler, "signal", sometimes)
    with pytest.raises(RopewalkError, match="does not answer"):
        await bench.daemon.containers.stop(id, 60)
    async with asyncio.timeout(5):
        await bench.daemon.containers.stop(id, 60)
    assert bench.world.signals == [(id, 15)]


async def test_a_client_that_leaves_does_not_leave_an_update_half_way(bench: Bench) -> None:
    """The kernel has the new limit: the row must tell it."""
    _, id = await running(bench)
    bench.world.hook = gate = Gate("update")
    update = asyncio.ensure_future(bench.daemon.containers.update(id, LinuxContainerResources(cpu_shares=7)))
    await gate.reached.wait()
    update.cancel()
    await settle()
    gate.opened.set()
    await settle()
    assert bench.daemon.containers.get(id).resources.cpu_shares == 7


async def test_an_undo_and_a_removal_at_once_are_one(bench: Bench) -> None:
    """The recovery's, every half a minute, and a Remove of the pod."""
    pod = await bench.daemon.sandboxes.run(pod_spec())

    async def fails(where: str) -> None:
        if where in ("create", "delete"):
            raise RopewalkError(where)

    bench.world.hook = fails
    with pytest.raises(RopewalkError):
        await bench.daemon.containers.create(pod.id, container_spec())
    [left] = bench.daemon.containers.of(pod.id)
    bench.world.hook = first = Gate("remove snapshot")
    undo = asyncio.ensure_future(bench.daemon.containers.undo(left.id))
    await first.reached.wait()
    bench.world.hook = second = Gate("delete")
    remove = asyncio.ensure_future(bench.daemon.containers.remove_all(pod.id))
    await settle()
    first.opened.set()
    await undo
    second.opened.set()
    await remove
    assert not bench.world.snapshots


async def test_limits_that_no_kernel_takes_are_refused_by_their_field(bench: Bench) -> None:
    _, id = await running(bench)
    with pytest.raises(RopewalkError, match="cpu_shares is -1") as caught:
        await bench.daemon.containers.update(id, LinuxContainerResources(cpu_shares=-1))
    assert caught.value.kind is Kind.INVALID


@pytest.mark.parametrize("after", [RopewalkError("the cgroup is busy"), TypeError("a mistake of a handler")])
async def test_why_a_start_failed_is_told_whatever_comes_after(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, after: Exception
) -> None:
    _, id = await created(bench)

    async def hook(where: str) -> None:
        if where == "start":
            raise RopewalkError("no such file", kind=Kind.INVALID)

    async def kill(self: FakeHandler, id: str, task: Task, cgroup: str) -> None:
        raise after

    bench.world.hook = hook
    monkeypatch.setattr(FakeHandler, "kill", kill)
    with pytest.raises(RopewalkError, match="no such file"):
        await bench.daemon.containers.start(id)


async def test_a_pod_whose_row_cannot_be_written_gives_its_address_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is wrong with the file."""

    def put(self: Database, table: str, id: str, document: bytes, *, durable: bool = False) -> None:
        raise sqlite3.DatabaseError("database disk image is malformed")

    monkeypatch.setattr(Database, "put", put)
    with pytest.raises(sqlite3.DatabaseError):
        await bench.daemon.sandboxes.run(pod_spec())
    network: Any = bench.daemon.sandboxes._network
    assert network.planned == set()


async def test_a_retry_with_another_config_gets_that_even_before_there_is_a_row(bench: Bench) -> None:
    """The first attempt still waits for its turn in the pod."""
    pod = await bench.daemon.sandboxes.run(pod_spec())
    bench.world.hook = gate = Gate("create")
    other = asyncio.ensure_future(bench.daemon.containers.create(pod.id, container_spec("other")))
    await gate.reached.wait()
    first = asyncio.ensure_future(bench.daemon.containers.create(pod.id, container_spec()))
    await settle()
    again = asyncio.ensure_future(bench.daemon.containers.create(pod.id, container_spec(labels={"a": "b"})))
    await settle()
    gate.opened.set()
    assert (await again).spec.labels == {"a": "b"}
    with pytest.raises(RopewalkError, match="overtaken"):
        await first
    await other
    assert len(bench.daemon.containers.list()) == 2


async def test_of_three_configs_at_once_each_gets_its_own_or_an_error(bench: Bench) -> None:
    """The second and the third wait for the same undo of the first."""
    pod = await bench.daemon.sandboxes.run(pod_spec())
    bench.world.hook = gate = Gate("create")
    creates = [asyncio.ensure_future(bench.daemon.containers.create(pod.id, container_spec()))]
    await gate.reached.wait()
    for label in ("b", "c"):
        create = bench.daemon.containers.create(pod.id, container_spec(labels={"a": label}))
        creates.append(asyncio.ensure_future(create))
    gate.opened.set()
    results = await asyncio.gather(*creates, return_exceptions=True)
    told = {index: made for index, made in enumerate(results) if not isinstance(made, BaseException)}
    assert len(told) == 1
    [(index, made)] = told.items()
    assert made.spec.labels == [{}, {"a": "b"}, {"a": "c"}][index]
    assert [one.id for one in bench.daemon.containers.list()] == [made.id]


async def test_no_container_starts_in_a_pod_that_is_not_ready(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its namespaces are gone, the container that waits for its start is not. As with containerd it has ended then."""
    _, id = await created(bench)
    monkeypatch.setattr(namespaces, "is_pinned", lambda _: False)
    daemon = await bench.restart()
    with pytest.raises(RopewalkError, match="not ready") as caught:
        await daemon.containers.start(id)
    assert caught.value.kind is Kind.STATE
    ended = daemon.containers.get(id)
    assert (ended.phase, ended.exit_code, ended.reason) == (ContainerPhase.EXITED, 128, "StartError")
    assert not bench.world.processes
