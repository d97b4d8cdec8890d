"""What the containers of a pod share and what they do not, seen from inside and compared by the kernel's names."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from ropewalk.client import cri
from ropewalk.linux import process
from ropewalk.spec import container, pod
from tests.node.containers import proc
from tools import workload

RunPod = Callable[..., Coroutine[Any, Any, workload.Pod]]
pytestmark = pytest.mark.usefixtures("pulled")
POD, CONTAINER, NODE, TARGET = (
    pod.NamespaceMode.POD,
    pod.NamespaceMode.CONTAINER,
    pod.NamespaceMode.NODE,
    pod.NamespaceMode.TARGET,
)


async def run_with(run_pod: RunPod, *, sysctls: dict[str, str] | None = None, **options: Any) -> workload.Pod:
    """A pod with these namespace options."""
    security = pod.LinuxSandboxSecurityContext(namespace_options=pod.NamespaceOption(**{"pid": CONTAINER, **options}))
    linux = pod.LinuxPodSandboxConfig(security_context=security, sysctls=sysctls or {})
    return await run_pod(linux=linux, hostname="" if options.get("network") is NODE else "the-pod")


async def two(client: cri.Client, sandbox: workload.Pod) -> list[int]:
    """The first processes of two sleeping containers."""
    ids = [await sandbox.start(name, "sleep", "600") for name in ("one", "two")]
    return [await proc.begun(await proc.pid_of(client, id), "sleep", "600") for id in ids]


def same(pids: list[int], kind: str) -> bool:
    return len({proc.namespace(pid, kind) for pid in pids}) == 1


def nodes_own(pid: int, kind: str) -> bool:
    return proc.namespace(pid, kind) == proc.namespace("self", kind)


async def shell(client: cri.Client, sandbox: workload.Pod, name: str, script: str) -> str:
    done = await client.exec_sync(sandbox.containers[name], ["sh", "-c", script])
    assert done.exit_code == 0, done.stderr
    return done.stdout.decode()


async def test_network_ipc_and_uts_are_the_pods(run_pod: RunPod, client: cri.Client) -> None:
    sandbox = await run_with(run_pod)
    pids = await two(client, sandbox)
    for kind in ("net", "ipc", "uts"):
        assert same(pids, kind)
        assert not nodes_own(pids[0], kind)
    for kind in ("pid", "mnt"):
        assert not same(pids, kind)
    assert await shell(client, sandbox, "one", "echo $$ $(hostname)") != ""
    assert await shell(client, sandbox, "one", "cat /proc/1/cmdline | tr '\\0' ' '") == "sleep 600 "


async def test_hostname_and_files(run_pod: RunPod, client: cri.Client) -> None:
    sandbox = await run_pod(
        hostname="the-pod",
        dns_config=pod.DNSConfig(servers=["192.0.2.1"], searches=["example.org", "svc"], options=["ndots:5"]),
    )
    await two(client, sandbox)
    assert await shell(client, sandbox, "two", "hostname; cat /etc/hostname") == "the-pod\nthe-pod\n"
    resolv = await shell(client, sandbox, "one", "cat /etc/resolv.conf")
    assert resolv == "search example.org svc\nnameserver 192.0.2.1\noptions ndots:5\n"


async def test_shared_memory_is_the_pods(run_pod: RunPod, client: cri.Client) -> None:
    sandbox = await run_with(run_pod)
    await two(client, sandbox)
    await shell(client, sandbox, "one", "echo shared > /dev/shm/file")
    assert await shell(client, sandbox, "two", "cat /dev/shm/file") == "shared\n"
    assert not os.path.exists("/dev/shm/file")
    assert "65536" in await shell(client, sandbox, "two", "df -k /dev/shm | tail -1")


async def test_the_nodes_ipc_and_network(run_pod: RunPod, client: cri.Client) -> None:
    sandbox = await run_with(run_pod, network=NODE, ipc=NODE)
    pids = await two(client, sandbox)
    for kind in ("net", "ipc", "uts"):
        assert all(nodes_own(pid, kind) for pid in pids)
    assert await shell(client, sandbox, "one", "hostname") == os.uname().nodename + "\n"
    links = await shell(client, sandbox, "one", "ls /sys/class/net")
    assert set(links.split()) == set(os.listdir("/sys/class/net"))


async def test_sysctls_are_the_pods_alone(run_pod: RunPod, client: cri.Client) -> None:
    wanted = {"net.ipv4.ip_unprivileged_port_start": "79", "kernel.shm_rmid_forced": "1"}
    sandbox = await run_with(run_pod, sysctls=wanted)
    await two(client, sandbox)
    for name, value in wanted.items():
        path = "/proc/sys/" + name.replace(".", "/")
        assert await shell(client, sandbox, "one", f"cat {path}") == f"{value}\n"
        with open(path) as file:
            assert file.read().strip() != value


async def test_a_shared_pid_namespace_has_an_init(run_pod: RunPod, client: cri.Client) -> None:
    sandbox = await run_with(run_pod, pid=POD)
    pids = await two(client, sandbox)
    assert same(pids, "pid")
    assert not nodes_own(pids[0], "pid")
    seen = await shell(client, sandbox, "two", "cat /proc/1/cmdline | tr '\\0' ' '; ps | grep -c 'sleep 600'")
    assert seen.startswith("/catatonit")
    await client.stop(sandbox.containers["one"], 0)  # the others live on
    assert process.stat(pids[1]) is not None
    assert await shell(client, sandbox, "two", "echo alive") == "alive\n"


async def test_an_init_reaps_orphans(run_pod: RunPod, client: cri.Client) -> None:
    sandbox = await run_with(run_pod, pid=POD)
    inside = proc.namespace((await two(client, sandbox))[0], "pid")
    await shell(client, sandbox, "one", "sh -c 'sleep 0.01 & sleep 0.01 &'")
    async with asyncio.timeout(20):
        while any(is_orphan(pid, inside) for pid in process.pids()):
            await asyncio.sleep(0.02)


def is_orphan(pid: int, inside: str) -> bool:
    """Of that namespace, and at its 0.01 seconds or ended: then it has no arguments any more."""
    with contextlib.suppress(OSError):  # it is gone
        return proc.namespace(pid, "pid") == inside and process.command_line(pid) in ([], [b"sleep", b"0.01"])
    return False


async def test_the_nodes_pid_namespace(run_pod: RunPod, client: cri.Client) -> None:
    sandbox = await run_with(run_pod, pid=NODE)
    id = await sandbox.start("main", "sleep", "600")
    pid = await proc.begun(await proc.pid_of(client, id), "sleep", "600")
    assert nodes_own(pid, "pid")
    assert await shell(client, sandbox, "main", f"cat /proc/{pid}/cmdline | tr '\\0' ' '") == "sleep 600 "


async def test_a_target_shows_its_processes(run_pod: RunPod, client: cri.Client) -> None:
    """As kubectl debug does."""
    sandbox = await run_with(run_pod)
    target = await sandbox.start("target", "sleep", "606")
    await proc.begun(await proc.pid_of(client, target), "sleep", "606")
    options = pod.NamespaceOption(pid=TARGET, target_id=target)
    security = container.LinuxContainerSecurityContext(namespace_options=options)
    linux = container.LinuxContainerConfig(security_context=security)
    debug = await sandbox.start("debug", "sh", "-c", "ps; exec sleep 600", linux=linux)
    assert "sleep 606" in await sandbox.says("sleep 606", "debug")
    pids = [await proc.pid_of(client, id) for id in (target, debug)]
    assert same(pids, "pid")
    await client.stop(debug, 0)
    assert await shell(client, sandbox, "target", "echo alive") == "alive\n"


@pytest.mark.parametrize("mode", [CONTAINER, POD])
async def test_an_ended_container_leaves_its_pod_as_it_was(
    run_pod: RunPod, client: cri.Client, mode: pod.NamespaceMode
) -> None:
    sandbox = await run_with(run_pod, pid=mode)
    pids = await two(client, sandbox)
    names = {kind: proc.namespace(pids[1], kind) for kind in ("net", "ipc", "uts")}
    await client.stop(sandbox.containers["one"], 0)
    await client.remove(sandbox.containers["one"])
    third = await proc.pid_of(client, await sandbox.start("three", "sleep", "600"))
    assert {kind: proc.namespace(third, kind) for kind in names} == names
