"""Statistics of containers and pods, read from their handlers or cgroups, links and the disk-usage worker when asked.

Nothing is sampled in the background: a rate is the difference to the last answer, and absent in the first one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

from msgspec import Struct

from ropewalk.errors import RopewalkError
from ropewalk.linux.cgroup import Cgroups, CgroupStats
from ropewalk.network.counters import InterfaceStats
from ropewalk.network.network import Network
from ropewalk.pods.records import Container, ContainerPhase, Pod
from ropewalk.runtimes.registry import Handlers
from ropewalk.state.store import Table
from ropewalk.storage.snapshotter import Snapshotter, Usage

log = logging.getLogger(__name__)

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

    async def containers(self, ids: Iterable[str]) -> list[ContainerStats]:
        """One answer per id that still exists, in order."""
        found = [c for id in ids if (c := self._containers.get(id)) is not None]
        return [await self._container(c) for c in found]

    async def pods(self, ids: Iterable[str]) -> list[PodStats]:
        members: dict[str, list[str]] = {}
        for container in self._containers:
            members.setdefault(container.pod_id, []).append(container.id)
        found = [p for id in ids if (p := self._pods.get(id)) is not None]
        return [await self._pod(pod, members.get(pod.id, [])) for pod in found]

    async def _container(self, container: Container) -> ContainerStats:
        at = self._now()
        counted = await self._counted(container)
        return ContainerStats(
            container=container,
            at=at,
            cgroup=counted,
            usage_nano_cores=self._rates.update(container.id, at, counted),
            writable=await self._snapshotter.usage(container.snapshot),
            mountpoint=self._mountpoint,
        )

    async def _counted(self, container: Container) -> CgroupStats | None:
        """What its handler knows better than its cgroup, or the cgroup. None if it does not run."""
        if container.phase is not ContainerPhase.RUNNING or container.task is None:
            return None
        try:
            known = await self._handlers.of(container.handler).stats(container.id, container.task)
        except RopewalkError as error:  # one that cannot answer must not spoil the others' answer
            log.warning("no statistics", extra={"container": container.id, "error": error.message})
            return None
        return known if known is not None else self._cgroups.stats(container.cgroup)

    async def _pod(self, pod: Pod, containers: list[str]) -> PodStats:
        at = self._now()
        counted = None if pod.torn_down else self._cgroups.stats(pod.cgroup)
        interfaces = [] if pod.torn_down or pod.attachment is None else await self._network.stats(pod.attachment)
        return PodStats(
            pod=pod,
            at=at,
            cgroup=counted,
            usage_nano_cores=self._rates.update(pod.id, at, counted),
            interfaces=interfaces,
            containers=await self.containers(containers),
        )

    def forget(self, id: str) -> None:
        self._rates.forget(id)


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
