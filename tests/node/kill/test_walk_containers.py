"""kill -9 of the daemon at each step of CreateContainer, StartContainer, StopContainer and RemoveContainer."""

from __future__ import annotations

import pytest

from ropewalk.client import cri, values
from ropewalk.errors import RopewalkError
from ropewalk.spec import container, pod
from tests.node.kill import killable, points
from tools import workload

NODE_CLASS = killable.Node
NODE_CONFIG = "ready = 0\n"  # [network]: no namespaces in reserve

EXITED = values.ContainerState.EXITED
KINDS_AND_CREATE = [(kind, point) for kind in (*points.KINDS, "runc") for point in points.CREATE]


def spec_of(sandbox: workload.Pod, *command: str) -> container.ContainerSpec:
    return workload.container_spec("main", *command, of=sandbox.spec)


async def adopted(client: cri.Client, sandbox: workload.Pod) -> workload.Pod:
    """The same pod, spoken to through a client of the next daemon."""
    [found] = await client.pods()
    assert (found.id, found.state) == (sandbox.id, values.PodSandboxState.READY)
    return workload.Pod(client, sandbox.id, sandbox.spec)


@pytest.mark.parametrize("kind", [*points.KINDS, "runc"])
async def test_the_walk_has_every_point(node: killable.Node, kind: str) -> None:
    async with node.client() as client:
        sandbox = await workload.run_pod(client, points.pod_spec(node, kind))
        node.passed()
        id = await sandbox.create("main", "sleep", "600")
        assert node.passed() == points.CREATE
        await client.start(id)
        assert node.passed() == points.START
        await client.stop(id, 0)
        await client.remove(id)
        assert node.passed() == points.REMOVE
        await sandbox.remove()


@pytest.mark.parametrize(("kind", "point"), KINDS_AND_CREATE)
async def test_create(node: killable.Node, kind: str, point: str) -> None:
    before = node.has()
    async with node.client() as client:
        sandbox = await workload.run_pod(client, points.pod_spec(node, kind))
        with_pod = node.has()
        spec = spec_of(sandbox, "sh", "-c", "echo once")
        await node.killed_at(point, client.create(sandbox.id, spec, sandbox.spec))
    async with node.client() as client:
        sandbox = await adopted(client, sandbox)
        assert await client.containers() == []
        node.settles(with_pod, pod=sandbox.id)
        await one_life(client, sandbox, spec)
    node.settles(before)


@pytest.mark.parametrize("point", points.CREATE)
async def test_create_is_repeated_at_once(node: killable.Node, point: str) -> None:
    before = node.has()
    async with node.client() as client:
        sandbox = await workload.run_pod(client, points.pod_spec(node, "network"))
        spec = spec_of(sandbox, "sh", "-c", "echo once")
        await node.killed_at(point, client.create(sandbox.id, spec, sandbox.spec))
    async with node.client() as client:
        await one_life(client, await adopted(client, sandbox), spec)
    node.settles(before)


async def one_life(client: cri.Client, sandbox: workload.Pod, spec: container.ContainerSpec) -> None:
    id = await client.create(sandbox.id, spec, sandbox.spec)
    assert await client.create(sandbox.id, spec, sandbox.spec) == id
    assert [found.id for found in await client.containers()] == [id]
    await client.start(id)
    assert (await sandbox.exited(id)).exit_code == 0
    assert sandbox.output() == "once\n"
    await client.remove(id)
    assert await client.containers() == []
    await sandbox.remove()


@pytest.mark.parametrize("point", points.REMOVE)
async def test_the_undo_of_a_failed_create(node: killable.Node, point: str) -> None:
    before = node.has()
    async with node.client() as client:
        sandbox = await workload.run_pod(client, points.pod_spec(node, "network"))
        with_pod = node.has()
        bad = spec_of(sandbox, "/no/such/program")
        with pytest.raises(RopewalkError, match="/no/such/program"):
            await client.create(sandbox.id, bad, sandbox.spec)
        await node.killed_at(point, client.create(sandbox.id, bad, sandbox.spec))
    async with node.client() as client:
        sandbox = await adopted(client, sandbox)
        assert await client.containers() == []
        node.settles(with_pod, pod=sandbox.id)
        await one_life(client, sandbox, spec_of(sandbox, "sh", "-c", "echo once"))
    node.settles(before)


@pytest.mark.parametrize("kind", [*points.KINDS, "runc"])
@pytest.mark.parametrize("point", points.START)
async def test_start(node: killable.Node, kind: str, point: str) -> None:
    """Whether or not the process had been started, it runs once, and a repeated StartContainer does no harm."""
    before = node.has()
    async with node.client() as client:
        sandbox = await workload.run_pod(client, points.pod_spec(node, kind))
        id = await sandbox.create("main", "sh", "-c", "echo once; exec sleep 600")
        await node.killed_at(point, client.start(id))
    async with node.client() as client:
        sandbox = await adopted(client, sandbox)
        if (await client.container_status(id)).state is values.ContainerState.CREATED:
            await client.start(id)
        assert await sandbox.says("once") == "once\n"
        status = await client.container_status(id)
        assert status.state is values.ContainerState.RUNNING
        assert status.started_at >= status.created_at
        assert (await client.exec_sync(id, ["true"])).exit_code == 0
        await sandbox.remove()
    node.settles(before)


@pytest.mark.parametrize("point", points.START)
async def test_start_of_what_ends_at_once(node: killable.Node, point: str) -> None:
    before = node.has()
    async with node.client() as client:
        sandbox = await workload.run_pod(client, points.pod_spec(node, "network"))
        id = await sandbox.create("main", "sh", "-c", "echo once; exit 3")
        await node.killed_at(point, client.start(id))
    async with node.client() as client:
        sandbox = await adopted(client, sandbox)
        if (await client.container_status(id)).state is values.ContainerState.CREATED:
            await client.start(id)
        status = await sandbox.exited(id)
        assert (status.exit_code, status.reason, sandbox.output()) == (3, "Error", "once\n")
        await sandbox.remove()
    node.settles(before)


async def test_update(node: killable.Node) -> None:
    """systemd, where it has the scope, knows of no new limit yet: the caller, who got no answer, asks again."""
    async with node.client() as client:
        sandbox = await workload.run_pod(client, points.pod_spec(node, "network"))
        id = await sandbox.start("main", "sleep", "600")
        limits = pod.LinuxContainerResources(memory_limit_in_bytes=64 << 20)
        await node.killed_at("update:set", client.update(id, limits))
    async with node.client() as client:
        sandbox = await adopted(client, sandbox)
        assert (await client.container_status(id)).resources.linux.memory_limit_in_bytes == 0
        await client.update(id, limits)
        status = await client.container_status(id)
        assert status.resources.linux.memory_limit_in_bytes == 64 << 20
        assert status.state is values.ContainerState.RUNNING
        await sandbox.remove()


@pytest.mark.parametrize("point", points.REMOVE)
@pytest.mark.parametrize("stopped", [True, False])
async def test_remove(node: killable.Node, point: str, *, stopped: bool) -> None:
    before = node.has()
    async with node.client() as client:
        sandbox = await workload.run_pod(client, points.pod_spec(node, "network"))
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
        await one_life(client, sandbox, spec_of(sandbox, "sh", "-c", "echo once"))
    node.settles(before)
