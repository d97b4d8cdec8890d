"""kill -9 of the daemon at each step of a checkpoint and of a restore; and of the Sentry while it is saved."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import pytest

from ropewalk.client import cri, values
from ropewalk.errors import RopewalkError
from ropewalk.linux import process
from ropewalk.spec import pod
from tests.node.kill import killable, points
from tests.node.kill.test_walk_runsc import processes
from tools import gvisor, workload

NODE_CLASS = killable.Node
NODE_CONFIG = f"""
ready = 0
[checkpoints]
restore_from = ["/"]
[runtimes.newer]
type = "runsc"
path = "{gvisor.found()}"
"""
COUNT = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done"
SAVE = [f"checkpoint:{point}" for point in ("begun", "saved", "written")]
SENTRY = [f"sentry:{point}" for point in ("ended", "addressed", "created", "restoring")]
BEFORE, AFTER = ["snapshot:before", "snapshot:after", "task:before"], ["task:after"]
UNPACKED = [*BEFORE, "checkpoint:unpacked"]  # so far the pod is what it was
RESTORE = [*SENTRY, "checkpoint:restoring", *points.BUNDLE, *points.MONITOR, *AFTER]


def pod_spec(node: killable.Node) -> pod.PodSpec:
    return workload.pod_spec(logs=node.logs, runtime_handler="newer")


async def counting(client: cri.Client, spec: pod.PodSpec) -> workload.Pod:
    sandbox = await workload.run_pod(client, spec)
    await sandbox.start("main", "sh", "-c", COUNT)
    await sandbox.says("5\n")
    return sandbox


async def goes_on(sandbox: workload.Pod) -> None:
    seen = sandbox.output().splitlines()
    await sandbox.says(f"\n{int(seen[-1]) + 2}\n")


@pytest.fixture
async def archive(node: killable.Node, tmp_path: Path) -> Path:
    path, before = tmp_path / "a.tar", node.has()
    async with node.client() as client:
        sandbox = await counting(client, pod_spec(node))
        await client.checkpoint(sandbox.containers["main"], str(path))
        await sandbox.remove()
    node.settles(before)  # the kernel takes the links of a network namespace away a moment later
    return path


async def test_the_walk_has_every_point(node: killable.Node, tmp_path: Path) -> None:
    async with node.client() as client:
        sandbox = await counting(client, pod_spec(node))
        node.passed()
        await client.checkpoint(sandbox.containers["main"], str(tmp_path / "a.tar"))
        assert node.passed() == SAVE
        other = await workload.run_pod(client, pod_spec(node))
        node.passed()
        id = await other.create("main", reference=str(tmp_path / "a.tar"))
        assert node.passed() == UNPACKED + RESTORE
        await client.start(id)
        assert node.passed() == points.START
        await other.remove()
        await sandbox.remove()


@pytest.mark.parametrize("point", SAVE)
async def test_save(node: killable.Node, tmp_path: Path, point: str) -> None:
    """A whole archive, or none; what runs goes on, and can be saved by the next daemon."""
    before, places = node.has(), tmp_path / "places"
    places.mkdir()
    async with node.client() as client:
        sandbox = await counting(client, pod_spec(node))
        id = sandbox.containers["main"]
        await node.killed_at(point, client.checkpoint(id, str(places / "a.tar")))
    assert os.listdir(places) == (["a.tar"] if point == "checkpoint:written" else [])
    async with node.client() as client:
        sandbox = workload.Pod(client, sandbox.id, sandbox.spec)
        await client.exec_sync(id, ["true"])
        await goes_on(sandbox)
        async with asyncio.timeout(30):
            while os.listdir(node.root / "checkpoints"):
                await asyncio.sleep(0.02)
        await client.checkpoint(id, str(places / "b.tar"))
        await sandbox.remove()
    node.settles(before)


@pytest.mark.parametrize("point", [*UNPACKED[-2:], *SENTRY, "checkpoint:restoring", "bundle:mounted", "task:after"])
async def test_restore(node: killable.Node, archive: Path, point: str) -> None:
    """Nobody was told of the container. A pod whose Sentry waits for it is not ready; before that, it is."""
    before, spec = node.has(), pod_spec(node)
    async with node.client() as client:
        sandbox = await workload.run_pod(client, spec)
        asked = workload.container_spec("main", reference=str(archive), of=spec)
        await node.killed_at(point, client.create(sandbox.id, asked, spec))
    async with node.client() as client:
        await client.pod_stats()
        assert await client.containers() == []
        state = (await client.pod_status(sandbox.id)).state
        if point in BEFORE:
            assert state is values.PodSandboxState.READY
        elif point in RESTORE:
            await not_ready(client, sandbox.id)
        await client.remove_pod(sandbox.id)
    node.settles(before)
    async with node.client() as client:
        sandbox = await workload.run_pod(client, pod_spec(node))
        await sandbox.start("main", reference=str(archive))
        await sandbox.says("\n")
        await goes_on(sandbox)
        await sandbox.remove()
    node.settles(before)


async def not_ready(client: cri.Client, id: str) -> None:
    async with asyncio.timeout(30):
        while (await client.pod_status(id)).state is values.PodSandboxState.READY:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("point", points.START)
async def test_start(node: killable.Node, archive: Path, point: str) -> None:
    """Either it was started, or it can be."""
    before = node.has()
    async with node.client() as client:
        sandbox = await workload.run_pod(client, pod_spec(node))
        id = await sandbox.create("main", reference=str(archive))
        await node.killed_at(point, client.start(id))
    async with node.client() as client:
        sandbox = workload.Pod(client, sandbox.id, sandbox.spec)
        if (await client.container_status(id)).state is values.ContainerState.CREATED:
            await client.start(id)
        await sandbox.says("\n")
        await goes_on(sandbox)
        assert (await client.pod_status(sandbox.id)).state is values.PodSandboxState.READY
        await sandbox.remove()
    node.settles(before)


async def test_a_sentry_that_dies_while_it_is_saved(node: killable.Node, tmp_path: Path) -> None:
    before = node.has()
    async with node.client() as client:
        sandbox = await counting(client, pod_spec(node))
        [sentry] = processes(node, b"runsc-sandbox")
        os.kill(sentry, signal.SIGSTOP)  # so that it cannot have been quicker
        saving = asyncio.ensure_future(client.checkpoint(sandbox.containers["main"], str(tmp_path / "a.tar")))
        async with asyncio.timeout(30):
            while not any(b"checkpoint" in line for line in arguments(node)):
                await asyncio.sleep(0.01)
        os.kill(sentry, signal.SIGKILL)
        with pytest.raises(RopewalkError, match="checkpoint"):
            await saving
        assert os.listdir(tmp_path) == []
        assert os.listdir(node.root / "checkpoints") == []
        with contextlib.suppress(RopewalkError):
            await sandbox.remove()
        await client.remove_pod(sandbox.id)
    node.settles(before)


def arguments(node: killable.Node) -> list[bytes]:
    return [argument for pid in processes(node, b"runsc") for argument in process.command_line(pid)]
