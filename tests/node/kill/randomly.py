"""SIGKILL at random times, of the daemon and of what serves its pods on one handler, while pods come and go.

What was answered is never lost, what fails says so, Stop and Remove always come to their end, and afterwards the
kernel is as before. KILL_SEED repeats a run as far as scheduling allows; KILLS says how many.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec import structs

from ropewalk.client import values
from ropewalk.errors import RopewalkError
from ropewalk.linux import process
from ropewalk.spec import pod
from tests.node.kill import kernel, killable, patient, points
from tools import workload

WORKERS = 4
PAUSE = 0.03  # seconds between kills on average, beside what finding a victim takes
RARE = 5.0  # seconds: of a sort that does not appear within them nobody is killed this time
SHIM = "its shim"  # in what a daemon says that is there: UNAVAILABLE, too
MOMENT = 0.006  # seconds at most from a victim's appearance to its end
IsA = Callable[[list[bytes]], bool]  # by its arguments


def kills(usual: int) -> int:
    """How many there are to be; `usual`: where nobody says."""
    return int(os.environ.get("KILLS") or usual)


def of_oci(node: killable.Node, handler: str) -> dict[str, IsA]:
    """What serves containers of crun, runc and youki."""
    root = f"--root={node.state}/runtimes/{handler}".encode()
    return {
        "monitor": lambda argv: root in argv and kernel.is_monitor(argv),
        "runtime": lambda argv: root in argv and not kernel.is_monitor(argv),
    }


def of_shim(node: killable.Node, handler: str) -> dict[str, IsA]:
    """What serves containers of containerd's shim for runc: `start` and `delete` of its program make and end one."""
    events = f"{node.state}/shims/{handler}.sock".encode()
    bundles, root = f"{node.state}/containers/".encode(), f"{node.state}/runtimes/k8s.io".encode()
    return {
        "shim": lambda argv: events in argv and argv[-1] not in (b"start", b"delete"),
        "starter": lambda argv: events in argv and argv[-1] in (b"start", b"delete"),
        "logger": lambda argv: kernel.is_monitor(argv) and argv[-1].startswith(bundles),
        "runtime": lambda argv: root in argv and events not in argv,
    }


class Pods(patient.Client):
    """A worker like the kubelet: it repeats what was not answered, and expects what was."""

    def __init__(self, node: killable.Node, handler: str, chance: random.Random, number: int) -> None:
        super().__init__(node)
        self.handler, self.chance, self.number = handler, chance, number
        self.lives = 0

    def is_answer(self, error: RopewalkError) -> bool:
        return super().is_answer(error) or SHIM in error.message

    async def work(self, over: asyncio.Event) -> None:
        while not over.is_set():
            kind = self.chance.choice(points.KINDS)
            spec = points.pod_spec(self.node, kind, runtime_handler=self.handler)
            if self.number:  # a host port belongs to one pod
                spec = structs.replace(spec, port_mappings=[])
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


class Killer:
    """Of the daemon, and of each sort of `victims`."""

    def __init__(self, node: killable.Node, victims: Mapping[str, IsA], chance: random.Random) -> None:
        self.node, self.victims, self.chance = node, victims, chance
        self.killed = dict.fromkeys(("daemon", *victims), 0)

    async def work(self, kills: int) -> None:
        for _ in range(kills):
            await asyncio.sleep(self.chance.expovariate(1 / PAUSE))
            victim = self.chance.choices(list(self.killed), [2] + [3] * len(self.victims))[0]
            if victim == "daemon":
                self.node.kill()
                await self.node.start()
            elif not await self.kill_one(self.victims[victim]):
                continue
            self.killed[victim] += 1

    async def kill_one(self, is_a: IsA) -> bool:
        """One that is there or the next that appears, at a random moment of what may be a few milliseconds."""
        loop = asyncio.get_running_loop()
        until = loop.time() + RARE
        while loop.time() < until:
            for pid in self.chance.sample(found := process.pids(), len(found)):
                if is_a(process.command_line(pid)):
                    await asyncio.sleep(self.chance.random() * MOMENT)
                    if is_a(process.command_line(pid)):
                        os.kill(pid, signal.SIGKILL)
                        return True
            await asyncio.sleep(0.001)
        return False


async def leave_nothing(node: killable.Node, handler: str, victims: Mapping[str, IsA], kills: int) -> None:
    """The test: pods on `handler` through that many kills. AssertionError if anything was lost, or is left."""
    seed = int(os.environ.get("KILL_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"KILL_SEED={seed}")
    before = node.has()
    killer = Killer(node, victims, random.Random(seed))
    workers = [Pods(node, handler, random.Random(seed + number + 1), number) for number in range(WORKERS)]
    over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        lives = [group.create_task(worker.work(over)) for worker in workers]
        killing = group.create_task(killer.work(kills))
        await asyncio.wait([killing, *lives], return_when=asyncio.FIRST_COMPLETED)
        over.set()
    print(killer.killed, "kills in", sum(worker.lives for worker in workers), "lives of pods")
    async with node.client() as client:
        await workload.remove_everything(client)
        assert (await client.pods(), await client.containers()) == ([], [])
    node.settles(before)
    kernel.until(lambda: zombies(node.pid))  # the last may have ended just now, and the daemon looks a moment later


def zombies(daemon: int) -> list[str]:
    children = process.children(daemon)
    return [f"zombie {pid}" for pid in children if (seen := process.stat(pid)) and seen.state == "Z"]
