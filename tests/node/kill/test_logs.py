"""Every line that a container writes is in its log once and in order, whatever happens to the daemon or to the file."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ropewalk.client import cri
from ropewalk.errors import RopewalkError
from tests.node.kill import killable
from tools import workload

NODE_CLASS = killable.Node
NODE_CONFIG = "ready = 0\n"  # [network]

LINES = 3000
SCRIPT = f"i=0; while [ $i -lt {LINES} ]; do echo line $i; i=$((i+1)); [ $((i % 50)) = 0 ] && sleep 0.04; done"
EXPECTED = [f"line {number}" for number in range(LINES)]


def contents(*logs: Path) -> list[str]:
    """What the container wrote according to its log files, oldest first; whole lines of stdout only."""
    found = []
    for log in logs:
        text = log.read_text()
        assert text.endswith("\n") or not text
        for line in text.splitlines():
            _, stream, tag, content = line.split(" ", 3)
            assert (stream, tag) == ("stdout", "F")
            found.append(content)
    return found


async def written(log: Path, lines: int) -> None:
    """Until so many lines are in the log."""
    async with asyncio.timeout(30):
        while not log.exists() or log.read_bytes().count(b"\n") < lines:
            await asyncio.sleep(0.005)


async def printing(node: killable.Node, client: cri.Client) -> tuple[workload.Pod, str, Path]:
    pod = await workload.run_pod(client, workload.pod_spec(logs=node.logs, host_network=True))
    id = await pod.start("main", "sh", "-c", SCRIPT)
    return pod, id, Path(pod.spec.log_directory, "main.log")


async def test_two_kills_lose_and_repeat_nothing(node: killable.Node) -> None:
    async with node.client() as client:
        pod, id, log = await printing(node, client)
    for lines in (300, 1500):
        await written(log, lines)
        node.kill()
        await written(log, lines + 200)  # it goes on without a daemon
        await node.start()
    async with node.client() as client:
        pod = workload.Pod(client, pod.id, pod.spec)
        assert (await pod.exited(id)).exit_code == 0
    assert contents(log) == EXPECTED


async def test_rotation_loses_and_repeats_nothing(node: killable.Node) -> None:
    """As the kubelet rotates: rename, ReopenContainerLog. The daemon is killed between the two once."""
    async with node.client() as client:
        pod, id, log = await printing(node, client)
        logs = []
        for number in range(4):
            logs.append(log.rename(log.with_suffix(f".{number}")))
            await client.reopen_log(id)
            assert log.exists()
            await written(log, 100)
    logs.append(log.rename(log.with_suffix(".killed")))
    await node.restart()
    async with node.client() as client:
        await client.reopen_log(id)
        await written(log, 1)
        pod = workload.Pod(client, pod.id, pod.spec)
        assert (await pod.exited(id)).exit_code == 0
    assert contents(*logs, log) == EXPECTED


async def test_a_reopening_that_is_killed_can_be_repeated(node: killable.Node) -> None:
    async with node.client() as client:
        pod, id, log = await printing(node, client)
        await written(log, 50)
        old = log.rename(log.with_suffix(".old"))
        asking = asyncio.ensure_future(client.reopen_log(id))
        await asyncio.sleep(0.001)
        node.kill()
        await asyncio.gather(asking, return_exceptions=True)
    await node.start()
    async with node.client() as client:
        await client.reopen_log(id)
        pod = workload.Pod(client, pod.id, pod.spec)
        assert (await pod.exited(id)).exit_code == 0
        assert contents(old, log) == EXPECTED
        assert sorted(path.name for path in log.parent.iterdir()) == ["main.log", "main.old"]


async def test_an_ended_containers_log_is_not_reopened(node: killable.Node) -> None:
    async with node.client() as client:
        pod = await workload.run_pod(client, workload.pod_spec(logs=node.logs, host_network=True))
        id = await pod.start("main", "true")
        await pod.exited(id)
        with pytest.raises(RopewalkError, match="exited"):
            await client.reopen_log(id)
