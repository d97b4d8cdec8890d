"""kill -9 of the daemon at each step of CreateContainer, StartContainer, StopContainer and RemoveContainer."""

from __future__ import annotations

import pytest

from ropewalk.client import values
from ropewalk.spec import pod
from tests.node.kill import killable, points, walks
from tools import workload

NODE_CLASS = killable.Node
NODE_CONFIG = "ready = 0\n"  # [network]: no namespaces in reserve

KINDS_AND_CREATE = [(kind, point) for kind in (*points.KINDS, "runc") for point in points.CREATE]


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
    await walks.create(node, points.pod_spec(node, kind), point)


@pytest.mark.parametrize("point", points.CREATE)
async def test_create_is_repeated_at_once(node: killable.Node, point: str) -> None:
    await walks.create(node, points.pod_spec(node, "network"), point, at_once=True)


@pytest.mark.parametrize("point", points.REMOVE)
async def test_the_undo_of_a_failed_create(node: killable.Node, point: str) -> None:
    await walks.undo_of_create(node, points.pod_spec(node, "network"), point)


@pytest.mark.parametrize("kind", [*points.KINDS, "runc"])
@pytest.mark.parametrize("point", points.START)
async def test_start(node: killable.Node, kind: str, point: str) -> None:
    await walks.start(node, points.pod_spec(node, kind), point)


@pytest.mark.parametrize("point", points.START)
async def test_start_of_what_ends_at_once(node: killable.Node, point: str) -> None:
    await walks.start_of_what_ends(node, points.pod_spec(node, "network"), point)


async def test_update(node: killable.Node) -> None:
    """systemd, where it has the scope, knows of no new limit yet: the caller, who got no answer, asks again."""
    async with node.client() as client:
        sandbox = await workload.run_pod(client, points.pod_spec(node, "network"))
        id = await sandbox.start("main", "sleep", "600")
        limits = pod.LinuxContainerResources(memory_limit_in_bytes=64 << 20)
        await node.killed_at("update:set", client.update(id, limits))
    async with node.client() as client:
        sandbox = await walks.adopted(client, sandbox)
        assert (await client.container_status(id)).resources.linux.memory_limit_in_bytes == 0
        await client.update(id, limits)
        status = await client.container_status(id)
        assert status.resources.linux.memory_limit_in_bytes == 64 << 20
        assert status.state is values.ContainerState.RUNNING
        await sandbox.remove()


@pytest.mark.parametrize("point", points.REMOVE)
@pytest.mark.parametrize("stopped", [True, False])
async def test_remove(node: killable.Node, point: str, *, stopped: bool) -> None:
    await walks.remove(node, points.pod_spec(node, "network"), point, stopped=stopped)
