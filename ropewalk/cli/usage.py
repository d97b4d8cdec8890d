"""What containers use, put together from the CRI's statistics of containers and of pods, and from two looks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from ropewalk.cli import names
from ropewalk.client import values
from ropewalk.errors import Kind, RopewalkError

if TYPE_CHECKING:
    from ropewalk.client import cri


class Look(Struct, frozen=True):
    """One moment: statistics by container id, and by pod id where the endpoint has them."""

    containers: dict[str, values.Container]
    pods: dict[str, values.PodSandbox]
    stats: dict[str, values.ContainerStats]
    pod_stats: dict[str, values.PodSandboxStats]

    @property
    def rates_missing(self) -> bool:
        """Whether a container's CPU rate is not told and needs a second look."""
        return any(stats.cpu is not None and stats.cpu.usage_nano_cores is None for stats in self.stats.values())


class Used(Struct, frozen=True):
    """A container's row; None is unknown. `cpu`: 1.0 is one CPU. The last three but `written` are its pod's."""

    id: str
    name: str
    pod_id: str
    pod: str
    cpu: float | None
    memory: int | None
    memory_limit: int | None
    written: int | None
    received: int | None
    sent: int | None
    processes: int | None


async def look(client: cri.Client, wanted: Sequence[str], *, every: bool) -> Look:
    """Running containers, all with `every`; only those that `wanted` names, if it names any."""
    containers, pods, stats, pod_stats = await asyncio.gather(
        client.containers(), client.pods(), client.container_stats(), _pod_stats(client)
    )
    chosen = [names.find_container(name, containers, pods) for name in wanted] or [
        item for item in containers if every or item.state is values.ContainerState.RUNNING
    ]
    return Look(
        {item.id: item for item in chosen},
        {item.id: item for item in pods},
        {item.attributes.id: item for item in stats},
        {item.attributes.id: item for item in pod_stats},
    )


async def _pod_stats(client: cri.Client) -> list[values.PodSandboxStats]:
    """None from an endpoint that has not built them."""
    try:
        return await client.pod_stats()
    except RopewalkError as error:
        if error.kind in (Kind.UNSUPPORTED, Kind.INTERNAL):  # containerd 1.6 answers UNKNOWN
            return []
        raise


def used(before: Look, now: Look) -> list[Used]:
    """The rows of `now`, the busiest first."""
    rows = [_row(before, now, container) for container in now.containers.values()]
    return sorted(rows, key=lambda row: (-(row.cpu or 0.0), row.pod, row.name))


def _row(before: Look, now: Look, container: values.Container) -> Used:
    stats = now.stats.get(container.id, values.ContainerStats())
    earlier = before.stats.get(container.id, values.ContainerStats())
    of_pod = now.pod_stats.get(container.pod_sandbox_id, values.PodSandboxStats()).linux
    network = of_pod.network.default_interface if of_pod.network else values.NetworkInterfaceUsage()
    pod = now.pods.get(container.pod_sandbox_id)
    memory = stats.memory or values.MemoryUsage()
    return Used(
        id=container.id,
        name=container.metadata.name,
        pod_id=container.pod_sandbox_id,
        pod=pod.metadata.name if pod else "",
        cpu=cpu(earlier.cpu, stats.cpu),
        memory=memory.working_set_bytes,
        memory_limit=limit(memory),
        written=stats.writable_layer.used_bytes if stats.writable_layer else None,
        received=network.rx_bytes,
        sent=network.tx_bytes,
        processes=of_pod.process.process_count if of_pod.process else None,
    )


def cpu(before: values.CpuUsage | None, now: values.CpuUsage | None) -> float | None:
    """CPUs in use: between the two looks if they can be told apart, else as the endpoint says."""
    if now is None:
        return None
    told = None if now.usage_nano_cores is None else now.usage_nano_cores / 1e9
    if before is None or before.usage_core_nano_seconds is None or now.usage_core_nano_seconds is None:
        return told
    passed = now.timestamp - before.timestamp
    consumed = now.usage_core_nano_seconds - before.usage_core_nano_seconds
    return consumed / passed if passed > 0 and consumed >= 0 else told


def limit(memory: values.MemoryUsage) -> int | None:
    """The CRI has no field for it: what is in use and what is available make it. containerd says 0 for no limit."""
    if not memory.available_bytes or memory.working_set_bytes is None:
        return None
    return memory.available_bytes + memory.working_set_bytes
