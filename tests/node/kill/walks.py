"""A kill at one point of an operation: what the walks of every kind of pod do, and expect of the next daemon.

Each takes a pod's specification and one point. The node is left as it was found.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace

from ropewalk.client import cri, values
from ropewalk.errors import Kind, RopewalkError
from ropewalk.spec import container, pod
from tests.node.kill import killable
from tools import workload

EXITED = values.ContainerState.EXITED
ONCE = ("sh", "-c", "echo once")


def spec_of(sandbox: workload.Pod, *command: str) -> container.ContainerSpec:
    return workload.container_spec("main", *command, of=sandbox.spec)


async def adopted(client: cri.Client, sandbox: workload.Pod) -> workload.Pod:
    """The same pod, spoken to through a client of the next daemon."""
    [found] = await client.pods()
    assert (found.id, found.state) == (sandbox.id, values.PodSandboxState.READY)
    return workload.Pod(client, sandbox.id, sandbox.spec)


async def pods_life(client: cri.Client, spec: pod.PodSpec) -> str:
    """The same request makes one pod, which works; then it is stopped and removed. Its id."""
    sandbox = await workload.run_pod(client, spec)
    assert await client.run_pod(spec) == sandbox.id
    assert [found.id for found in await client.pods()] == [sandbox.id]
    await containers_life(client, sandbox, spec_of(sandbox, *ONCE))
    assert await client.pods() == []
    return sandbox.id


async def containers_life(client: cri.Client, sandbox: workload.Pod, spec: container.ContainerSpec) -> None:
    """The same request makes one container, which says "once"; then it is removed, and its pod."""
    id = await client.create(sandbox.id, spec, sandbox.spec)
    assert await client.create(sandbox.id, spec, sandbox.spec) == id
    assert [found.id for found in await client.containers()] == [id]
    await client.start(id)
    assert (await sandbox.exited(id)).exit_code == 0
    assert sandbox.output() == "once\n"
    await client.remove(id)
    assert await client.containers() == []
    await sandbox.remove()


async def running(client: cri.Client, spec: pod.PodSpec) -> workload.Pod:
    sandbox = await workload.run_pod(client, spec)
    await sandbox.start("main", "sh", "-c", "sleep 600 & sleep 600")
    return sandbox


async def run(node: killable.Node, spec: pod.PodSpec, point: str, *, at_once: bool = False) -> str:
    """What was half made is not listed, and undone; the same request makes one pod, also before (`at_once`)."""
    before = node.has()
    async with node.client() as client:
        await node.killed_at(point, workload.run_pod(client, spec))
    async with node.client() as client:
        if not at_once:
            assert await client.pods() == []
            node.settles(before)
        id = await pods_life(client, spec)
    node.settles(before)
    return id


async def undo_of_run(node: killable.Node, good: pod.PodSpec, point: str) -> None:
    """Of a pod that cannot be: the next daemon goes on with it."""
    before = node.has()
    bad = replace(good, linux=pod.LinuxPodSandboxConfig(sysctls={"net.ipv4.nosuch": "1"}))
    async with node.client() as client:
        with pytest.raises(RopewalkError, match="nosuch"):
            await client.run_pod(bad)
        await node.killed_at(point, client.run_pod(bad))
    async with node.client() as client:
        assert await client.pods() == []
        await pods_life(client, good)
    node.settles(before)


async def stop(node: killable.Node, spec: pod.PodSpec, point: str) -> str:
    """It is stopped, and what a container's removal would take away is all that is there."""
    before = node.has()
    async with node.client() as client:
        sandbox = await running(client, spec)
        await node.killed_at(point, client.stop_pod(sandbox.id))
    async with node.client() as client:
        [found] = await client.pods()
        assert (found.id, found.state) == (sandbox.id, values.PodSandboxState.NOTREADY)
        [inside] = await client.containers()
        assert inside.state is EXITED
        await client.stop_pod(sandbox.id)
        node.keeps_only(before, sandbox.containers["main"])
        await client.remove_pod(sandbox.id)
        assert (await client.pods(), await client.containers()) == ([], [])
    node.settles(before)
    return sandbox.id


async def remove_pod(node: killable.Node, spec: pod.PodSpec, point: str) -> None:
    before = node.has()
    async with node.client() as client:
        sandbox = await running(client, spec)
        await node.killed_at(point, client.remove_pod(sandbox.id))
    async with node.client() as client:
        assert {found.id for found in await client.pods()} <= {sandbox.id}
        await client.remove_pod(sandbox.id)
        assert (await client.pods(), await client.containers()) == ([], [])
    node.settles(before)


async def create(node: killable.Node, spec: pod.PodSpec, point: str, *, at_once: bool = False) -> None:
    """As `run`, of a container."""
    before = node.has()
    async with node.client() as client:
        sandbox = await workload.run_pod(client, spec)
        with_pod = node.has()
        wanted = spec_of(sandbox, *ONCE)
        await node.killed_at(point, client.create(sandbox.id, wanted, sandbox.spec))
    async with node.client() as client:
        sandbox = await adopted(client, sandbox)
        if not at_once:
            assert await client.containers() == []
            node.settles(with_pod, pod=sandbox.id)
        await containers_life(client, sandbox, wanted)
    node.settles(before)


async def undo_of_create(node: killable.Node, spec: pod.PodSpec, point: str) -> None:
    before = node.has()
    async with node.client() as client:
        sandbox = await workload.run_pod(client, spec)
        with_pod = node.has()
        bad = spec_of(sandbox, "/no/such/program")
        with pytest.raises(RopewalkError, match="/no/such/program"):
            await client.create(sandbox.id, bad, sandbox.spec)
        await node.killed_at(point, client.create(sandbox.id, bad, sandbox.spec))
    async with node.client() as client:
        sandbox = await adopted(client, sandbox)
        assert await client.containers() == []
        node.settles(with_pod, pod=sandbox.id)
        await containers_life(client, sandbox, spec_of(sandbox, *ONCE))
    node.settles(before)


@contextlib.asynccontextmanager
async def started(
    node: killable.Node, spec: pod.PodSpec, point: str, script: str
) -> AsyncIterator[tuple[workload.Pod, str]]:
    """A pod and its container, of the next daemon. Whether or not the process had been started, a repeated
    StartContainer does no harm."""
    before = node.has()
    async with node.client() as client:
        sandbox = await workload.run_pod(client, spec)
        id = await sandbox.create("main", "sh", "-c", script)
        await node.killed_at(point, client.start(id))
    async with node.client() as client:
        sandbox = await adopted(client, sandbox)
        try:
            await client.start(id)
        except RopewalkError as error:  # it runs, or has ended
            if error.kind is not Kind.STATE:
                raise
        yield sandbox, id
        await sandbox.remove()
    node.settles(before)


async def start(node: killable.Node, spec: pod.PodSpec, point: str) -> None:
    """It runs once."""
    async with started(node, spec, point, "echo once; exec sleep 600") as (sandbox, id):
        assert await sandbox.says("once") == "once\n"
        status = await sandbox.client.container_status(id)
        assert status.state is values.ContainerState.RUNNING
        assert status.started_at >= status.created_at
        assert (await sandbox.client.exec_sync(id, ["true"])).exit_code == 0


async def start_of_what_ends(node: killable.Node, spec: pod.PodSpec, point: str) -> None:
    """At once, and whoever looks knows how."""
    async with started(node, spec, point, "echo once; exit 3") as (sandbox, id):
        status = await sandbox.exited(id)
        assert (status.exit_code, status.reason, sandbox.output()) == (3, "Error", "once\n")


async def remove(node: killable.Node, spec: pod.PodSpec, point: str, *, stopped: bool = False) -> None:
    """Of one that runs or is `stopped`; its pod is as before it."""
    before = node.has()
    async with node.client() as client:
        sandbox = await workload.run_pod(client, spec)
        with_pod = node.has()
        id = await sandbox.start("main", "sh", "-c", "sleep 600 & sleep 600")
        if stopped:
            await client.stop(id, 0)
        await node.killed_at(point, client.remove(id))
    async with node.client() as client:
        sandbox = await adopted(client, sandbox)
        assert {(found.id, found.state) for found in await client.containers()} <= {(id, EXITED)}
        await client.remove(id)
        assert await client.containers() == []
        node.settles(with_pod, pod=sandbox.id)
        await containers_life(client, sandbox, spec_of(sandbox, *ONCE))
    node.settles(before)
