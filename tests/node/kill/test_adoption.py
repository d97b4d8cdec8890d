"""A hundred running pods are adopted in less than two seconds, while the socket answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from ropewalk.client import values
from tests.node.kill import killable
from tools import workload

NODE_CLASS = killable.Node
PODS = 100
TARGET = 2.0  # seconds from the daemon's start
ATTEMPTS = 10
AT_ONCE = 8


def held_processes(pid: int) -> int:
    """How many processes the daemon watches (pidfds)."""
    held = 0
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            held += os.readlink(fd) == "anon_inode:[pidfd]"
    return held


@pytest.mark.timeout(180)
async def test_a_hundred_pods_are_adopted(node: killable.Node) -> None:
    async with node.client() as client:
        limit = asyncio.Semaphore(AT_ONCE)

        async def run(number: int) -> workload.Pod:
            async with limit:
                spec = workload.pod_spec(f"pod{number}", logs=node.logs, host_network=number % 2 == 0)
                pod = await workload.run_pod(client, spec)
                await pod.start("main", "sleep", "600")
                return pod

        pods = await asyncio.gather(*(run(number) for number in range(PODS)))
        ids = {pod.id for pod in pods}
    took = [await adopted(node, ids)]
    while took[-1] >= TARGET:  # its workers, and this test, had to wait for a CPU, too
        assert len(took) < ATTEMPTS, took
        took.append(await adopted(node, ids))
    async with node.client() as client:
        assert {found.state for found in await client.pods()} == {values.PodSandboxState.READY}
        assert [found.state for found in await client.containers()] == [values.ContainerState.RUNNING] * PODS
        for pod in pods[:3]:  # and they are watched
            id = pod.containers["main"]
            os.kill(int((node.state / "containers" / id / "pid").read_text()), signal.SIGKILL)
            assert (await workload.Pod(client, pod.id, pod.spec).exited(id)).exit_code == 137


async def adopted(node: killable.Node, ids: set[str]) -> float:
    """Kill the daemon; seconds from the next one's start until it watches every container, without those that it
    waited for a CPU; lists are whole."""
    node.kill()
    began = time.monotonic()
    await node.start()
    async with node.client() as client:
        while held_processes(node.pid) < PODS:
            assert {found.id for found in await client.pods()} == ids
            assert time.monotonic() - began < 60
        return time.monotonic() - began - waited(node.pid)


def waited(pid: int) -> float:
    """Seconds that a process's first thread could have run, and did not (Documentation/scheduler/sched-stats.rst)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
