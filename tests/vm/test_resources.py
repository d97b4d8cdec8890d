"""Limits, statistics and ends on cgroup v2: what was asked for is in the kernel's files, what is told is true."""

from __future__ import annotations

import asyncio

import pytest

from ropewalk.client import cri, values
from ropewalk.errors import Kind, RopewalkError
from ropewalk.spec import container, pod
from tests.vm import guest
from tests.vm.conftest import PodRunner, both_drivers

MIB = 1 << 20
SPIN = "while :; do :; done"
SWAP = "/swap"  # a file of the guest


def linux(**resources: object) -> container.LinuxContainerConfig:
    given = pod.LinuxContainerResources(**resources)  # type: ignore[arg-type]
    security = container.LinuxContainerSecurityContext(
        namespace_options=pod.NamespaceOption(pid=pod.NamespaceMode.CONTAINER)
    )
    return container.LinuxContainerConfig(resources=given, security_context=security)


@both_drivers
async def test_limits_are_set_and_changed(lab: guest.Lab, client: cri.Client, run_pod: PodRunner) -> None:
    sandbox = await run_pod()
    first = linux(memory_limit_in_bytes=64 * MIB, cpu_quota=50000, cpu_period=100000, cpu_shares=512, cpuset_cpus="0")
    id = await sandbox.start("main", "sleep", "600", linux=first)
    group = sandbox.cgroup()
    assert lab.setting(group, "memory.max") == str(64 * MIB)
    assert lab.setting(group, "memory.swap.max") == "0"
    assert lab.setting(group, "cpu.max") == "50000 100000"
    assert lab.setting(group, "cpuset.cpus") == "0"
    assert lab.setting(group, "cpu.weight") == "59"
    await client.update(
        id,
        pod.LinuxContainerResources(
            memory_limit_in_bytes=96 * MIB, cpu_quota=25000, cpu_period=100000, cpu_shares=1024, cpuset_cpus="0-1"
        ),
    )
    assert lab.setting(group, "memory.max") == str(96 * MIB)
    assert lab.setting(group, "cpu.max") == "25000 100000"
    assert lab.setting(group, "cpu.weight") == "100"
    assert lab.setting(group, "cpuset.cpus") == "0-1"
    resources = (await client.container_status(id)).resources.linux
    assert (resources.memory_limit_in_bytes, resources.cpu_quota) == (96 * MIB, 25000)
    await client.update(id, pod.LinuxContainerResources(cpu_quota=-1, unified={"memory.high": str(80 * MIB)}))
    assert lab.setting(group, "cpu.max").startswith("max ")
    assert lab.setting(group, "memory.high") == str(80 * MIB)
    assert lab.setting(group, "memory.max") == str(96 * MIB)


async def test_swap_is_the_total_less_memory(lab: guest.Lab, client: cri.Client, run_pod: PodRunner) -> None:
    """v2 limits swap alone; the CRI gives the total. Without a word about it there is none."""
    sandbox = await run_pod()
    limits = {"memory_limit_in_bytes": 64 * MIB, "memory_swap_limit_in_bytes": 96 * MIB}
    id = await sandbox.start("main", "sleep", "600", linux=linux(**limits))
    group = sandbox.cgroup()
    assert lab.setting(group, "memory.max") == str(64 * MIB)
    assert lab.setting(group, "memory.swap.max") == str(32 * MIB)
    more = pod.LinuxContainerResources(memory_limit_in_bytes=64 * MIB, memory_swap_limit_in_bytes=128 * MIB)
    await client.update(id, more)
    assert lab.setting(group, "memory.swap.max") == str(64 * MIB)
    await sandbox.start("free", "sleep", "600", linux=linux(memory_swap_limit_in_bytes=-1))
    assert lab.setting(sandbox.cgroup("free"), "memory.swap.max") == "max"


async def test_unified_settings_are_the_cgroups(lab: guest.Lab, client: cri.Client, run_pod: PodRunner) -> None:
    sandbox = await run_pod()
    given = {"memory.high": str(48 * MIB), "memory.low": str(8 * MIB), "pids.max": "77", "cpu.weight": "42"}
    id = await sandbox.start("main", "sleep", "600", linux=linux(memory_limit_in_bytes=64 * MIB, unified=given))
    group = sandbox.cgroup()
    assert {name: lab.setting(group, name) for name in given} == given
    assert lab.setting(group, "memory.max") == str(64 * MIB)
    await client.update(id, pod.LinuxContainerResources(unified={"pids.max": "88"}))
    assert lab.setting(group, "pids.max") == "88"
    assert lab.setting(group, "memory.high") == given["memory.high"]
    for key in ("memory.nonsense", "cgroup.procs", "../memory.max"):
        with pytest.raises(RopewalkError, match=r"unified|memory\.nonsense"):
            await sandbox.create("other", "true", linux=linux(unified={key: "1"}))


async def test_hugepages(lab: guest.Lab, run_pod: PodRunner) -> None:
    """kubelet sends zero for each size of the node: with the controller that is the limit."""
    assert "hugetlb" in lab.setting("", "cgroup.controllers").split()
    sandbox = await run_pod()
    none, some = (pod.HugepageLimit(page_size="2MB", limit=limit) for limit in (0, 4 * MIB))
    await sandbox.start("none", "sleep", "600", linux=linux(hugepage_limits=[none]))
    await sandbox.start("some", "sleep", "600", linux=linux(hugepage_limits=[some]))
    assert lab.setting(sandbox.cgroup("none"), "hugetlb.2MB.max") == "0"
    assert lab.setting(sandbox.cgroup("some"), "hugetlb.2MB.max") == str(4 * MIB)
    with pytest.raises(RopewalkError, match="512MB"):
        await sandbox.create("other", "true", linux=linux(hugepage_limits=[pod.HugepageLimit("512MB", 512 * MIB)]))


@both_drivers
@pytest.mark.parametrize("handler", ["crun", "runc"])
async def test_limits_survive_systemd(
    lab: guest.Lab, client: cri.Client, run_pod: PodRunner, driver: str, handler: str
) -> None:
    """systemd owns the root cgroup: it could take controllers away again when it looks at its units, and it writes the
    limits that it knows of to its scopes. Those of the create, and those of an update."""
    sandbox = await run_pod(runtime_handler=handler)
    given = linux(
        memory_limit_in_bytes=64 * MIB,
        memory_swap_limit_in_bytes=64 * MIB,
        cpu_quota=50000,
        cpu_period=100000,
        cpu_shares=512,
        cpuset_cpus="0",
        unified={"memory.high": str(60 * MIB), "pids.max": "100"},
    )
    id = await sandbox.start("main", "sleep", "600", linux=given)
    group = sandbox.cgroup()
    names = ("memory.max", "memory.high", "memory.swap.max", "cpu.max", "cpu.weight", "cpuset.cpus", "pids.max")

    def limits() -> dict[str, str]:
        return {name: lab.setting(group, name) for name in names}

    controllers = set(lab.setting(sandbox.group, "cgroup.subtree_control").split())
    assert {"cpu", "memory", "pids", "cpuset"} <= controllers
    before = limits()
    assert (before["memory.max"], before["memory.swap.max"], before["pids.max"]) == (str(64 * MIB), "0", "100")
    lab.run("systemctl", "daemon-reload")
    assert limits() == before
    await client.update(
        id,
        pod.LinuxContainerResources(
            memory_limit_in_bytes=96 * MIB,
            memory_swap_limit_in_bytes=128 * MIB,
            cpu_quota=25000,
            cpu_period=100000,
            cpu_shares=1024,
            cpuset_cpus="0-1",
            unified={"memory.high": "max"},
        ),
    )
    changed = limits()
    assert (changed["memory.max"], changed["memory.swap.max"]) == (str(96 * MIB), str(32 * MIB))
    assert (changed["cpu.max"], changed["cpuset.cpus"], changed["memory.high"]) == ("25000 100000", "0-1", "max")
    lab.run("systemd-run", "--wait", "-p", "MemoryMax=64M", "-p", "CPUWeight=50", "true")
    lab.run("systemctl", "daemon-reexec")
    lab.run("systemctl", "daemon-reload")
    assert limits() == changed
    assert controllers <= set(lab.setting(sandbox.group, "cgroup.subtree_control").split())


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


async def test_a_memory_limit_below_what_is_in_use_is_refused(
    lab: guest.Lab, client: cri.Client, run_pod: PodRunner
) -> None:
    """Without the refusal this kernel takes the limit, and kills. Page cache is given back instead."""
    sandbox = await run_pod()
    fill = "head -c 20000000 /dev/zero"
    script = f"{fill} >/cache; sync; {fill} >/dev/shm/kept; echo ready; sleep 600"
    id = await sandbox.start("main", "sh", "-c", script, linux=linux(memory_limit_in_bytes=96 * MIB))
    await sandbox.says("ready", timeout=120)
    with pytest.raises(RopewalkError, match="cannot be reclaimed") as caught:
        await client.update(id, pod.LinuxContainerResources(memory_limit_in_bytes=8 * MIB))
    assert caught.value.kind is Kind.STATE
    assert lab.setting(sandbox.cgroup(), "memory.max") == str(96 * MIB)
    kept = int(lab.setting(sandbox.cgroup(), "memory.current"))
    await client.update(id, pod.LinuxContainerResources(memory_limit_in_bytes=kept - 4 * MIB))
    assert (await client.container_status(id)).state is values.ContainerState.RUNNING


@both_drivers
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


@both_drivers
@pytest.mark.parametrize("handler", ["crun", "runc"])
async def test_out_of_memory(lab: guest.Lab, run_pod: PodRunner, handler: str) -> None:
    """systemd removes a scope's cgroup, with its counters, at the very moment of the end: more than once, then."""
    sandbox = await run_pod(runtime_handler=handler)
    for attempt in range(3):
        command = ("tail", "/dev/zero")
        id = await sandbox.start(f"c{attempt}", *command, linux=linux(memory_limit_in_bytes=32 * MIB))
        status = await sandbox.exited(id, timeout=120)
        assert (status.reason, status.exit_code) == ("OOMKilled", 137)


@both_drivers
async def test_a_child_out_of_memory(client: cri.Client, run_pod: PodRunner) -> None:
    """It dies alone."""
    sandbox = await run_pod()
    script = "tail /dev/zero; echo ended with $?; exec sleep 600"
    id = await sandbox.start("main", "sh", "-c", script, linux=linux(memory_limit_in_bytes=32 * MIB))
    await sandbox.says("ended with 137", timeout=120)
    await asyncio.sleep(2)
    assert (await client.container_status(id)).state is values.ContainerState.RUNNING


@both_drivers
async def test_who_is_killed_after_another_met_the_oom_killer(client: cri.Client, run_pod: PodRunner) -> None:
    """Each end is told for itself, though what systemd leaves is the pod's count."""
    sandbox = await run_pod()
    other = await sandbox.start("other", "sleep", "600")
    met = await sandbox.start("main", "tail", "/dev/zero", linux=linux(memory_limit_in_bytes=32 * MIB))
    assert (await sandbox.exited(met, timeout=120)).reason == "OOMKilled"
    await client.stop(other, 0)
    status = await sandbox.exited(other, timeout=60)
    assert (status.reason, status.exit_code) == ("Error", 137)


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


@both_drivers
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


@both_drivers
async def test_swap(lab: guest.Lab, client: cri.Client, run_pod: PodRunner) -> None:
    """What does not fit into memory goes to the node's swap, up to the limit: it counts both."""
    lab.run("sh", "-c", f"test -e {SWAP} || {{ fallocate -l 128M {SWAP} && chmod 600 {SWAP} && mkswap -q {SWAP}; }}")
    lab.run("swapon", SWAP)
    try:
        sandbox = await run_pod()
        limits = linux(memory_limit_in_bytes=24 * MIB, memory_swap_limit_in_bytes=64 * MIB)
        id = await sandbox.start("main", "sleep", "600", linux=limits)
        assert lab.setting(sandbox.cgroup(), "memory.swap.max") == str(40 * MIB)
        filled = await client.exec_sync(id, ["dd", "if=/dev/zero", "of=/dev/shm/filled", "bs=1M", "count=36"])
        assert filled.exit_code == 0
        (stats,) = await client.container_stats(id=id)
        assert stats.swap is not None
        assert stats.swap.swap_usage_bytes
        assert stats.swap.swap_usage_bytes >= 8 * MIB
        assert stats.memory is not None
        assert stats.memory.usage_bytes is not None
        assert stats.memory.usage_bytes <= 24 * MIB
        await sandbox.remove()
    finally:
        lab.run("swapoff", SWAP)
