"""Statistics as bytes say what the kernel counted, and nothing that it did not."""

from __future__ import annotations

from pathlib import Path

from ropewalk.cri import stats
from ropewalk.linux.cgroup import CgroupStats, Pressure, Psi
from ropewalk.pods.records import Container, ContainerPhase, Pod
from ropewalk.pods.stats import ContainerStats
from ropewalk.spec.container import ContainerMetadata, ContainerSpec
from ropewalk.state.store import Table
from ropewalk.storage.snapshotter import Usage
from ropewalk.wire.pb import cri_pb2 as pb
from tests.fakes import domain

LINE = Pressure(total_ns=5000, avg10=0.5, avg60=0.25, avg300=0.125)


def told(tmp_path: Path, counted: CgroupStats | None) -> pb.ContainerStats:
    container = Container(
        id="c",
        pod_id="p",
        spec=ContainerSpec(metadata=ContainerMetadata(name="n"), annotations={"a": "b"}),
        phase=ContainerPhase.RUNNING,
        handler="crun",
        boot_id="",
        cgroup="/c",
        image_id="i",
    )
    measured = ContainerStats(
        container=container, at=domain.AT, cgroup=counted, usage_nano_cores=None, writable=Usage(), mountpoint="/data"
    )
    database = domain.database(tmp_path)
    pods, containers = (Table(database, "pods", Pod, noun="pod"), Table(database, "containers", Container, noun="c"))
    message = pb.ContainerStats.FromString(stats.Encoder(pods, containers).container(measured))
    database.close()
    return message


def test_what_is_unknown_is_unset(tmp_path: Path) -> None:
    message = told(tmp_path, CgroupStats())
    assert message.cpu.timestamp == message.memory.timestamp == message.swap.timestamp == domain.AT
    for usage in (message.cpu, message.memory, message.swap, message.io):
        assert [field.name for field, _ in usage.ListFields()] == ["timestamp"]
    assert message.attributes.annotations == {"a": "b"}


def test_zero_is_not_unknown(tmp_path: Path) -> None:
    message = told(tmp_path, CgroupStats(cpu_usage_ns=0, memory_rss=0, swap_usage=0))
    assert message.cpu.HasField("usage_core_nano_seconds")
    assert message.memory.HasField("rss_bytes")
    assert message.swap.HasField("swap_usage_bytes")
    assert message.writable_layer.HasField("used_bytes")


def test_what_may_still_be_used(tmp_path: Path) -> None:
    message = told(tmp_path, CgroupStats(memory_limit=10, memory_working_set=25, swap_limit=100, swap_usage=40))
    assert (message.memory.available_bytes.value, message.swap.swap_available_bytes.value) == (0, 60)


def test_pressure(tmp_path: Path) -> None:
    message = told(tmp_path, CgroupStats(cpu_psi=Psi(some=LINE), io_psi=Psi(some=LINE, full=LINE)))
    some = message.cpu.psi.Some
    assert (some.Total, some.Avg10, some.Avg60, some.Avg300) == (5000, 0.5, 0.25, 0.125)
    assert not message.cpu.psi.HasField("Full")
    assert message.io.psi.Full == message.io.psi.Some
    assert not message.memory.HasField("psi")


def test_no_cgroup_no_numbers(tmp_path: Path) -> None:
    message = told(tmp_path, None)
    assert not message.HasField("cpu")
    assert message.HasField("writable_layer")
