"""Recovery beside calls: what is being made stays, what could not be adopted is adopted later, what ended is ended."""

from __future__ import annotations

import asyncio

import pytest

from ropewalk.errors import RopewalkError
from ropewalk.linux import namespaces
from ropewalk.pods import recovery
from ropewalk.pods.records import ContainerPhase, PodPhase
from ropewalk.runtimes.handler import Observation, Task
from tests.fakes.world import FakeHandler
from tests.unit.pods.conftest import Bench, Gate, container_spec, pod_spec, settle


async def test_a_pod_that_is_being_made_is_not_undone(bench: Bench) -> None:
    """The socket answers before the recovery looks: kubelet's first calls may be under way by then."""
    bench.world.hook = gate = Gate("attach")
    run = asyncio.ensure_future(bench.daemon.sandboxes.run(pod_spec()))
    await gate.reached.wait()
    await bench.daemon.recovery.run()
    gate.opened.set()
    pod = await run
    assert bench.daemon.sandboxes.get(pod.id).phase is PodPhase.READY
    assert list(bench.world.attached) == [pod.id]


async def test_a_container_that_is_being_made_is_not_undone(bench: Bench) -> None:
    pod = await bench.daemon.sandboxes.run(pod_spec())
    bench.world.hook = gate = Gate("create")
    create = asyncio.ensure_future(bench.daemon.containers.create(pod.id, container_spec()))
    await gate.reached.wait()
    await bench.daemon.recovery.run()
    gate.opened.set()
    assert (await create).phase is ContainerPhase.CREATED
    assert len(bench.world.snapshots) == 1


async def test_what_could_not_be_adopted_is_adopted_later(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """One container whose handler cannot tell yet keeps no other unwatched, and is not forgotten itself."""
    pod = await bench.daemon.sandboxes.run(pod_spec())
    ids = []
    for name in ("bad", "good"):
        ids.append((await bench.daemon.containers.create(pod.id, container_spec(name))).id)
        await bench.daemon.containers.start(ids[-1])
    bad, good = ids
    daemon = await bench.restart(adopt=False)
    observe = FakeHandler.observe
    failures: list[Exception] = [RopewalkError("the shim does not answer")]

    async def sometimes(self: FakeHandler, id: str, task: Task) -> Observation:
        if id == bad and failures:
            raise failures.pop()
        return await observe(self, id, task)

    monkeypatch.setattr(FakeHandler, "observe", sometimes)
    monkeypatch.setattr(recovery, "RETRY", 0.001)
    await daemon.recovery.run()
    bench.world.end(good, 3)
    await settle()
    assert daemon.containers.get(good).exit_code == 3
    bench.world.end(bad, 4)
    retries = asyncio.create_task(daemon.recovery.retry())
    async with asyncio.timeout(5):
        while daemon.containers.get(bad).phase is not ContainerPhase.EXITED:
            await asyncio.sleep(0.001)
    retries.cancel()
    assert daemon.containers.get(bad).exit_code == 4


@pytest.mark.parametrize("removed", [True, False])
async def test_what_goes_while_its_adoption_is_repeated_is_done_with(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *, removed: bool
) -> None:
    """Calls do not wait for a repeat. What they did is not told as something that was found."""
    pod = await bench.daemon.sandboxes.run(pod_spec())
    container = await bench.daemon.containers.create(pod.id, container_spec())
    await bench.daemon.containers.start(container.id)
    daemon = await bench.restart(adopt=False)
    gate = Gate("observe")
    failures: list[Exception] = [RopewalkError("the shim does not answer")]

    async def observe(self: FakeHandler, id: str, task: Task) -> Observation:
        if failures:
            raise failures.pop()
        await gate("observe")
        return Observation(alive=False)

    monkeypatch.setattr(FakeHandler, "observe", observe)
    monkeypatch.setattr(recovery, "RETRY", 0.001)
    await daemon.recovery.run()
    caplog.clear()
    retries = asyncio.create_task(daemon.recovery.retry())
    await gate.reached.wait()
    await (daemon.sandboxes.remove(pod.id) if removed else daemon.sandboxes.stop(pod.id))
    monkeypatch.setattr(namespaces, "is_pinned", lambda _: False)
    gate.opened.set()
    async with asyncio.timeout(5):
        while daemon.recovery._due:
            await asyncio.sleep(0.001)
    retries.cancel()
    assert [record.message for record in caplog.records if record.levelname != "INFO"] == []


async def test_after_a_reboot_nothing_is_told_that_is_not_so(bench: Bench) -> None:
    """Not even before the adoption: kubelet would believe it, and put a container into a pod without namespaces."""
    pod = await bench.daemon.sandboxes.run(pod_spec())
    container = await bench.daemon.containers.create(pod.id, container_spec())
    await bench.daemon.containers.start(container.id)
    bench.boot_id = "boot-2"
    daemon = await bench.restart(adopt=False)
    assert daemon.sandboxes.get(pod.id).phase is PodPhase.NOTREADY
    ended = daemon.containers.get(container.id)
    assert (ended.phase, ended.exit_code, ended.reason) == (ContainerPhase.EXITED, 255, "Unknown")


async def test_what_outlived_its_container_meanwhile_is_ended(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the node's PID namespace processes go on without the container's init; a watch would have ended them."""
    pod = await bench.daemon.sandboxes.run(pod_spec())
    container = await bench.daemon.containers.create(pod.id, container_spec())
    await bench.daemon.containers.start(container.id)
    await bench.daemon.close()
    bench.world.end(container.id, 7)
    killed: list[str] = []

    async def kill(self: FakeHandler, id: str, task: Task, cgroup: str) -> None:
        killed.append(id)

    monkeypatch.setattr(FakeHandler, "kill", kill)
    daemon = await bench.restart()
    await settle()
    assert daemon.containers.get(container.id).exit_code == 7
    assert killed == [container.id]
