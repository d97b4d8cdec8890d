"""Statistics as the CRI tells them (contract 5.2): what is unknown is left unset, never 0.

kubelet asks for all of them at once and often, so they are serialised as they are made: attributes, which do not
change, are kept as bytes, and numbers are set in place. A message's fields may be joined as bytes in any order.
"""

from __future__ import annotations

from collections.abc import Sequence

from ropewalk.cri import frames, translate
from ropewalk.linux.cgroup import CgroupStats, Pressure, Psi
from ropewalk.network.counters import InterfaceStats
from ropewalk.pods.records import Container, Pod
from ropewalk.pods.stats import ContainerStats, PodStats
from ropewalk.state.store import Table
from ropewalk.wire.pb import cri_pb2 as pb

POD_LINUX = pb.PodSandboxStats.LINUX_FIELD_NUMBER
POD_CONTAINERS = pb.LinuxPodSandboxStats.CONTAINERS_FIELD_NUMBER


class Encoder:
    """Statistics to bytes; attributes are field 1 of both messages."""

    def __init__(self, pods: Table[Pod], containers: Table[Container]) -> None:
        self._pods: frames.Frames[Pod] = frames.Frames(translate.pod_attributes, pods)
        self._containers: frames.Frames[Container] = frames.Frames(translate.container_attributes, containers)

    def container(self, stats: ContainerStats) -> bytes:
        """A runtime.v1.ContainerStats."""
        return self._containers.frame(stats.container) + _container(stats).SerializeToString()

    def pod(self, stats: PodStats) -> bytes:
        """A runtime.v1.PodSandboxStats."""
        containers = [frames.field(POD_CONTAINERS, self.container(c)) for c in stats.containers]
        linux = b"".join([_pod(stats).SerializeToString(), *containers])
        return self._pods.frame(stats.pod) + frames.field(POD_LINUX, linux)


def _container(stats: ContainerStats) -> pb.ContainerStats:
    """Without attributes."""
    message = pb.ContainerStats()
    layer = message.writable_layer
    layer.timestamp = stats.at
    layer.fs_id.mountpoint = stats.mountpoint
    layer.used_bytes.value = stats.writable.bytes
    layer.inodes_used.value = stats.writable.inodes
    if stats.cgroup is not None:
        _set_cgroup(message, stats.cgroup, stats.at, stats.usage_nano_cores)
        _set_swap(message.swap, stats.cgroup, stats.at)
    return message


def _pod(stats: PodStats) -> pb.LinuxPodSandboxStats:
    """Without containers."""
    message = pb.LinuxPodSandboxStats()
    if stats.cgroup is not None:
        _set_cgroup(message, stats.cgroup, stats.at, stats.usage_nano_cores)
        message.process.timestamp = stats.at
        _set(message.process.process_count, stats.cgroup.pids)
    if stats.interfaces:
        _set_network(message.network, stats.interfaces, stats.at)
    return message


def _set(wrapper: pb.UInt64Value, number: int | None) -> None:
    if number is not None:
        wrapper.value = number


def _set_cgroup(
    message: pb.ContainerStats | pb.LinuxPodSandboxStats, counted: CgroupStats, at: int, rate: int | None
) -> None:
    cpu, memory, io = message.cpu, message.memory, message.io
    cpu.timestamp = memory.timestamp = io.timestamp = at
    _set(cpu.usage_core_nano_seconds, counted.cpu_usage_ns)
    _set(cpu.usage_nano_cores, rate)
    _set(memory.working_set_bytes, counted.memory_working_set)
    _set(memory.available_bytes, _rest(counted.memory_limit, counted.memory_working_set))
    _set(memory.usage_bytes, counted.memory_usage)
    _set(memory.rss_bytes, counted.memory_rss)
    _set(memory.page_faults, counted.page_faults)
    _set(memory.major_page_faults, counted.major_page_faults)
    _set_pressure(cpu, counted.cpu_psi)
    _set_pressure(memory, counted.memory_psi)
    _set_pressure(io, counted.io_psi)


def _set_swap(swap: pb.SwapUsage, counted: CgroupStats, at: int) -> None:
    swap.timestamp = at
    _set(swap.swap_usage_bytes, counted.swap_usage)
    _set(swap.swap_available_bytes, _rest(counted.swap_limit, counted.swap_usage))


def _rest(limit: int | None, used: int | None) -> int | None:
    """What may still be used; unknown without a limit."""
    return None if limit is None or used is None else max(0, limit - used)


def _set_pressure(usage: pb.CpuUsage | pb.MemoryUsage | pb.IoUsage, pressure: Psi | None) -> None:
    for line, told in ((pressure.full, usage.psi.Full), (pressure.some, usage.psi.Some)) if pressure else ():
        if line is not None:
            _set_line(told, line)


def _set_line(told: pb.PsiData, line: Pressure) -> None:
    told.Total = line.total_ns
    told.Avg10 = line.avg10
    told.Avg60 = line.avg60
    told.Avg300 = line.avg300


def _set_network(network: pb.NetworkUsage, interfaces: Sequence[InterfaceStats], at: int) -> None:
    """The first interface is the pod's default one; the others are listed (the proto says: without the default)."""
    network.timestamp = at
    _set_interface(network.default_interface, interfaces[0])
    for interface in interfaces[1:]:
        _set_interface(network.interfaces.add(), interface)


def _set_interface(told: pb.NetworkInterfaceUsage, interface: InterfaceStats) -> None:
    told.name = interface.name
    told.rx_bytes.value = interface.rx_bytes
    told.rx_errors.value = interface.rx_errors
    told.tx_bytes.value = interface.tx_bytes
    told.tx_errors.value = interface.tx_errors
