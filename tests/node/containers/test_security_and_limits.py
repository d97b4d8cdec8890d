"""What a container is given of groups, capabilities, sysctls and resources, read from inside, on every handler."""

from __future__ import annotations

import resource
from typing import Any

import pytest

from ropewalk.client import cri
from ropewalk.errors import Kind, RopewalkError
from ropewalk.linux import cgroup
from ropewalk.spec import container, pod
from ropewalk.spec.image import ImageSpec
from tests.node.conftest import PodRunner
from tools import images, workload

HANDLERS = ("crun", "runc")
VERSION = cgroup.detect().version
only_v1 = pytest.mark.skipif(VERSION != 1, reason="a node with cgroup v1 is needed")


@pytest.fixture
async def client(client: cri.Client) -> cri.Client:
    await client.pull(ImageSpec(image=images.BUSYBOX))
    return client


@pytest.fixture(params=HANDLERS)
async def sandbox(request: pytest.FixtureRequest, client: cri.Client, run_pod: PodRunner) -> workload.Pod:
    return await run_pod(runtime_handler=request.param)


def config(
    sandbox: workload.Pod, limits: dict[str, Any] | None = None, **fields: Any
) -> container.LinuxContainerConfig:
    security = container.LinuxContainerSecurityContext(namespace_options=sandbox.spec.namespaces, **fields)
    return container.LinuxContainerConfig(pod.LinuxContainerResources(**(limits or {})), security)


async def asked(sandbox: workload.Pod, linux: container.LinuxContainerConfig, *command: str) -> str:
    id = await sandbox.start("main", "sleep", "600", linux=linux)
    answer = await sandbox.client.exec_sync(id, list(command))
    assert answer.exit_code == 0, answer
    return answer.stdout.decode().strip()


async def field(sandbox: workload.Pod, linux: container.LinuxContainerConfig, name: str) -> str:
    """Of /proc/self/status, in an exec: it must be as the container."""
    text = await asked(sandbox, linux, "cat", "/proc/self/status")
    return next(line.partition(":")[2].strip() for line in text.splitlines() if line.startswith(f"{name}:"))


@pytest.mark.parametrize(
    ("policy", "groups"),
    [
        (pod.SupplementalGroupsPolicy.MERGE, {50, 1000, 4321}),
        (pod.SupplementalGroupsPolicy.STRICT, {1000, 4321}),
    ],
)
async def test_groups(sandbox: workload.Pod, policy: pod.SupplementalGroupsPolicy, groups: set[int]) -> None:
    linux = config(sandbox, run_as_user=1000, supplemental_groups=[4321], supplemental_groups_policy=policy)
    assert {int(word) for word in (await field(sandbox, linux, "Groups")).split()} == groups
    [status] = [await sandbox.client.container_status(id) for id in sandbox.containers.values()]
    assert status.user is not None


async def test_ambient_capabilities(sandbox: workload.Pod) -> None:
    asked_for = container.Capability(add_ambient_capabilities=["NET_BIND_SERVICE"], drop_capabilities=["ALL"])
    linux = config(sandbox, run_as_user=1000, capabilities=asked_for)
    assert int(await field(sandbox, linux, "CapAmb"), 16) == 1 << 10


@pytest.mark.parametrize("handler", HANDLERS)
async def test_sysctls(client: cri.Client, run_pod: PodRunner, handler: str) -> None:
    options = pod.LinuxSandboxSecurityContext(namespace_options=pod.NamespaceOption(pid=pod.NamespaceMode.CONTAINER))
    values = {"net.ipv4.ip_default_ttl": "9", "kernel.shmmax": "65536"}
    sandbox = await run_pod(
        runtime_handler=handler, linux=pod.LinuxPodSandboxConfig(security_context=options, sysctls=values)
    )
    command = ("cat", "/proc/sys/net/ipv4/ip_default_ttl", "/proc/sys/kernel/shmmax")
    assert (await asked(sandbox, config(sandbox), *command)).split() == ["9", "65536"]


@pytest.mark.parametrize(
    "name", ["kernel.core_pattern", "vm.swappiness", "kernel.hostname", "net/ipv4.x", "fs.file-max"]
)
async def test_sysctls_of_the_node_are_refused(client: cri.Client, run_pod: PodRunner, name: str) -> None:
    with pytest.raises(RopewalkError, match=r"linux\.sysctls") as caught:
        await run_pod(linux=pod.LinuxPodSandboxConfig(sysctls={name: "1"}))
    assert caught.value.kind is Kind.INVALID


@pytest.mark.parametrize("handler", HANDLERS)
async def test_open_files_are_limited_as_the_daemon_was_started(run_pod: PodRunner, handler: str) -> None:
    """Not as it raised its own: programs that close every possible descriptor would take minutes."""
    sandbox = await run_pod(runtime_handler=handler)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    said = await asked(sandbox, config(sandbox), "sh", "-c", "ulimit -Sn; ulimit -Hn; grep 'open files' /proc/1/limits")
    assert said.split()[:2] == said.split()[5:7] == [str(soft), str(hard)]


async def test_cpusets(sandbox: workload.Pod) -> None:
    linux = config(sandbox, {"cpuset_cpus": "0", "cpuset_mems": "0"})
    assert await field(sandbox, linux, "Cpus_allowed_list") == "0"


async def test_hugepages_of_no_size_are_no_limit(sandbox: workload.Pod) -> None:
    """The kubelet sends zero for each size it knows; one that the node has not is nothing, unless it is wanted."""
    none = [pod.HugepageLimit("2MB", 0), pod.HugepageLimit("512MB", 0)]
    assert await asked(sandbox, config(sandbox, {"hugepage_limits": none}), "echo", "ran") == "ran"
    wanted = config(sandbox, {"hugepage_limits": [pod.HugepageLimit("512MB", 512 << 20)]})
    with pytest.raises(RopewalkError, match="512MB"):
        await sandbox.create("other", "true", linux=wanted)


@only_v1
async def test_unified_needs_cgroup_v2(sandbox: workload.Pod) -> None:
    with pytest.raises(RopewalkError, match=r"memory\.high") as caught:
        await sandbox.create("main", "true", linux=config(sandbox, {"unified": {"memory.high": "1"}}))
    assert caught.value.kind is Kind.INVALID


@only_v1
async def test_limits_can_be_changed(sandbox: workload.Pod) -> None:
    limits = {"memory_limit_in_bytes": 64 << 20, "memory_swap_limit_in_bytes": 64 << 20, "cpu_shares": 512}
    id = await sandbox.start("main", "sleep", "600", linux=config(sandbox, limits))
    files = ["memory/memory.limit_in_bytes", "cpu/cpu.shares", "cpu/cpu.cfs_quota_us", "cpuset/cpuset.cpus"]
    command = ["sh", "-c", f"cd /sys/fs/cgroup && cat {' '.join(files)}"]
    before = (await sandbox.client.exec_sync(id, command)).stdout.split()
    assert before[:3] == [b"67108864", b"512", b"-1"]
    changed = pod.LinuxContainerResources(
        memory_limit_in_bytes=128 << 20,
        memory_swap_limit_in_bytes=128 << 20,
        cpu_shares=256,
        cpu_period=100000,
        cpu_quota=50000,
        cpuset_cpus="0",
    )
    await sandbox.client.update(id, changed)
    after = (await sandbox.client.exec_sync(id, command)).stdout.split()
    assert after == [b"134217728", b"256", b"50000", b"0"]
