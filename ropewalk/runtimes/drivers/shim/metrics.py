"""A shim's counters (Stats, SandboxMetrics) as those of a control group: Any of io.containerd.cgroups.v1 or v2."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from ropewalk.linux.cgroup import CgroupStats
from ropewalk.wire.pb import shim_pb2 as pb

UNLIMITED = 1 << 62  # cgroup v1 writes "no limit" as a number near 2^63


def read(value: pb.Any) -> CgroupStats | None:
    """None for a type that is not known here."""
    try:
        if value.type_url.endswith("io.containerd.cgroups.v1.Metrics"):
            return _v1(pb.MetricsV1.FromString(value.value))
        if value.type_url.endswith("io.containerd.cgroups.v2.Metrics"):
            return _v2(pb.MetricsV2.FromString(value.value))
    except DecodeError:
        return None
    return None


def _v1(metrics: pb.MetricsV1) -> CgroupStats:
    memory = metrics.memory
    return CgroupStats(
        cpu_usage_ns=metrics.cpu.usage.total,
        memory_usage=memory.usage.usage,
        memory_working_set=max(0, memory.usage.usage - memory.total_inactive_file),
        memory_rss=memory.total_rss,
        page_faults=memory.total_pg_fault or memory.pg_fault,
        major_page_faults=memory.total_pg_maj_fault or memory.pg_maj_fault,
        memory_limit=memory.usage.limit if 0 < memory.usage.limit < UNLIMITED else None,
        pids=metrics.pids.current,
    )


def _v2(metrics: pb.MetricsV2) -> CgroupStats:
    memory = metrics.memory
    return CgroupStats(
        cpu_usage_ns=metrics.cpu.usage_usec * 1000,
        memory_usage=memory.usage,
        memory_working_set=max(0, memory.usage - memory.inactive_file),
        memory_rss=memory.anon,
        page_faults=memory.pgfault,
        major_page_faults=memory.pgmajfault,
        memory_limit=memory.usage_limit if 0 < memory.usage_limit < UNLIMITED else None,
        pids=metrics.pids.current,
    )
