"""Statistics as the CRI tells them (contract 5.2): what is unknown is left unset, never 0."""

from __future__ import annotations

from ropewalk.cri import translate
from ropewalk.linux.cgroup import CgroupStats, Pressure, Psi
from ropewalk.network.network import InterfaceStats
from ropewalk.pods.stats import ContainerStats, PodStats
from ropewalk.wire.pb import cri_pb2 as pb


def container(stats: ContainerStats) -> pb.ContainerStats:
    message = pb.ContainerStats(
        attributes=translate.container_attributes(stats.container),
        writable_layer=pb.FilesystemUsage(
            timestamp=stats.at,
            fs_id=pb.FilesystemIdentifier(mountpoint=stats.mountpoint),
            used_bytes=pb.UInt64Value(value=stats.writable.bytes),
            inodes_used=pb.UInt64Value(value=stats.writable.inodes),
        ),
    )
    counted = stats.cgroup
    if counted is not None:
        message.cpu.CopyFrom(_cpu(counted, stats.at, stats.usage_nano_cores))
        message.memory.CopyFrom(_memory(counted, stats.at))
        message.swap.CopyFrom(_swap(counted, stats.at))
        message.io.CopyFrom(_io(counted, stats.at))
    return message


def pod(stats: PodStats) -> pb.PodSandboxStats:
    linux = pb.LinuxPodSandboxStats(containers=[container(c) for c in stats.containers])
    counted = stats.cgroup
    if counted is not None:
        linux.cpu.CopyFrom(_cpu(counted, stats.at, stats.usage_nano_cores))
        linux.memory.CopyFrom(_memory(counted, stats.at))
        linux.process.CopyFrom(pb.ProcessUsage(timestamp=stats.at, process_count=_value(counted.pids)))
        linux.io.CopyFrom(_io(counted, stats.at))
    if stats.interfaces:
        linux.network.CopyFrom(_network(stats.interfaces, stats.at))
    return pb.PodSandboxStats(attributes=translate.pod_attributes(stats.pod), linux=linux)


def _value(number: int | None) -> pb.UInt64Value | None:
    return None if number is None else pb.UInt64Value(value=number)


def _cpu(counted: CgroupStats, at: int, rate: int | None) -> pb.CpuUsage:
    return pb.CpuUsage(
        timestamp=at,
        usage_core_nano_seconds=_value(counted.cpu_usage_ns),
        usage_nano_cores=_value(rate),
        psi=_psi(counted.cpu_psi),
    )


def _psi(pressure: Psi | None) -> pb.PsiStats | None:
    if pressure is None:
        return None
    return pb.PsiStats(Full=_pressure(pressure.full), Some=_pressure(pressure.some))


def _pressure(line: Pressure | None) -> pb.PsiData | None:
    if line is None:
        return None
    return pb.PsiData(Total=line.total_ns, Avg10=line.avg10, Avg60=line.avg60, Avg300=line.avg300)


def _memory(counted: CgroupStats, at: int) -> pb.MemoryUsage:
    available = None
    if counted.memory_limit is not None and counted.memory_working_set is not None:
        available = max(0, counted.memory_limit - counted.memory_working_set)
    return pb.MemoryUsage(
        timestamp=at,
        working_set_bytes=_value(counted.memory_working_set),
        available_bytes=_value(available),
        usage_bytes=_value(counted.memory_usage),
        rss_bytes=_value(counted.memory_rss),
        page_faults=_value(counted.page_faults),
        major_page_faults=_value(counted.major_page_faults),
        psi=_psi(counted.memory_psi),
    )


def _swap(counted: CgroupStats, at: int) -> pb.SwapUsage:
    available = None
    if counted.swap_limit is not None and counted.swap_usage is not None:
        available = max(0, counted.swap_limit - counted.swap_usage)
    return pb.SwapUsage(
        timestamp=at, swap_available_bytes=_value(available), swap_usage_bytes=_value(counted.swap_usage)
    )


def _io(counted: CgroupStats, at: int) -> pb.IoUsage:
    return pb.IoUsage(timestamp=at, psi=_psi(counted.io_psi))


def _network(interfaces: list[InterfaceStats], at: int) -> pb.NetworkUsage:
    """The first interface is the pod's default one; the others are listed (the proto says: without the default)."""
    usages = [
        pb.NetworkInterfaceUsage(
            name=i.name,
            rx_bytes=_value(i.rx_bytes),
            rx_errors=_value(i.rx_errors),
            tx_bytes=_value(i.tx_bytes),
            tx_errors=_value(i.tx_errors),
        )
        for i in interfaces
    ]
    return pb.NetworkUsage(timestamp=at, default_interface=usages[0], interfaces=usages[1:])
