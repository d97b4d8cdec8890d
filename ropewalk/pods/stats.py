"""Statistics of containers and pods, read from their handlers or cgroups, links and the disk-usage worker when asked.

Nothing is sampled in the background: a rate is the difference to the last answer, and absent in the first one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

from msgspec import Struct

from ropewalk.errors import NotFound, RopewalkError
from ropewalk.linux.cgroup import Cgroups, CgroupStats
from ropewalk.network.counters import InterfaceStats
from ropewalk.network.network import Network
from ropewalk.pods.records import Container, ContainerPhase, Pod
from ropewalk.runtimes.handler import Handler
from ropewalk.runtimes.registry import Handlers
from ropewalk.state.store import Table
from ropewalk.storage.snapshotter import Snapshotter, Usage

log = logging.getLogger(__name__)

PATIENCE = 3.0  # seconds for a handler to tell; its container then has no numbers this time
RATE_WINDOW = 1_000_000_000  # ns: a rate over less than this is noise


class ContainerStats(Struct, frozen=True):
    """`cgroup` is None for a container that does not run; `usage_nano_cores` None until two answers are known."""

    container: Container
    at: int
    cgroup: CgroupStats | None
    usage_nano_cores: int | None
    writable: Usage
    mountpoint: str


class PodStats(Struct, frozen=True):
    """The pod's own cgroup, not the sum of its containers."""

    pod: Pod
    at: int
    cgroup: CgroupStats | None
    usage_nano_cores: int | None
    interfaces: list[InterfaceStats]
    containers: list[ContainerStats]


class Stats:
    """Reads what the kernel counts."""

    def __init__(
        self,
        pods: Table[Pod],
        containers: Table[Container],
        cgroups: Cgroups,
        network: Network,
        snapshotter: Snapshotter,
        handlers: Handlers,
        *,
        mountpoint: str,
        now: Callable[[], int] = time.time_ns,
    ) -> None:
        self._pods = pods
        self._containers = containers
        self._cgroups = cgroups
        self._network = network
        self._snapshotter = snapshotter
        self._handlers = handlers
        self._mountpoint = mountpoint
        self._now = now
        self._rates = Rates()
        for table in (pods, containers):
            table.watch(self._changed)

    async def containers(self, ids: Iterable[str]) -> list[ContainerStats]:
        """One answer per id that still exists, in order."""
        found = [c for id in ids if (c := self._containers.get(id)) is not None]
        known = await self._known(found)
        answers = [await self._container(each, known) for each in found]
        return [answer for answer in answers if answer is not None]

    async def pods(self, ids: Iterable[str]) -> list[PodStats]:
        members: dict[str, list[str]] = {}
        for container in self._containers:
            if container.phase is not ContainerPhase.MAKING:
                members.setdefault(container.pod_id, []).append(container.id)
        found = [p for id in ids if (p := self._pods.get(id)) is not None]
        asked = [id for pod in found for id in members.get(pod.id, [])]
        counted: dict[str, list[ContainerStats]] = {}
        for stats in await self.containers(asked):
            counted.setdefault(stats.container.pod_id, []).append(stats)
        answers = [await self._pod(pod, counted.get(pod.id, [])) for pod in found]
        return [answer for answer in answers if answer is not None]

    async def _container(self, container: Container, known: dict[str, CgroupStats | None]) -> ContainerStats | None:
        """None if it is gone by now. `known`: by handlers that keep accounts of their own."""
        writable = await self._writable(container)
        if container.id not in self._containers:
            return None
        at = self._now()
        counted = known.get(container.id)
        if container.id not in known and _runs(container):
            counted = self._cgroups.stats(container.cgroup)
        return ContainerStats(
            container=container,
            at=at,
            cgroup=counted,
            usage_nano_cores=self._rates.update(container.id, at, counted),
            writable=writable,
            mountpoint=self._mountpoint,
        )

    async def _writable(self, container: Container) -> Usage:
        """Nothing, where a removal that did not come to its end has taken the layer already."""
        try:
            return await self._snapshotter.usage(container.snapshot)
        except NotFound:
            return Usage()

    async def _known(self, containers: Iterable[Container]) -> dict[str, CgroupStats | None]:
        """What handlers know better than cgroups do, asked all at once: one that hangs keeps nobody from an answer."""
        asked = [each for each in containers if _runs(each) and _counts(self._handlers.of(each.handler))]
        answers = await asyncio.gather(*map(self._ask, asked))
        return {each.id: answer for each, answer in zip(asked, answers, strict=True)}

    async def _ask(self, container: Container) -> CgroupStats | None:
        """None if the handler cannot tell; what its cgroup says if that is all it knows."""
        assert container.task is not None
        try:
            async with asyncio.timeout(PATIENCE):
                known = await self._handlers.of(container.handler).stats(container.id, container.task)
        except (RopewalkError, OSError) as error:  # TimeoutError is one
            why = str(error) or f"no answer within {PATIENCE:g} s"
            log.warning("no statistics", extra={"container": container.id, "error": why})
            return None
        return known if known is not None else self._cgroups.stats(container.cgroup)

    async def _pod(self, pod: Pod, containers: list[ContainerStats]) -> PodStats | None:
        """None if it is gone by now."""
        interfaces = [] if pod.torn_down or pod.attachment is None else await self._network.stats(pod.attachment)
        if pod.id not in self._pods:
            return None
        at = self._now()
        counted = None if pod.torn_down else self._cgroups.stats(pod.cgroup)
        return PodStats(
            pod=pod,
            at=at,
            cgroup=counted,
            usage_nano_cores=self._rates.update(pod.id, at, counted),
            interfaces=interfaces,
            containers=containers,
        )

    def _changed(self, old: Pod | Container | None, new: Pod | Container | None) -> None:
        if old is not None and new is None:
            self._rates.forget(old.id)


def _runs(container: Container) -> bool:
    return container.phase is ContainerPhase.RUNNING and container.task is not None


def _counts(handler: Handler) -> bool:
    """Whether it has accounts of its own; most leave them to the cgroup, and need not be asked."""
    return type(handler).stats is not Handler.stats


class Rates:
    """CPU use per second from consecutive readings: per id, the last reading and the last rate."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[int, int, int | None]] = {}  # at, cpu ns, rate

    def update(self, id: str, at: int, counted: CgroupStats | None) -> int | None:
        if counted is None or counted.cpu_usage_ns is None:
            self._last.pop(id, None)
            return None
        last = self._last.get(id)
        if last is None:
            self._last[id] = (at, counted.cpu_usage_ns, None)
            return None
        then, usage, rate = last
        if at - then < RATE_WINDOW:
            return rate
        rate = max(0, (counted.cpu_usage_ns - usage) * 1_000_000_000 // (at - then))
        self._last[id] = (at, counted.cpu_usage_ns, rate)
        return rate

    def forget(self, id: str) -> None:
        self._last.pop(id, None)
