"""kill -9 of the daemon at each step of a pod whose containers belong to a containerd shim, and of the shim itself."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
from pathlib import Path

import pytest

from ropewalk.client import values
from ropewalk.errors import RopewalkError
from ropewalk.linux import process
from ropewalk.pods import containers, sandboxes
from ropewalk.spec import pod
from tests.node.kill import killable, points, walks
from tools import shims, workload

NODE_CLASS = killable.Node
NODE_CONFIG = f'ready = 0\n[runtimes.shim]\npath = "{shims.find()}"\n'  # [network]: no namespaces in reserve

pytestmark = pytest.mark.skipif(shims.find() is None, reason="./dev setup unpacks containerd-shim-runc-v2")

SHIM = ["bundle:made", "bundle:written", "shim:started", "shim:known"]
KINDS = {"network": [*SHIM, "sandbox:running"], "shared": [*SHIM, "sandbox:created", "sandbox:running"]}
BUNDLE = ["bundle:made", "bundle:mounted", "bundle:written", "logger:started", "shim:creating", "shim:created"]
UNDO = ["task:deleted", "shim:ended"]

RUN = [(kind, point) for kind in KINDS for point in points.done(sandboxes.RUN, {"sandbox": KINDS[kind]})]
CREATE = points.done(containers.CREATE, {"task": BUNDLE})
STOP = points.undone(sandboxes.RUN)
STOP[1:1] = UNDO
REMOVE = points.undone(containers.CREATE)
REMOVE[1:1] = UNDO


def pod_spec(node: killable.Node, kind: str) -> pod.PodSpec:
    spec = points.pod_spec(node, kind)
    given = {name: getattr(spec, name) for name in spec.__struct_fields__}
    return pod.PodSpec(**{**given, "runtime_handler": "shim"})


def socket_of(node: killable.Node, id: str) -> Path:
    """Where the shim of `id` listens, as containerd's library names it."""
    name = os.path.normpath(f"{node.state}/shims/shim.sock/k8s.io/{id}")
    return Path("/run/containerd/s", hashlib.sha256(name.encode()).hexdigest())


def shim_of(node: killable.Node, id: str) -> int:
    """The process of the pod's shim."""
    [found] = [pid for pid in process.find(id.encode()) if b"-id" in process.command_line(pid)]
    return found


@pytest.fixture(autouse=True)
async def primed(node: killable.Node, emptied: None) -> None:
    """What is learnt of the program is learnt, and there is nothing of a pod yet."""
    if (node.state / "shims/known.json").exists() and b"true" in (node.state / "shims/known.json").read_bytes():
        return
    async with node.client() as client:
        sandbox = await workload.run_pod(client, pod_spec(node, "network"))
        await sandbox.start("main", "true")
        await sandbox.remove()


@pytest.mark.parametrize("kind", KINDS)
async def test_the_walk_has_every_point(node: killable.Node, kind: str) -> None:
    node.passed()
    async with node.client() as client:
        sandbox = await workload.run_pod(client, pod_spec(node, kind))
        assert [(kind, point) for point in node.passed()] == [pair for pair in RUN if pair[0] == kind]
        id = await sandbox.create("main", "sleep", "600")
        assert node.passed() == CREATE
        await client.start(id)
        assert node.passed() == points.START
        await client.stop(id, 0)
        await client.remove(id)
        assert node.passed() == REMOVE
        await client.stop_pod(sandbox.id)
        assert node.passed() == STOP
        await client.remove_pod(sandbox.id)


@pytest.mark.parametrize(("kind", "point"), RUN)
async def test_run(node: killable.Node, kind: str, point: str) -> None:
    id = await walks.run(node, pod_spec(node, kind), point)
    assert not socket_of(node, id).exists()


@pytest.mark.parametrize("point", CREATE)
async def test_create(node: killable.Node, point: str) -> None:
    await walks.create(node, pod_spec(node, "network"), point)


@pytest.mark.parametrize("point", ["shim:started", "shim:known"])
async def test_a_first_container_on_a_shim_of_which_nothing_is_known(node: killable.Node, point: str) -> None:
    """It is asked whether it is the pod's: what a dead daemon has begun there does not end the pod's shim."""
    before, known = node.has(), node.state / "shims/known.json"
    node.kill()
    learnt = {path: {**facts, "groups": None} for path, facts in json.loads(known.read_bytes()).items()}
    known.write_text(json.dumps(learnt))
    await node.start()
    async with node.client() as client:
        sandbox = await workload.run_pod(client, pod_spec(node, "network"))
        shim, spec = shim_of(node, sandbox.id), walks.spec_of(sandbox, *walks.ONCE)
        await node.killed_at(point, client.create(sandbox.id, spec, sandbox.spec))
    async with node.client() as client:
        sandbox = await walks.adopted(client, sandbox)
        assert (await client.containers(), shim_of(node, sandbox.id)) == ([], shim)
        assert socket_of(node, sandbox.id).exists()
        await walks.containers_life(client, sandbox, spec)
    node.settles(before)


@pytest.mark.parametrize("point", points.START)
async def test_start(node: killable.Node, point: str) -> None:
    await walks.start(node, pod_spec(node, "network"), point)


@pytest.mark.parametrize("point", REMOVE)
async def test_remove(node: killable.Node, point: str) -> None:
    await walks.remove(node, pod_spec(node, "network"), point)


@pytest.mark.parametrize("point", STOP)
async def test_stop(node: killable.Node, point: str) -> None:
    id = await walks.stop(node, pod_spec(node, "network"), point)
    assert not socket_of(node, id).exists()


async def test_what_ended_while_the_daemon_was_away(node: killable.Node) -> None:
    """Its true code, the whole log, and memory exhausted."""
    before = node.has()
    async with node.client() as client:
        sandbox = await workload.run_pod(client, pod_spec(node, "network"))
        id = await sandbox.start("main", "sh", "-c", "sleep 0.5; seq 1 5000; exit 9")
        node.kill()
        await asyncio.sleep(1)
        await node.start()
    async with node.client() as client:
        sandbox = await walks.adopted(client, sandbox)
        status = await sandbox.exited(id)
        assert (status.exit_code, status.reason) == (9, "Error")
        assert sandbox.output().splitlines() == [str(number) for number in range(1, 5001)]
        await sandbox.remove()
    node.settles(before)


@pytest.mark.parametrize("away", [False, True])
async def test_a_killed_shim(node: killable.Node, *, away: bool) -> None:
    """Its containers end and say why, their control groups are empty, the pod is not ready, nothing stays."""
    before = node.has()
    async with node.client() as client:
        sandbox = await workload.run_pod(client, pod_spec(node, "network"))
        made = [await sandbox.start(name, "sh", "-c", "sleep 600 & sleep 600") for name in ("one", "two")]
        shim = shim_of(node, sandbox.id)
        if away:
            node.kill()
        os.kill(shim, signal.SIGKILL)
        if away:
            await node.start()
    async with node.client() as client:
        again = workload.Pod(client, sandbox.id, sandbox.spec)
        for id in made:
            status = await again.exited(id)
            assert (status.exit_code, status.reason) == (137, "Unknown")
            assert f"process {shim}" in status.message
        async with asyncio.timeout(30):
            while (await client.pod_status(sandbox.id)).state is not values.PodSandboxState.NOTREADY:
                await asyncio.sleep(0.02)
        assert [line for line in node.has() if line.startswith("process ")] == []
        with pytest.raises(RopewalkError):
            await client.exec_sync(made[0], ["true"])
        await again.remove()
        assert (await client.pods(), await client.containers()) == ([], [])
    node.settles(before)
    assert not socket_of(node, sandbox.id).exists()


async def test_a_killed_logger(node: killable.Node) -> None:
    """The container goes on: its shim holds the streams; what it says then is lost, its end is not."""
    before = node.has()
    async with node.client() as client:
        sandbox = await workload.run_pod(client, pod_spec(node, "network"))
        script = "echo once; until [ -e /end ]; do sleep 0.05; done; echo twice; exit 4"
        id = await sandbox.start("main", "sh", "-c", script)
        await sandbox.says("once")
        [logger] = [p for p in process.find(b"log") if any(id.encode() in word for word in process.command_line(p))]
        os.kill(logger, signal.SIGKILL)
        await client.exec_sync(id, ["touch", "/end"])
        assert (await sandbox.exited(id)).exit_code == 4
        await sandbox.remove()
    node.settles(before)


async def test_a_client_that_leaves_while_a_pod_is_made(node: killable.Node) -> None:
    before = node.has()
    async with node.client() as client:
        node.passed()
        making = asyncio.ensure_future(workload.run_pod(client, pod_spec(node, "shared")))
        async with asyncio.timeout(20):
            while not node.passed():
                await asyncio.sleep(0.005)
        making.cancel()
        await asyncio.gather(making, return_exceptions=True)
    async with node.client() as client:
        async with asyncio.timeout(30):
            while not (found := await client.pods()):
                await asyncio.sleep(0.02)
        await workload.Pod(client, found[0].id, pod.PodSpec()).remove()
    node.settles(before)
