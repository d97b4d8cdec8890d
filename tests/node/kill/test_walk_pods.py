"""kill -9 of the daemon at each step of RunPodSandbox, StopPodSandbox and RemovePodSandbox, for three kinds of pods.

The next daemon lists nothing half-made and has undone it; the same request then makes exactly one pod; stopped and
removed it leaves the kernel as it was.
"""

from __future__ import annotations

import contextlib

import pytest

from ropewalk.errors import RopewalkError
from tests.node.kill import killable, points, walks
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
        await walks.running(client, points.pod_spec(node, kind))
        node.passed()
        [found] = await client.pods()
        await client.remove_pod(found.id)
        assert node.passed() == points.STOP + points.REMOVE


@pytest.mark.parametrize(("kind", "point"), RUN)
async def test_run(node: killable.Node, kind: str, point: str) -> None:
    await walks.run(node, points.pod_spec(node, kind), point)


@pytest.mark.parametrize("point", points.RUN_SHARED)
async def test_run_is_repeated_at_once(node: killable.Node, point: str) -> None:
    """The kubelet does not wait until the next daemon has tidied up."""
    await walks.run(node, points.pod_spec(node, "shared"), point, at_once=True)


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
    await walks.undo_of_run(node, points.pod_spec(node, "network"), point)


@pytest.mark.parametrize(("kind", "point"), STOP)
async def test_stop(node: killable.Node, kind: str, point: str) -> None:
    await walks.stop(node, points.pod_spec(node, kind), point)


@pytest.mark.parametrize(("kind", "point"), REMOVE)
async def test_remove(node: killable.Node, kind: str, point: str) -> None:
    await walks.remove_pod(node, points.pod_spec(node, kind), point)
