"""Limits, statistics and ends on cgroup v2: what was asked for is in the kernel's files, what is told is true."""

from __future__ import annotations

import asyncio

import pytest

from ropewalk.client import cri, values
from ropewalk.errors import RopewalkError
from ropewalk.spec import container, pod
from tests.vm import guest
from tests.vm.conftest import PodRunner

MIB = 1 << 20
SPIN = "while :; do :; done"


def linux(**resources: object) -> container.LinuxContainerConfig:
    given = pod.LinuxContainerResources(**resources)  # type: ignore[arg-type]
    security = container.LinuxContainerSecurityContext(
        namespace_options=pod.NamespaceOption(pid=pod.NamespaceMode.CONTAINER)
    )
    return container.LinuxContainerConfig(resources=given, security_context=security)


async def test_limits_are_set_and_changed(lab: guest.Lab, client: cri.Client, run_pod: PodRunner) -> None:
    sandbox = await run_pod()
    first = linux(memory_limit_in_bytes=64 * MIB, cpu_quota=50000, cpu_period=100000, cpu_shares=512, cpuset_cpus="0")
    id = await sandbox.start("main", "sleep", "600", linux=first)
    group = sandbox.cgroup()
    assert lab.setting(group, "memory.max") == str(64 * MIB)
    assert lab.setting(group, "memory.swap.max") == "0"
    assert lab.setting(group, "cpu.max") == "50000 100000"
    assert lab.setting(group, "cpuset.cpus") == "0"
    weight = int(lab.setting(group, "cpu.weight"))
    await client.update(
        id,
        pod.LinuxContainerResources(
            memory_limit_in_bytes=96 * MIB, cpu_quota=25000, cpu_period=100000, cpu_shares=1024, cpuset_cpus="0-1"
        ),
    )
    assert lab.setting(group, "memory.max") == str(96 * MIB)
    assert lab.setting(group, "cpu.max") == "25000 100000"
    assert int(lab.setting(group, "cpu.weight")) > weight
    assert lab.setting(group, "cpuset.cpus") == "0-1"
    resources = (await client.container_status(id)).resources.linux
    assert (resources.memory_limit_in_bytes, resources.cpu_quota) == (96 * MIB, 25000)
    await client.update(id, pod.LinuxContainerResources(cpu_quota=-1, unified={"memory.high": str(80 * MIB)}))
    assert lab.setting(group, "cpu.max").startswith("max ")
    assert lab.setting(group, "memory.high") == str(80 * MIB)
    assert lab.setting(group, "memory.max") == str(96 * MIB)


async def test_limits_survive_systemd(lab: guest.Lab, client: cri.Client, run_pod: PodRunner) -> None:
    """systemd owns the root cgroup and could take the controllers away again when it looks at its units."""
    sandbox = await run_pod()
    await sandbox.start("main", "sleep", "600", linux=linux(memory_limit_in_bytes=64 * MIB, cpu_shares=512))
    controllers = lab.setting(sandbox.group, "cgroup.subtree_control")
    assert {"cpu", "memory", "pids", "cpuset", "io"} <= set(controllers.split())
    lab.run("systemctl", "daemon-reload")
    lab.run("systemd-run", "--wait", "-p", "MemoryMax=64M", "-p", "CPUWeight=50", "true")
    lab.run("systemctl", "daemon-reexec")
    assert lab.setting(sandbox.group, "cgroup.subtree_control") == controllers
    assert lab.setting(sandbox.cgroup(), "memory.max") == str(64 * MIB)


async def test_a_refused_value_is_said_and_changes_nothing(
    lab: guest.Lab, client: cri.Client, run_pod: PodRunner
) -> None:
    sandbox = await run_pod()
    id = await sandbox.start("main", "sleep", "600", linux=linux(memory_limit_in_bytes=64 * MIB))
    with pytest.raises(RopewalkError, match=r"cpuset\.cpus"):
        await client.update(id, pod.LinuxContainerResources(cpuset_cpus="1024"))
    with pytest.raises(RopewalkError, match=r"cgroup\.kill"):
        await client.update(id, pod.LinuxContainerResources(unified={"cgroup.kill": "1"}))
    assert (await client.container_status(id)).state is values.ContainerState.RUNNING


async def test_statistics_are_the_kernels(lab: guest.Lab, client: cri.Client, run_pod: PodRunner) -> None:
    sandbox = await run_pod()
    id = await sandbox.start("main", "sh", "-c", SPIN, linux=linux(memory_limit_in_bytes=64 * MIB))
    await asyncio.sleep(3)
    (stats,) = await client.container_stats(id=id)
    group = sandbox.cgroup()
    cpu = dict(line.split() for line in lab.setting(group, "cpu.stat").splitlines())
    memory = dict(line.split() for line in lab.setting(group, "memory.stat").splitlines())
    assert stats.cpu is not None
    assert stats.memory is not None
    assert stats.cpu.usage_core_nano_seconds
    assert 0 < stats.cpu.usage_core_nano_seconds <= int(cpu["usage_usec"]) * 1000
    current = int(lab.setting(group, "memory.current"))
    assert stats.memory.usage_bytes
    assert abs(stats.memory.usage_bytes - current) < MIB
    assert stats.memory.rss_bytes is not None
    assert abs(stats.memory.rss_bytes - int(memory["anon"])) < MIB
    assert stats.memory.working_set_bytes is not None
    assert stats.memory.working_set_bytes <= stats.memory.usage_bytes
    assert stats.memory.available_bytes is not None
    assert stats.memory.available_bytes == pytest.approx(64 * MIB - stats.memory.working_set_bytes, abs=MIB)
    (of_pod,) = await client.pod_stats(id=sandbox.id)
    assert of_pod.linux.cpu is not None
    assert of_pod.linux.cpu.usage_core_nano_seconds
    assert of_pod.linux.cpu.usage_core_nano_seconds >= stats.cpu.usage_core_nano_seconds
    assert of_pod.linux.process is not None
    assert of_pod.linux.process.process_count


async def test_pressure_is_told(lab: guest.Lab, client: cri.Client, run_pod: PodRunner) -> None:
    """Two loops that may use a tenth of a processor wait most of the time."""
    sandbox = await run_pod()
    command = f"({SPIN}) & {SPIN}"
    id = await sandbox.start("main", "sh", "-c", command, linux=linux(cpu_quota=10000, cpu_period=100000))
    async with asyncio.timeout(60):
        while True:
            (stats,) = await client.container_stats(id=id)
            if stats.cpu and stats.cpu.psi and stats.cpu.psi.Some and stats.cpu.psi.Some.Total > 10**8:
                break
            await asyncio.sleep(0.5)
    total = int(lab.setting(sandbox.cgroup(), "cpu.pressure").split("total=")[1].split()[0])
    assert stats.cpu.psi.Some.Total <= total * 1000
    assert stats.memory is not None
    assert stats.memory.psi is not None
    assert stats.io is not None
    assert stats.io.psi is not None


async def test_out_of_memory(lab: guest.Lab, run_pod: PodRunner) -> None:
    sandbox = await run_pod()
    id = await sandbox.start("main", "tail", "/dev/zero", linux=linux(memory_limit_in_bytes=32 * MIB))
    status = await sandbox.exited(id, timeout=120)
    assert (status.reason, status.exit_code) == ("OOMKilled", 137)


async def test_a_command_that_outlives_its_limit_is_killed(
    lab: guest.Lab, client: cri.Client, run_pod: PodRunner
) -> None:
    """With all it started, and nothing else of the container."""
    sandbox = await run_pod()
    id = await sandbox.start("main", "sleep", "600")
    (main,) = lab.processes(sandbox.cgroup())
    with pytest.raises(RopewalkError, match="2 s"):
        await client.exec_sync(id, ["sh", "-c", "sleep 500 & sleep 501"], timeout=2)
    async with asyncio.timeout(30):
        while lab.processes(sandbox.cgroup()) != [main]:
            await asyncio.sleep(0.2)


async def test_all_that_a_container_started_ends_with_it(
    lab: guest.Lab, client: cri.Client, run_pod: PodRunner
) -> None:
    sandbox = await run_pod()
    id = await sandbox.start("main", "sh", "-c", "for i in 1 2 3 4 5; do setsid sleep 600 & done; exec sleep 600")
    async with asyncio.timeout(30):
        while len(lab.processes(sandbox.cgroup())) < 6:
            await asyncio.sleep(0.2)
    await client.stop(id, timeout=0)
    assert lab.processes(sandbox.cgroup()) == []
