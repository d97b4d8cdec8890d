"""kill -9 of the daemon at each step of a pod's way onto a CNI network and off it, and while the plugins run.

Nothing stays: no address in host-local's store, no rule of portmap's, no link, no namespace, no file of ours.
"""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from ropewalk.errors import RopewalkError
from tests.node.kill import plugged, points, walks
from tools import workload

NODE_CLASS = plugged.Node
NODE_CONFIG = "ready = 0\n"  # [network]

MOMENTS = [0.008 * number for number in range(1, 11)]  # seconds after RunPodSandbox, which takes 40 to 80 ms


@pytest.fixture(scope="module", autouse=True)
def plugged_in(pulled: plugged.Node) -> None:
    asyncio.run(pulled.plug())


@pytest.mark.parametrize("kind", ["network", "users"])
async def test_the_walk_has_every_point(node: plugged.Node, kind: str) -> None:
    before = node.has()
    async with node.client() as client:
        node.passed()
        sandbox = await workload.run_pod(client, points.pod_spec(node, kind))
        assert node.passed() == points.RUN_CNI
        found = node.has() - before
        assert [line for line in found if line.startswith("address")] == [f"address {await sandbox.ip()}"]
        assert any(line.startswith("rule") for line in found) == (kind == "network")
        assert any(line.startswith("link veth") for line in found)
        await client.stop_pod(sandbox.id)
        assert node.passed() == points.STOP_CNI
        await client.remove_pod(sandbox.id)
    node.settles(before)


@pytest.mark.parametrize("kind", ["network", "users"])
@pytest.mark.parametrize("point", points.RUN_CNI)
async def test_run(node: plugged.Node, kind: str, point: str) -> None:
    await walks.run(node, points.pod_spec(node, kind), point)


@pytest.mark.parametrize("point", points.STOP_CNI)
async def test_the_undo_of_a_failed_run(node: plugged.Node, point: str) -> None:
    await walks.undo_of_run(node, points.pod_spec(node, "network"), point)


@pytest.mark.parametrize("point", points.STOP_CNI)
async def test_stop(node: plugged.Node, point: str) -> None:
    await walks.stop(node, points.pod_spec(node, "network"), point)


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_kill_while_plugins_run(node: plugged.Node, moment: float) -> None:
    """They go on when the daemon has ended; what they would still make is not left either."""
    before, spec = node.has(), points.pod_spec(node, "network")
    async with node.client() as client:
        call = asyncio.ensure_future(client.run_pod(spec))
        await asyncio.sleep(moment)
        node.kill()
        with contextlib.suppress(RopewalkError):
            await call
    await node.start()
    async with node.client() as client:
        await walks.pods_life(client, spec)
    node.settles(before)


@pytest.mark.parametrize("moment", MOMENTS[::2])
async def test_a_kill_while_plugins_delete(node: plugged.Node, moment: float) -> None:
    before = node.has()
    async with node.client() as client:
        sandbox = await workload.run_pod(client, points.pod_spec(node, "network"))
        call = asyncio.ensure_future(client.stop_pod(sandbox.id))
        await asyncio.sleep(moment)
        node.kill()
        with contextlib.suppress(RopewalkError):
            await call
    await node.start()
    async with node.client() as client:
        await client.remove_pod(sandbox.id)
        assert await client.pods() == []
    node.settles(before)
