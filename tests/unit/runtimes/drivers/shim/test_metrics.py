"""Counters of a shim as those of a control group."""

from __future__ import annotations

from ropewalk.linux.cgroup import CgroupStats
from ropewalk.runtimes.drivers.shim import metrics
from ropewalk.wire.pb import shim_pb2 as pb


def build_v1(limit: int) -> pb.Any:
    message = pb.MetricsV1()
    message.pids.current = 3
    message.cpu.usage.total = 7_000_000_000
    message.memory.total_rss, message.memory.total_inactive_file = 10, 4
    message.memory.total_pg_fault, message.memory.total_pg_maj_fault = 5, 1
    message.memory.usage.usage, message.memory.usage.limit = 20, limit
    return pb.Any(type_url="io.containerd.cgroups.v1.Metrics", value=message.SerializeToString())


def test_cgroup_v1() -> None:
    assert metrics.read(build_v1(30)) == CgroupStats(
        cpu_usage_ns=7_000_000_000,
        memory_usage=20,
        memory_working_set=16,
        memory_rss=10,
        page_faults=5,
        major_page_faults=1,
        memory_limit=30,
        pids=3,
    )
    unlimited = metrics.read(build_v1((1 << 63) - 4096))
    assert unlimited is not None
    assert unlimited.memory_limit is None


def test_cgroup_v2() -> None:
    message = pb.MetricsV2()
    message.pids.current = 2
    message.cpu.usage_usec = 1500
    message.memory.anon, message.memory.inactive_file, message.memory.usage = 10, 100, 20
    message.memory.pgfault, message.memory.pgmajfault, message.memory.usage_limit = 5, 1, (1 << 64) - 1
    seen = metrics.read(
        pb.Any(type_url="type.googleapis.com/io.containerd.cgroups.v2.Metrics", value=message.SerializeToString())
    )
    assert seen == CgroupStats(
        cpu_usage_ns=1_500_000,
        memory_usage=20,
        memory_working_set=0,
        memory_rss=10,
        page_faults=5,
        major_page_faults=1,
        pids=2,
    )


def test_what_is_not_known_is_none() -> None:
    assert metrics.read(pb.Any(type_url="io.containerd.hcs.Metrics", value=b"")) is None
    assert metrics.read(pb.Any(type_url="io.containerd.cgroups.v1.Metrics", value=b"\xff")) is None
