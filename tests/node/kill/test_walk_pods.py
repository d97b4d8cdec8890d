"""kill -9 of the daemon at each step of RunPodSandbox, StopPodSandbox and RemovePodSandbox, for three kinds of pods.

The next daemon lists nothing half-made and has undone it; the same request then makes exactly one pod; stopped and
removed it leaves the kernel as it was.
"""

from __future__ import annotations

import contextlib

import pytest

from ropewalk.client import values
from ropewalk.errors import RopewalkError
from ropewalk.spec import pod
from tests.node.kill import killable, points
from tools import workload

NODE_CLASS = killable.Node
NODE_CONFIG = "ready = 0\n"  # [network]: no namespaces in reserve, so that what is there is a pod's

RUN = [(kind, point) for kind in points.KINDS for point in (points.RUN_SHARED if kind == "shared" else points.RUN)]
STOP = [(kind, point) for kind in points.KINDS for point in points.STOP]
REMOVE = [(kind, point) for kind in points.KINDS for point in points.STOP + points.REMOVE]


@pytest.mark.parametrize("kind", points.KINDS)
async def test_the_walk_has_every_point(node: killable.Node, kind: str) -> None:
    async with node.client() as client:
        node.passed()
        sandbox = await workload.run_pod(client, points.pod_spec(node, kind))
        assert node.passed() == (points.RUN_SHARED if kind == "shared" else points.RUN)
        await sandbox.client.stop_pod(sandbox.id)
        assert node.passed() == points.STOP
        await sandbox.client.remove_pod(sandbox.id)
        await killable.running(client, points.pod_spec(node, kind))
        node.passed()
        [found] = await client.pods()
        await client.remove_pod(found.id)
        assert node.passed() == points.STOP + points.REMOVE


@pytest.mark.parametrize(("kind", "point"), RUN)
async def test_run(node: killable.Node, kind: str, point: str) -> None:
    before, spec = node.has(), points.pod_spec(node, kind)
    async with node.client() as client:
        await node.killed_at(point, workload.run_pod(client, spec))
    async with node.client() as client:
        assert await client.pods() == []
        node.settles(before)
        await killable.one_life(client, spec)
    node.settles(before)


@pytest.mark.parametrize("point", points.RUN_SHARED)
async def test_run_is_repeated_at_once(node: killable.Node, point: str) -> None:
    """The kubelet does not wait until the next daemon has tidied up."""
    before, spec = node.has(), points.pod_spec(node, "shared")
    async with node.client() as client:
        await node.killed_at(point, workload.run_pod(client, spec))
    async with node.client() as client:
        await killable.one_life(client, spec)
    node.settles(before)


async def test_half_written_files_are_removed(node: killable.Node) -> None:
    """A kill between the making and the renaming of a file."""
    before, spec = node.has(), points.pod_spec(node, "network")
    async with node.client() as client:
        node.arm("files:before")
        with contextlib.suppress(RopewalkError):
            await workload.run_pod(client, spec)
        await node.died()
    [directory] = (node.state / "pods").iterdir()
    (directory / "hosts.01234567.tmp").touch()
    await node.start()
    node.settles(before)


@pytest.mark.parametrize("point", points.STOP)
async def test_the_undo_of_a_failed_run(node: killable.Node, point: str) -> None:
    before, good = node.has(), points.pod_spec(node, "network")
    bad = points.pod_spec(
        node, "network", metadata=good.metadata, linux=pod.LinuxPodSandboxConfig(sysctls={"net.ipv4.nosuch": "1"})
    )
    async with node.client() as client:
        with pytest.raises(RopewalkError, match="nosuch"):
            await client.run_pod(bad)
        await node.killed_at(point, client.run_pod(bad))
    async with node.client() as client:
        assert await client.pods() == []
        await killable.one_life(client, good)
    node.settles(before)


@pytest.mark.parametrize(("kind", "point"), STOP)
async def test_stop(node: killable.Node, kind: str, point: str) -> None:
    before = node.has()
    async with node.client() as client:
        sandbox = await killable.running(client, points.pod_spec(node, kind))
        await node.killed_at(point, client.stop_pod(sandbox.id))
    async with node.client() as client:
        [found] = await client.pods()
        assert (found.id, found.state) == (sandbox.id, values.PodSandboxState.NOTREADY)
        [inside] = await client.containers()
        assert inside.state is values.ContainerState.EXITED
        await client.stop_pod(sandbox.id)
        node.keeps_only(before, sandbox.containers["main"])  # it waits for RemoveContainer
        await client.remove_pod(sandbox.id)
        assert await client.pods() == []
        assert await client.containers() == []
    node.settles(before)


@pytest.mark.parametrize(("kind", "point"), REMOVE)
async def test_remove(node: killable.Node, kind: str, point: str) -> None:
    before = node.has()
    async with node.client() as client:
        sandbox = await killable.running(client, points.pod_spec(node, kind))
        await node.killed_at(point, client.remove_pod(sandbox.id))
    async with node.client() as client:
        assert {found.id for found in await client.pods()} <= {sandbox.id}
        await client.remove_pod(sandbox.id)
        assert await client.pods() == []
        assert await client.containers() == []
    node.settles(before)
