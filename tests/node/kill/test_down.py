"""What happens while no daemon looks is found out by the next one: from exit files, the kernel, or said to be lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import pytest

from ropewalk.client import cri, values
from ropewalk.linux import process
from ropewalk.runtimes.handler import Task
from ropewalk.spec import pod as pod_spec
from tests.node.kill import killable, points
from tools import leftovers, workload

NODE_CLASS = killable.Node
NODE_CONFIG = "ready = 0\n"  # [network]

EXITED = values.ContainerState.EXITED
RUNNING = values.ContainerState.RUNNING
TICK = 10_000_000  # nanoseconds that the clock of files may be late


class Running(NamedTuple):
    id: str
    task: Task


def task_of(node: killable.Node, id: str) -> Task:
    """Its processes, as the bundle names them."""
    found = json.loads((node.state / "containers" / id / "task.json").read_bytes())
    return Task(**found)


async def trapping(node: killable.Node, pod: workload.Pod, name: str, code: int) -> Running:
    """A container that ends with `code` when it is asked to, and says when it is ready to be asked."""
    script = f"trap 'exit {code}' TERM; echo ready; while :; do sleep 0.05; done"
    id = await pod.start(name, "sh", "-c", script)
    await pod.says("ready", name)
    return Running(id, task_of(node, id))


def until_dead(*processes: tuple[int, int]) -> None:
    deadline = time.monotonic() + 20
    for pid, start in processes:
        while process.is_alive(pid, start):
            assert time.monotonic() < deadline, f"process {pid} does not end"
            time.sleep(0.005)


async def statuses(client: cri.Client, pod: workload.Pod, containers: list[Running]) -> list[values.ContainerStatus]:
    """Of containers that have ended."""
    pod = workload.Pod(client, pod.id, pod.spec)
    return list(await asyncio.gather(*(pod.exited(one.id) for one in containers)))


async def test_ten_containers_and_five_monitors_are_killed(node: killable.Node) -> None:
    async with node.client() as client:
        pod = await workload.run_pod(client, workload.pod_spec(logs=node.logs, host_network=True))
        asked = [await trapping(node, pod, f"asked{n}", 10 + n) for n in range(5)]
        killed = [await trapping(node, pod, f"killed{n}", 0) for n in range(5)]
        lost = [await trapping(node, pod, f"lost{n}", 0) for n in range(3)]
        alone = [await trapping(node, pod, f"alone{n}", 30 + n) for n in range(2)]
    node.kill()
    began = time.time_ns() - TICK
    for one in asked:
        os.kill(one.task.pid, signal.SIGTERM)
    for one in killed:
        os.kill(one.task.pid, signal.SIGKILL)
    for one in [*lost, *alone]:
        os.kill(one.task.monitor_pid, signal.SIGKILL)
    until_dead(*((one.task.monitor_pid, one.task.monitor_start) for one in [*lost, *alone]))
    for one in lost:
        os.kill(one.task.pid, signal.SIGKILL)
    until_dead(*((one.task.pid, one.task.pid_start) for one in lost))
    until_dead(*((one.task.monitor_pid, one.task.monitor_start) for one in [*asked, *killed]))
    died = time.time_ns()
    await node.start()
    async with node.client() as client:
        seen = await statuses(client, pod, [*asked, *killed])
        assert [status.exit_code for status in seen] == [10, 11, 12, 13, 14, *[137] * 5]
        assert {status.reason for status in seen} == {"Error"}
        assert all(began <= status.finished_at <= died for status in seen), "not the time of the restart"
        for status in await statuses(client, pod, lost):
            assert (status.exit_code, status.reason) == (255, "Unknown")
            assert "nobody saw" in status.message
        for one in alone:  # nobody writes its log any more, but it lives, and can be stopped
            assert (await client.container_status(one.id)).state is RUNNING
            assert (await client.exec_sync(one.id, ["echo", "hi"])).stdout == b"hi\n"
            await client.stop(one.id, 10)
            status = await client.container_status(one.id)
            assert status.state is EXITED
            assert (status.exit_code, status.reason) in [(30 + alone.index(one), "Error"), (255, "Unknown")]
        assert [found.state for found in await client.pods()] == [values.PodSandboxState.READY]


async def test_what_outlives_its_container_meanwhile_is_ended(node: killable.Node) -> None:
    """In the node's PID namespace nobody but the daemon ends what a container's init leaves behind."""
    options = pod_spec.NamespaceOption(network=pod_spec.NamespaceMode.NODE, pid=pod_spec.NamespaceMode.NODE)
    security = pod_spec.LinuxSandboxSecurityContext(namespace_options=options)
    async with node.client() as client:
        spec = workload.pod_spec(
            logs=node.logs, hostname="", linux=pod_spec.LinuxPodSandboxConfig(security_context=security)
        )
        pod = await workload.run_pod(client, spec)
        id = await pod.start("main", "sh", "-c", "sleep 600 & echo left $!; exec sleep 601")
        left = int((await pod.says("left ")).split()[-1])
        start = process.start_time(left)
        assert start is not None
        init = task_of(node, id)
    node.kill()
    os.kill(init.pid, signal.SIGKILL)
    until_dead((init.pid, init.pid_start))
    assert process.is_alive(left, start)
    await node.start()
    until_dead((left, start))
    async with node.client() as client:
        assert (await workload.Pod(client, pod.id, pod.spec).exited(id)).exit_code == 137


async def test_the_init_of_a_shared_pid_namespace_dies(node: killable.Node) -> None:
    before = node.has()
    async with node.client() as client:
        pod = await workload.run_pod(client, points.pod_spec(node, "shared"))
        id = await pod.start("main", "sleep", "600")
        init = task_of(node, pod.id)
    node.kill()
    os.kill(init.pid, signal.SIGKILL)
    until_dead((init.pid, init.pid_start))
    await node.start()
    async with node.client() as client:
        pod = workload.Pod(client, pod.id, pod.spec)
        assert (await pod.exited(id)).exit_code == 137  # the kernel ends all of that namespace
        assert (await client.pod_status(pod.id)).state is values.PodSandboxState.NOTREADY
        await pod.remove()
    node.settles(before)


@pytest.mark.parametrize("kept", [True, False])
async def test_another_boot_ends_everything_that_was(node: killable.Node, *, kept: bool) -> None:
    """The kernel has nothing of it any more, nor has the state directory if it is on a tmpfs; Stop and Remove work."""
    before = node.has()
    async with node.client() as client:
        pods = [await workload.run_pod(client, points.pod_spec(node, kind)) for kind in points.KINDS]
        running = [await pod.start("running", "sleep", "600") for pod in pods]
        created = await pods[0].create("created", "sleep", "600")
        ended = await pods[0].start("ended", "sh", "-c", "exit 3")
        await pods[0].exited(ended)
    node.kill()
    with another_boot(node, kept=kept):
        await node.start()
        async with node.client() as client:
            assert {pod.state for pod in await client.pods()} == {values.PodSandboxState.NOTREADY}
            for id in [*running, created]:
                status = await client.container_status(id)
                assert (status.state, status.exit_code, status.reason) == (EXITED, 255, "Unknown")
                assert "restarted" in status.message
            assert (await client.container_status(ended)).exit_code == 3
            await one_more_attempt(node, client, pods[1].spec)
            for pod in pods:
                await client.stop_pod(pod.id)
                await client.remove_pod(pod.id)
            assert (await client.pods(), await client.containers()) == ([], [])
        await node.tried()  # nothing that was known before a boot is
        node.settles(before)
    await node.restart()
    await node.tried()


@contextlib.contextmanager
def another_boot(node: killable.Node, *, kept: bool) -> Iterator[None]:
    """Everything the kernel had of the node is gone, and its boot id is another one."""
    leftovers.remove(node.marks)
    if not kept:
        shutil.rmtree(node.state)
    boot = node.base / "boot-id"
    boot.write_text("11111111-2222-3333-4444-555555555555")
    yield
    boot.unlink()


async def one_more_attempt(node: killable.Node, client: cri.Client, spec: pod_spec.PodSpec) -> None:
    """What the kubelet does after a boot."""
    metadata = msgspec.structs.replace(spec.metadata, attempt=1)
    fresh = await workload.run_pod(client, points.pod_spec(node, "host", metadata=metadata))
    assert (await client.pod_status(fresh.id)).state is values.PodSandboxState.READY
    assert (await fresh.exited(await fresh.start("main", "true"))).exit_code == 0
    await fresh.remove()
