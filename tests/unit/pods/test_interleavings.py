"""Calls on two pods in any order and at once: whoever gets an answer can rely on it, and nothing is left in the end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from ropewalk.errors import Kind, RopewalkError
from ropewalk.pods.records import ContainerPhase, PodPhase
from ropewalk.spec.pod import LinuxContainerResources
from tests.unit.pods.conftest import Bench, container_spec, pod_spec, settle

SEEDS = 60
LOST_RACE = {Kind.CANCELLED, Kind.STATE, Kind.EXISTS, Kind.NOT_FOUND}  # what a call may say for which another was first
PAUSES = (0, 0, 1, 3, 8, 20)  # turns of the event loop


class Clients:
    """They make random calls about what earlier calls made. `broken`: acts of the node fail now and then."""

    def __init__(self, bench: Bench, seed: int) -> None:
        self.bench = bench
        self.random = random.Random(seed)
        self.broken = self.random.random() < 0.4
        self.pods: dict[str, None] = {}  # in the order in which they were told, so that a seed means one story
        self.containers: dict[str, None] = {}
        bench.world.hook = self.act

    async def act(self, where: str) -> None:
        """What a handler or the network does takes its time."""
        await self.pause()
        if self.broken and self.random.random() < 0.15:
            raise RopewalkError(f"{where} fails", kind=Kind.UNAVAILABLE)

    async def pause(self) -> None:
        for _ in range(self.random.choice(PAUSES)):
            await asyncio.sleep(0)

    async def call(self) -> None:
        of_pods = (self.stop_pod, self.remove_pod, self.create, self.create, self.create)
        of_containers = (self.start, self.start, self.stop, self.remove, self.update)
        kinds: list[Callable[[], Awaitable[None]]] = [self.run, self.end]
        kinds += of_pods if self.pods else ()
        kinds += of_containers if self.containers else ()
        try:
            await self.random.choice(kinds)()
        except RopewalkError as error:
            allowed = {*LOST_RACE, Kind.UNAVAILABLE} if self.broken else LOST_RACE
            if error.kind not in allowed and not (self.broken and "fails" in str(error)):
                raise

    def labels(self) -> dict[str, str]:
        return self.random.choice(({}, {"another": "config"}))

    async def run(self) -> None:
        spec = pod_spec("web", attempt=self.random.choice((0, 1)), labels=self.labels())
        made = await self.bench.daemon.sandboxes.run(spec)
        assert made.spec == spec
        self.pods[made.id] = None

    async def stop_pod(self) -> None:
        id = self.random.choice(list(self.pods))
        await self.bench.daemon.sandboxes.stop(id)
        left = self.bench.daemon.sandboxes.pods.get(id)
        assert left is None or left.phase is PodPhase.NOTREADY
        ended = {ContainerPhase.EXITED, *([ContainerPhase.MAKING] if self.broken else [])}  # its undo is tried again
        assert {container.phase for container in self.bench.daemon.containers.of(id)} <= ended

    async def remove_pod(self) -> None:
        id = self.random.choice(list(self.pods))
        await self.bench.daemon.sandboxes.remove(id)
        assert id not in self.bench.daemon.sandboxes.pods
        assert self.bench.daemon.containers.of(id) == []

    async def create(self) -> None:
        pod = self.random.choice(list(self.pods))
        spec = container_spec(self.random.choice("cd"), labels=self.labels())
        made = await self.bench.daemon.containers.create(pod, spec)
        assert (made.spec, made.pod_id) == (spec, pod)
        self.containers[made.id] = None

    async def start(self) -> None:
        await self.bench.daemon.containers.start(self.random.choice(list(self.containers)))

    async def stop(self) -> None:
        id = self.random.choice(list(self.containers))
        await self.bench.daemon.containers.stop(id, self.random.choice((0, 600)))
        left = self.bench.daemon.containers.containers.get(id)
        assert left is None or left.phase is ContainerPhase.EXITED

    async def remove(self) -> None:
        id = self.random.choice(list(self.containers))
        await self.bench.daemon.containers.remove(id)
        assert id not in self.bench.daemon.containers.containers

    async def update(self) -> None:
        limits = LinuxContainerResources(cpu_shares=self.random.randint(2, 99))
        await self.bench.daemon.containers.update(self.random.choice(list(self.containers)), limits)

    async def end(self) -> None:
        """No call: a process ends by itself."""
        for id in list(self.bench.world.processes)[:1]:
            self.bench.world.end(id, 3)


def under_way(bench: Bench) -> bool:
    """What clients have left behind that did not wait for it."""
    owners = (bench.daemon.sandboxes, bench.daemon.containers)
    return any(flights._flights for owner in owners for flights in (owner._flights, owner._changes))


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_every_answer_holds_and_nothing_is_left(bench: Bench, seed: int) -> None:
    clients = Clients(bench, seed)
    calls: list[asyncio.Task[None]] = []
    async with asyncio.timeout(30):
        for _ in range(clients.random.randint(10, 60)):
            calls.append(asyncio.ensure_future(clients.call()))
            await clients.pause()
            if clients.random.random() < 0.1:
                clients.random.choice(calls).cancel()  # its client leaves
        for result in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                raise result
        clients.broken = False
        while under_way(bench):
            await asyncio.sleep(0)
        for pod in bench.daemon.sandboxes.pods:
            await (bench.daemon.sandboxes.remove if pod.phase is not PodPhase.MAKING else bench.daemon.sandboxes.undo)(
                pod.id
            )
        await settle()
    containers = bench.daemon.containers
    assert bench.world.is_empty
    assert list(containers.containers) == []
    assert {name: value for name, value in vars(containers._queues).items() if value} == {}
    kept = (containers._watches, containers._asked_to_stop, containers._built, bench.daemon.sandboxes._watches)
    assert [len(one) for one in kept] == [0, 0, 0, 0]
