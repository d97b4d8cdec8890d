"""How containers end: code, reason and times; who is killed with them; how they are asked to stop."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from ropewalk.client import cri, values
from ropewalk.linux import process
from ropewalk.spec import container, pod
from ropewalk.spec.image import ImageSpec
from ropewalk.wire.pb import cri_pb2 as pb
from tests.node.containers import proc
from tools import workload

RunPod = Callable[..., Coroutine[Any, Any, workload.Pod]]
pytestmark = pytest.mark.usefixtures("pulled")
STUBBORN = "trap '' TERM; echo ready; while :; do sleep 0.05; done"


@pytest.fixture
async def sandbox(run_pod: RunPod) -> workload.Pod:
    return await run_pod(host_network=True)


@pytest.mark.parametrize(
    ("script", "code", "reason"),
    [
        ("exit 0", 0, "Completed"),
        ("exit 3", 3, "Error"),
        ("exit 255", 255, "Error"),
        ("kill -9 $$; exit 1", 1, "Error"),
    ],
)
async def test_codes_reasons_and_times(sandbox: workload.Pod, script: str, code: int, reason: str) -> None:
    began = time.time_ns()
    status = await sandbox.exited(await sandbox.start("main", "sh", "-c", script))
    assert (status.exit_code, status.reason) == (code, reason)
    assert began <= status.created_at <= status.started_at <= status.finished_at <= time.time_ns()


async def test_a_kill_from_the_node_is_137(sandbox: workload.Pod, client: cri.Client) -> None:
    id = await sandbox.start("main", "sleep", "600")
    os.kill(await proc.pid_of(client, id), signal.SIGKILL)
    status = await sandbox.exited(id)
    assert (status.exit_code, status.reason) == (137, "Error")


async def test_memory_exhaustion_is_oomkilled(sandbox: workload.Pod) -> None:
    limit = container.LinuxContainerConfig(
        resources=pod.LinuxContainerResources(memory_limit_in_bytes=16 << 20),
        security_context=container.LinuxContainerSecurityContext(namespace_options=sandbox.spec.namespaces),
    )
    status = await sandbox.exited(await sandbox.start("main", "tail", "/dev/zero", linux=limit))
    assert (status.exit_code, status.reason) == (137, "OOMKilled")
    assert status.resources.linux.memory_limit_in_bytes == 16 << 20


async def test_orphans_die_with_their_container(run_pod: RunPod, client: cri.Client) -> None:
    """In the node's PID namespace the kernel does not do it: what left the session is found by its control group."""
    options = pod.NamespaceOption(network=pod.NamespaceMode.NODE, pid=pod.NamespaceMode.NODE)
    security = pod.LinuxSandboxSecurityContext(namespace_options=options)
    sandbox = await run_pod(linux=pod.LinuxPodSandboxConfig(security_context=security))
    id = await sandbox.start(
        "main", "sh", "-c", "setsid sleep 601 & setsid sleep 602 & echo ready; read line", stdin=True
    )
    await sandbox.says("ready")
    group = proc.cgroup_of(await proc.pid_of(client, id))
    orphans = {pid: process.start_time(pid) or 0 for pid in proc.members(group)}
    assert len(orphans) == 3
    os.kill(await proc.pid_of(client, id), signal.SIGKILL)
    await sandbox.exited(id)
    async with asyncio.timeout(30):
        while any(process.is_alive(pid, start) for pid, start in orphans.items()):
            await asyncio.sleep(0.01)
    assert proc.members(group) == []


async def test_stop_returns_as_soon_as_it_obeys(sandbox: workload.Pod, client: cri.Client) -> None:
    id = await sandbox.start("main", "sh", "-c", "trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done")
    await sandbox.says("ready")
    began = time.monotonic()
    await client.stop(id, 30)
    assert time.monotonic() - began < 20
    status = await client.container_status(id)
    assert (status.state, status.exit_code) == (values.ContainerState.EXITED, 5)
    await client.stop(id, 30)  # once more is fine, so is what does not exist
    await client.stop("0" * 64, 30)


async def test_stop_kills_what_does_not_obey(sandbox: workload.Pod, client: cri.Client) -> None:
    id = await sandbox.start("main", "sh", "-c", STUBBORN)
    await sandbox.says("ready")
    began = time.monotonic()
    await client.stop(id, 1)
    assert 1 <= time.monotonic() - began < 20
    assert (await client.container_status(id)).exit_code == 137


async def test_of_concurrent_stops_the_shortest_wins(sandbox: workload.Pod, client: cri.Client) -> None:
    id = await sandbox.start("main", "sh", "-c", STUBBORN)
    await sandbox.says("ready")
    began = time.monotonic()
    await asyncio.gather(client.stop(id, 60), client.stop(id, 0))
    assert time.monotonic() - began < 20
    assert (await client.container_status(id)).exit_code == 137


async def test_the_stop_signal_is_the_images(sandbox: workload.Pod, client: cri.Client) -> None:
    reference = "docker.io/ropewalk/stop-signal:latest"
    await client.pull(ImageSpec(image=reference))
    id = await sandbox.start("main", reference=reference)
    await caught(await proc.pid_of(client, id), signal.SIGUSR1)
    await client.stop(id, 30)
    assert (await client.container_status(id)).exit_code == 7
    assert sandbox.output() == "USR1\n"


async def test_the_requests_stop_signal_comes_first(sandbox: workload.Pod, client: cri.Client) -> None:
    reference = "docker.io/ropewalk/stop-signal:latest"
    await client.pull(ImageSpec(image=reference))
    script = "trap 'exit 8' USR2; while :; do sleep 0.05; done"
    id = await sandbox.start("main", "sh", "-c", script, reference=reference, stop_signal=int(pb.SIGNAL_SIGUSR2))
    await caught(await proc.pid_of(client, id), signal.SIGUSR2)
    await client.stop(id, 30)
    status = await client.container_status(id)
    assert (status.exit_code, status.stop_signal) == (8, int(pb.SIGNAL_SIGUSR2))


async def caught(pid: int, signum: signal.Signals) -> None:
    """Until the process has a handler for it."""
    async with asyncio.timeout(20):
        while not int(proc.status(pid)["SigCgt"], 16) >> (signum - 1) & 1:
            await asyncio.sleep(0.01)


async def test_removing_ends_a_running_one(sandbox: workload.Pod, client: cri.Client) -> None:
    id = await sandbox.start("main", "sh", "-c", STUBBORN)
    pid = await proc.pid_of(client, id)
    start, group = process.start_time(pid) or 0, proc.cgroup_of(pid)
    await client.remove(id)
    assert not process.is_alive(pid, start)
    assert proc.members(group) == []
    assert await client.containers(id=id) == []
    await client.remove(id)


async def test_a_command_that_is_not_there(sandbox: workload.Pod, client: cri.Client) -> None:
    from ropewalk.errors import Kind, RopewalkError

    with pytest.raises(RopewalkError, match="nosuchprogram") as refused:
        await sandbox.start("main", "nosuchprogram")
    assert refused.value.kind in (Kind.INVALID, Kind.NOT_FOUND)
    assert [found.state for found in await client.containers(pod=sandbox.id)] in ([], [values.ContainerState.EXITED])
