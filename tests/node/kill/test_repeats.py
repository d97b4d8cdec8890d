"""Calls whose client gave up are repeated, and calls that are slow are overtaken by Stop and Remove."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import AsyncIterator

import pytest

from ropewalk.client import cri, values
from ropewalk.errors import Kind, RopewalkError
from ropewalk.linux import process
from ropewalk.spec import container
from tests.node.kill import kernel, killable, points
from tools import workload

NODE_CLASS = killable.Node
NODE_CONFIG = "ready = 0\n"  # [network]

STOPPED = "T"


async def left_after(seconds: float, call: asyncio.Future[str]) -> None:
    """The client goes away."""
    await asyncio.wait([call], timeout=seconds)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)


@pytest.mark.parametrize("kind", points.KINDS)
async def test_run_after_a_timeout_is_the_same_pod(node: killable.Node, kind: str) -> None:
    before, chance = node.has(), random.Random(kind)
    for _ in range(10):
        spec = points.pod_spec(node, kind)
        async with node.client() as client:
            with contextlib.suppress(RopewalkError):
                await client.run_pod(spec, timeout=0.001 + chance.random() * 0.008)
            id = await client.run_pod(spec)
            assert [pod.id for pod in await client.pods()] == [id]
            pins = {line for line in node.has() - before if line.startswith("netns")}
            assert len(pins) == (kind != "host")
            await client.stop_pod(id)
            await client.remove_pod(id)
    node.settles(before)


async def test_create_after_a_timeout_is_the_same_container(node: killable.Node) -> None:
    before, chance = node.has(), random.Random("create")
    async with node.client() as client:
        pod = await workload.run_pod(client, points.pod_spec(node, "network"))
        for number in range(10):
            spec = workload.container_spec(f"c{number}", "sleep", "600", of=pod.spec)
            await left_after(chance.random() * 0.03, asyncio.ensure_future(client.create(pod.id, spec, pod.spec)))
            id = await client.create(pod.id, spec, pod.spec)
            found = [one for one in await client.containers() if one.metadata.name == f"c{number}"]
            assert [one.id for one in found] == [id]
        assert len(monitors(node)) == 10
        await pod.remove()
    node.settles(before)


async def test_start_after_a_timeout_runs_once(node: killable.Node) -> None:
    chance = random.Random("start")
    async with node.client() as client:
        pod = await workload.run_pod(client, points.pod_spec(node, "host"))
        for number in range(10):
            name = f"c{number}"
            id = await pod.create(name, "sh", "-c", "echo once; exec sleep 600")
            starting = asyncio.ensure_future(client.start(id))
            await asyncio.wait([starting], timeout=chance.random() * 0.006)
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            with contextlib.suppress(RopewalkError):  # it runs already
                await client.start(id)
            assert await pod.says("once", name) == "once\n"
            assert (await client.container_status(id)).state is values.ContainerState.RUNNING


def monitors(node: killable.Node, state: str = "") -> list[int]:
    """This node's monitors, those in a state of /proc/PID/stat if it is given."""
    pids = [kernel.pid_in(line) for line in kernel.processes(node)]
    mine = [pid for pid in pids if kernel.is_monitor(process.command_line(pid))]
    return [pid for pid in mine if (seen := process.stat(pid)) is not None and seen.state in (state or seen.state)]


@contextlib.asynccontextmanager
async def slow_create(
    node: killable.Node, client: cri.Client, pod: workload.Pod, spec: container.ContainerSpec
) -> AsyncIterator[asyncio.Task[str]]:
    """A CreateContainer whose monitor stands still."""
    node.arm("monitor:placed", action="stop")
    creating = asyncio.ensure_future(client.create(pod.id, spec, pod.spec))
    async with asyncio.timeout(20):
        while not monitors(node, STOPPED):
            assert not creating.done()
            await asyncio.sleep(0.005)
    yield creating
    creating.cancel()
    await asyncio.gather(creating, return_exceptions=True)


async def test_a_repeat_joins_a_create_under_way(node: killable.Node) -> None:
    async with node.client() as client:
        pod = await workload.run_pod(client, points.pod_spec(node, "host"))
        spec = workload.container_spec("main", "sleep", "600", of=pod.spec)
        async with slow_create(node, client, pod, spec) as first:
            await left_after(0.05, first)
            second = asyncio.ensure_future(client.create(pod.id, spec, pod.spec))
            await asyncio.sleep(0.05)
            assert not second.done()
            [stopped] = monitors(node, STOPPED)  # the second call started no other
            os.kill(stopped, signal.SIGCONT)
            assert [found.id for found in await client.containers()] in ([], [await second])
            assert await client.create(pod.id, spec, pod.spec) == await second


async def test_another_config_replaces_what_was_not_reported(node: killable.Node) -> None:
    before = node.has()
    async with node.client() as client:
        pod = await workload.run_pod(client, points.pod_spec(node, "host"))
        old = workload.container_spec("main", "sleep", "600", of=pod.spec)
        new = workload.container_spec("main", "sh", "-c", "echo new", of=pod.spec)
        async with slow_create(node, client, pod, old) as first:
            id = await client.create(pod.id, new, pod.spec)
            with pytest.raises(RopewalkError):
                await first
            assert [found.id for found in await client.containers()] == [id]
            await client.start(id)
            await pod.says("new")
            with pytest.raises(RopewalkError) as refused:
                await client.create(pod.id, old, pod.spec)
            assert refused.value.kind is Kind.EXISTS
            assert "command" in str(refused.value)
        await pod.remove()
    node.settles(before)


@pytest.mark.parametrize("kind", points.KINDS)
@pytest.mark.parametrize("stop", [True, False])
async def test_stop_and_remove_overtake_a_create(node: killable.Node, kind: str, *, stop: bool) -> None:
    before = node.has()
    async with node.client() as client:
        pod = await workload.run_pod(client, points.pod_spec(node, kind))
        spec = workload.container_spec("main", "sleep", "600", of=pod.spec)
        async with slow_create(node, client, pod, spec) as creating, asyncio.timeout(60):
            await (client.stop_pod(pod.id) if stop else client.remove_pod(pod.id))
            with pytest.raises(RopewalkError):
                await creating
        assert await client.containers() == []
        assert [found.state for found in await client.pods()] == [values.PodSandboxState.NOTREADY] * stop
        if stop:
            with pytest.raises(RopewalkError) as refused:
                await client.create(pod.id, spec, pod.spec)
            assert refused.value.kind is Kind.STATE
        await client.remove_pod(pod.id)
    node.settles(before)


async def test_a_slow_create_holds_no_other_pod(node: killable.Node) -> None:
    async with node.client() as client:
        slow = await workload.run_pod(client, points.pod_spec(node, "host"))
        spec = workload.container_spec("main", "sleep", "600", of=slow.spec)
        async with slow_create(node, client, slow, spec), asyncio.timeout(60):
            other = await workload.run_pod(client, points.pod_spec(node, "network"))
            await other.exited(await other.start("main", "true"))
            await other.remove()
            assert await client.containers() == []
            await slow.remove()
