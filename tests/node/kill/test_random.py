"""200 SIGKILLs at random times, of the daemon, of monitors and of runtimes, while pods come and go.

What was answered is never lost, what fails says so, Stop and Remove always come to their end, and afterwards the
kernel is as before. KILL_SEED repeats a run as far as scheduling allows.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from ropewalk.client import cri, values
from ropewalk.errors import Kind, RopewalkError
from ropewalk.linux import process
from ropewalk.spec import pod
from tests.node.kill import kernel, killable, points
from tools import workload

NODE_CLASS = killable.Node
NODE_CONFIG = "ready = 0\n"  # [network]

KILLS = 200
WORKERS = 4
PAUSE = 0.03  # seconds between kills on average, beside what finding a victim takes
T = TypeVar("T")


class Pods:
    """A worker like the kubelet: it repeats what was not answered, and expects what was."""

    def __init__(self, node: killable.Node, chance: random.Random, number: int) -> None:
        self.node, self.chance, self.number = node, chance, number
        self.lives = 0

    async def answered(self, call: Callable[[cri.Client], Awaitable[T]]) -> T:
        """The answer, from this daemon or from one of the next."""
        while True:
            async with self.node.client() as client:
                try:
                    return await call(client)
                except RopewalkError as error:
                    if error.kind is not Kind.UNAVAILABLE:
                        raise
            await asyncio.sleep(0.02)

    async def work(self, over: asyncio.Event) -> None:
        while not over.is_set():
            kind = self.chance.choice(points.KINDS)
            spec = points.pod_spec(self.node, kind)
            if self.number:  # a host port belongs to one pod
                spec = pod.PodSpec(
                    **{name: getattr(spec, name) for name in spec.__struct_fields__} | {"port_mappings": []}
                )
            await self.live(spec)
            self.lives += 1

    async def live(self, spec: pod.PodSpec) -> None:
        Path(spec.log_directory).mkdir(parents=True)
        try:
            id = await self.answered(lambda client: client.run_pod(spec))
        except RopewalkError:  # its runtime was killed; there is no such pod
            assert spec.metadata not in [found.metadata for found in await self.answered(lambda client: client.pods())]
            return
        for number in range(self.chance.randrange(1, 3)):
            await self.run(id, spec, f"c{number}")
            assert id in [found.id for found in await self.answered(lambda client: client.pods())], "a pod was lost"
        if self.chance.random() < 0.7:
            await self.answered(lambda client: client.stop_pod(id))
        await self.answered(lambda client: client.remove_pod(id))
        assert id not in [found.id for found in await self.answered(lambda client: client.pods())]

    async def run(self, pod_id: str, spec: pod.PodSpec, name: str) -> None:
        """One container's life."""
        wanted = workload.container_spec(name, "sh", "-c", "echo once; sleep 600 & sleep 600", of=spec)
        try:
            id = await self.answered(lambda client: client.create(pod_id, wanted, spec))
        except RopewalkError:
            inside = await self.answered(lambda client: client.containers(pod=pod_id))
            assert name not in [found.metadata.name for found in inside]
            return
        await self.start(id)
        try:
            done = await self.answered(lambda client: client.exec_sync(id, ["echo", "hi"]))
            assert (done.exit_code, done.stdout) in [(0, b"hi\n"), (137, b"hi\n"), (137, b""), (255, b"")]
        except RopewalkError:
            pass
        log = Path(spec.log_directory, f"{name}.log")
        assert log.read_text().count(" once\n") <= 1, "it ran twice"
        assert id in [found.id for found in await self.answered(lambda client: client.containers())], (
            "a container was lost"
        )
        if self.chance.random() < 0.5:
            await self.answered(lambda client: client.stop(id, self.chance.randrange(2)))
            status = await self.answered(lambda client: client.container_status(id))
            assert status.state is values.ContainerState.EXITED
        if self.chance.random() < 0.5:
            await self.answered(lambda client: client.remove(id))

    async def start(self, id: str) -> None:
        """A start that was not answered may have happened."""
        try:
            await self.answered(lambda client: client.start(id))
        except RopewalkError:
            status = await self.answered(lambda client: client.container_status(id))
            assert status.state in (values.ContainerState.RUNNING, values.ContainerState.EXITED)


class Killer:
    """Finds victims by their arguments, which name the node's directory."""

    def __init__(self, node: killable.Node, chance: random.Random) -> None:
        self.node, self.chance = node, chance
        self.killed = {"daemon": 0, "monitor": 0, "runtime": 0}

    async def work(self) -> None:
        for _ in range(KILLS):
            await asyncio.sleep(self.chance.expovariate(1 / PAUSE))
            victim = self.chance.choices(list(self.killed), [2, 3, 3])[0]
            if victim == "daemon":
                self.node.kill()
                await self.node.start()
            else:
                await self.kill_one(victim)
            self.killed[victim] += 1

    async def kill_one(self, victim: str) -> None:
        """A monitor that is there, or the next runtime that appears, at a random moment of its few milliseconds."""
        known: set[int] = set()
        while True:
            for pid in self.chance.sample(found := process.pids(), len(found)):
                if pid not in known and self.is_a(victim, pid):
                    await asyncio.sleep(self.chance.random() * 0.006)
                    if self.is_a(victim, pid):
                        os.kill(pid, signal.SIGKILL)
                        return
            known = set(process.pids()) if victim == "runtime" else set()
            await asyncio.sleep(0.001)

    def is_a(self, victim: str, pid: int) -> bool:
        argv = process.command_line(pid)
        root = f"--root={self.node.state}/runtimes/crun".encode()
        return root in argv and kernel.is_monitor(pid) is (victim == "monitor")


@pytest.mark.timeout(240)
async def test_two_hundred_kills_leave_nothing(node: killable.Node) -> None:
    seed = int(os.environ.get("KILL_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"KILL_SEED={seed}")
    before = node.has()
    killer = Killer(node, random.Random(seed))
    workers = [Pods(node, random.Random(seed + number + 1), number) for number in range(WORKERS)]
    over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        lives = [group.create_task(worker.work(over)) for worker in workers]
        killing = group.create_task(killer.work())
        await asyncio.wait([killing, *lives], return_when=asyncio.FIRST_COMPLETED)
        over.set()
    print(killer.killed, "kills in", sum(worker.lives for worker in workers), "lives of pods")
    async with node.client() as client:
        await workload.remove_everything(client)
        assert (await client.pods(), await client.containers()) == ([], [])
    node.settles(before)
    assert [pid for pid in process.children(node.pid) if (seen := process.stat(pid)) and seen.state == "Z"] == []
