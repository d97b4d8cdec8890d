"""kill -9 of the daemon at each step of a gVisor pod's life; then of Sentry, gofer, monitor and runsc at any time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal

import pytest

from ropewalk.client import cri, values
from ropewalk.errors import RopewalkError
from ropewalk.linux import process
from ropewalk.pods import sandboxes
from ropewalk.spec import pod
from tests.node.kill import killable, points, walks
from tools import workload

NODE_CLASS = killable.Node
NODE_CONFIG = "ready = 0\n"  # [network]: no namespaces in reserve
SENTRY = ["bundle:made", "sentry:written", "sentry:created", "sentry:started"]
RUN = points.done(sandboxes.RUN, {"sandbox": SENTRY})
EXITED = values.ContainerState.EXITED
KILLS = 25  # at random


def pod_spec(node: killable.Node) -> pod.PodSpec:
    return workload.pod_spec(logs=node.logs, runtime_handler="runsc")


async def test_the_walk_has_every_point(node: killable.Node) -> None:
    async with node.client() as client:
        node.passed()
        sandbox = await workload.run_pod(client, pod_spec(node))
        assert node.passed() == RUN
        id = await sandbox.create("main", "sleep", "600")
        assert node.passed() == points.CREATE
        await client.start(id)
        assert node.passed() == points.START
        await sandbox.remove()
        assert node.passed() == points.STOP + points.REMOVE


@pytest.mark.parametrize("point", RUN)
async def test_run(node: killable.Node, point: str) -> None:
    await walks.run(node, pod_spec(node), point)


@pytest.mark.parametrize("point", points.CREATE)
async def test_create(node: killable.Node, point: str) -> None:
    await walks.create(node, pod_spec(node), point)


@pytest.mark.parametrize("point", points.START)
async def test_start(node: killable.Node, point: str) -> None:
    await walks.start(node, pod_spec(node), point)


@pytest.mark.parametrize("point", points.START)
async def test_start_of_what_ends_at_once(node: killable.Node, point: str) -> None:
    await walks.start_of_what_ends(node, pod_spec(node), point)


@pytest.mark.parametrize("point", points.STOP + points.REMOVE)
async def test_remove(node: killable.Node, point: str) -> None:
    await walks.remove_pod(node, pod_spec(node), point)


# Others than the daemon


def processes(node: killable.Node, *names: bytes) -> list[int]:
    """Of this node, whose program's name ends so."""
    state = os.fsencode(node.state)
    lines = {pid: process.command_line(pid) for pid in process.pids()}
    return [
        pid
        for pid, argv in lines.items()
        if argv and argv[0].endswith(names) and any(state in argument for argument in argv)
    ]


async def test_a_killed_sentry_ends_its_containers(node: killable.Node) -> None:
    before = node.has()
    async with node.client() as client:
        sandbox = await walks.running(client, pod_spec(node))
        other = await sandbox.start("other", "sleep", "600")
        [sentry] = processes(node, b"runsc-sandbox")
        os.kill(sentry, signal.SIGKILL)
        for id in (sandbox.containers["main"], other):
            assert (await sandbox.exited(id)).exit_code == 137
        async with asyncio.timeout(60):
            while (await client.pod_status(sandbox.id)).state is values.PodSandboxState.READY:
                await asyncio.sleep(0.02)
        await sandbox.remove()
    node.settles(before)


async def test_a_killed_gofer_ends_its_container(node: killable.Node) -> None:
    """Without its files it cannot go on; the pod does."""
    before = node.has()
    async with node.client() as client:
        sandbox = await workload.run_pod(client, pod_spec(node))
        pods_own = processes(node, b"runsc-gofer")
        id = await sandbox.start("main", "sh", "-c", "while :; do /bin/sleep 0.05; done")
        [gofer] = [pid for pid in processes(node, b"runsc-gofer") if pid not in pods_own]
        os.kill(gofer, signal.SIGKILL)
        await sandbox.exited(id)
        again = await sandbox.start("again", "sh", "-c", "exit 4")
        assert (await sandbox.exited(again)).exit_code == 4
        await sandbox.remove()
    node.settles(before)


@pytest.mark.parametrize("restart", [False, True])
async def test_a_killed_monitor_loses_no_exit_code(node: killable.Node, *, restart: bool) -> None:
    """runsc knows it as long as the Sentry lives."""
    before = node.has()
    async with node.client() as client:
        sandbox = await workload.run_pod(client, pod_spec(node))
        id = await sandbox.start("main", "sh", "-c", "until [ -e /end ]; do sleep 0.05; done; exit 6")
        monitors = processes(node, b"ropewalk-monitor")
        copies = {child for pid in monitors for child in process.children(pid)}  # not at their exec yet
        [monitor] = set(monitors) - copies
        os.kill(monitor, signal.SIGKILL)
    if restart:
        await node.restart()
    async with node.client() as client:
        sandbox = workload.Pod(client, sandbox.id, sandbox.spec)
        await client.exec_sync(id, ["touch", "/end"])
        assert (await sandbox.exited(id)).exit_code == 6
        await sandbox.remove()
    node.settles(before)


async def test_kills_at_random(node: killable.Node) -> None:
    """Of whatever serves the pod: each container's end is told, and nothing is left."""
    chance = random.Random(int(os.environ.get("KILL_SEED", "5")))
    before = node.has()
    for _ in range(KILLS):
        async with node.client() as client:
            living = asyncio.ensure_future(life(client, node, chance))
            await asyncio.sleep(chance.uniform(0, 0.5))
            victims = processes(node, b"runsc-sandbox", b"runsc-gofer", b"ropewalk-monitor", b"/runsc")
            if victims:
                victim = chance.choice(victims)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
            async with asyncio.timeout(60):
                await living
    node.settles(before)


async def life(client: cri.Client, node: killable.Node, chance: random.Random) -> None:
    """Whatever fails on the way, its end is told and it can be removed."""
    try:
        sandbox = await workload.run_pod(client, pod_spec(node))
    except RopewalkError:
        for found in await client.pods():
            await client.remove_pod(found.id)
        return
    with contextlib.suppress(RopewalkError):
        id = await sandbox.start("main", "sh", "-c", f"sleep {chance.choice(['0', '0.2', '600'])}")
        await asyncio.sleep(chance.uniform(0, 0.3))
        await client.stop(id, 0)
        assert (await sandbox.exited(id)).state is EXITED
    await sandbox.remove()
