"""Pods with users of their own: what they look like from inside and from the node, on every handler."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from ropewalk.client import cri
from ropewalk.errors import Kind, RopewalkError
from ropewalk.linux import mount, process
from ropewalk.spec import container, pod
from ropewalk.spec.image import ImageSpec
from tests.node.conftest import PodRunner
from tests.node.containers import proc
from tools import images, workload
from tools import node as nodes

FIRST, LENGTH = 65536 * 7, 65536
HANDLERS = ("crun", "runc")


def ranges(first: int = FIRST, length: int = LENGTH) -> list[pod.IDMapping]:
    return [pod.IDMapping(host_id=first, container_id=0, length=length)]


def linux(first: int = FIRST, length: int = LENGTH, **fields: Any) -> pod.LinuxPodSandboxConfig:
    users = pod.UserNamespace(pod.NamespaceMode.POD, ranges(first, length), ranges(first, length))
    options = pod.NamespaceOption(
        **{"pid": pod.NamespaceMode.CONTAINER, **fields.pop("options", {}), "userns_options": users}
    )
    return pod.LinuxPodSandboxConfig(
        security_context=pod.LinuxSandboxSecurityContext(namespace_options=options), **fields
    )


@pytest.fixture
async def client(client: cri.Client) -> cri.Client:
    await client.pull(ImageSpec(image=images.BUSYBOX))
    return client


@pytest.fixture(params=HANDLERS)
async def sandbox(request: pytest.FixtureRequest, client: cri.Client, run_pod: PodRunner) -> workload.Pod:
    return await run_pod(runtime_handler=request.param, linux=linux())


async def told(sandbox: workload.Pod, script: str, **fields: Any) -> list[str]:
    """The lines that a container's script writes, to both streams."""
    id = await sandbox.create("told", "sh", "-c", f"exec 2>&1; {script}", **fields)
    await sandbox.client.start(id)
    await sandbox.exited(id)
    pieces = [line.split(" ", 3)[2:] for line in sandbox.log("told").splitlines()]
    return "".join(text + ("\n" if tag == "F" else "") for tag, text in pieces).splitlines()


async def sleeper(node: nodes.Node, id: str) -> int:
    """The first process of a container that sleeps."""
    return await proc.begun(int((node.state / "containers" / id / "pid").read_text()), "sleep", "600")


async def test_the_handlers_offer_them(client: cri.Client) -> None:
    offered = {found.name for found in (await client.status()).runtime_handlers if found.features.user_namespaces}
    assert offered >= {"", *HANDLERS}


async def test_from_inside(sandbox: workload.Pod) -> None:
    script = """
        cat /proc/self/uid_map /proc/self/gid_map; id -u
        stat -c '%u:%g %n' / /bin/busybox /etc/passwd /home/tester /etc/hosts /dev/shm /dev/pts
        echo new > /root/file && stat -c '%u:%g %n' /root/file; rm /etc/os-release && ls /etc/os-release
        chown 1000:1000 /tmp && stat -c '%u:%g %n' /tmp; mkdir /a && rmdir /home/tester && mkdir /home/tester
        hostname changed && hostname; echo x > /dev/shm/x && echo x > /dev/null && echo wrote
    """
    lines = await told(sandbox, script)
    assert [line.split() for line in lines[:2]] == [["0", str(FIRST), str(LENGTH)]] * 2
    assert lines[2] == "0"
    owners = dict(line.split(" ")[::-1] for line in lines if re.match(r"[0-9]+:[0-9]+ ", line))
    assert owners.pop("/home/tester") == "1000:1000"
    assert owners.pop("/tmp") == "1000:1000"
    assert owners == dict.fromkeys(owners, "0:0")
    assert "/root/file" in owners
    assert "ls: /etc/os-release: No such file or directory" in lines
    assert lines[-1] == "wrote"


async def test_from_the_node(node: nodes.Node, client: cri.Client, sandbox: workload.Pod) -> None:
    id = await sandbox.start("main", "sleep", "600")
    pid = await sleeper(node, id)
    assert Path(f"/proc/{pid}/uid_map").read_text().split() == ["0", str(FIRST), str(LENGTH)]
    assert proc.status(pid)["Uid"].split() == [str(FIRST)] * 4
    assert id in Path(f"/proc/{pid}/cgroup").read_text()
    assert os.readlink(f"/proc/{pid}/ns/user") != os.readlink("/proc/self/ns/user")
    pinned = node.state / "pods" / sandbox.id / "ns" / "user"
    assert f"user:[{pinned.stat().st_ino}]" == os.readlink(f"/proc/{pid}/ns/user")
    assert (await client.exec_sync(id, ["id", "-u"])).stdout == b"0\n"
    # What it writes is its user's on the node too.
    await client.exec_sync(id, ["touch", "/root/from-exec"])
    assert os.stat(f"/proc/{pid}/root/root/from-exec").st_uid == FIRST


async def test_its_network_works(
    node: nodes.Node, client: cri.Client, sandbox: workload.Pod, run_pod: PodRunner
) -> None:
    """The network namespace is its own: it may administer it; and others reach it."""
    serve = "echo hello > /tmp/index.html; httpd -p 80 -h /tmp; echo ready; exec sleep 600"  # it listens, then forks
    id = await sandbox.start("main", "sh", "-c", serve)
    await sandbox.says("ready")
    assert (
        await client.exec_sync(id, ["ip", "link", "add", "dummy7", "type", "dummy"])
    ).exit_code != 0  # no capability
    other = await run_pod()
    asking = await other.start("main", "sleep", "600")
    got = await client.exec_sync(asking, ["wget", "-qO-", f"http://{await sandbox.ip()}/"])
    assert got.stdout == b"hello\n", got
    assert (await client.exec_sync(id, ["ping", "-c", "1", await other.ip()])).exit_code == 0


async def test_capabilities_hold_in_its_own_network_only(sandbox: workload.Pod) -> None:
    security = container.LinuxContainerSecurityContext(
        namespace_options=sandbox.spec.namespaces,
        capabilities=container.Capability(add_capabilities=["NET_ADMIN", "SYS_ADMIN"]),
    )
    script = """
        ip link set lo down && ip link set lo up && echo net
        echo 1 > /proc/sys/kernel/printk || echo kept
        mknod /tmp/mem c 1 1 || echo no device
    """
    lines = await told(sandbox, script, linux=container.LinuxContainerConfig(security_context=security))
    assert "net" in lines
    assert "kept" in lines
    assert "no device" in lines


async def test_files_of_the_nodes_root_stay_closed(sandbox: workload.Pod, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    secret = tmp_path / "secret"
    secret.write_text("secret\n")
    secret.chmod(0o600)
    mounts = [container.Mount("/host", str(tmp_path))]
    lines = await told(sandbox, "stat -c %u /host/secret; cat /host/secret; touch /host/new; echo end", mounts=mounts)
    assert lines[0] == "65534"
    assert [line.rpartition(": ")[2] for line in lines[1:]] == ["Permission denied", "Permission denied", "end"]
    assert os.listdir(tmp_path) == ["secret"]


def mapped(path: str, source: Path, **fields: Any) -> container.Mount:
    return container.Mount(path, str(source), uidMappings=ranges(), gidMappings=ranges(), **fields)


@pytest.fixture
def disk(node: nodes.Node) -> Path:
    """On the file system of the node's root: not every tmpfs can be mapped."""
    path = node.base / f"disk-{os.urandom(4).hex()}"
    path.mkdir()
    return path


async def test_a_mapped_volume(sandbox: workload.Pod, disk: Path) -> None:
    (disk / "file").write_text("content\n")
    (disk / "owned").touch()
    os.chown(disk / "owned", 1000, 1001)
    (disk / "single").write_text("single\n")
    mounts = [
        mapped("/data", disk),
        mapped("/etc/single", disk / "single", readonly=True),
        mapped("/slave", disk, readonly=True, mount_options=["noexec"]),
    ]
    script = """
        cat /data/file /etc/single; stat -c %u:%g /data/file /data/owned /etc/single; echo x > /data/new
        echo y > /etc/single; touch /slave/y; chown 7:8 /data/owned; echo end
    """
    lines = await told(sandbox, script, mounts=mounts)
    assert lines[:5] == ["content", "single", "0:0", "1000:1001", "0:0"]
    assert [line.rpartition(": ")[2] for line in lines[5:]] == ["Read-only file system"] * 2 + ["end"]
    assert [(os.stat(disk / name).st_uid, os.stat(disk / name).st_gid) for name in ("new", "owned")] == [(0, 0), (7, 8)]


async def test_what_is_mounted_below_a_volume_stays_there(sandbox: workload.Pod, disk: Path) -> None:
    """A mapped copy of a shared tree goes away, and takes nothing along on the node."""
    mount.bind(str(disk), str(disk))
    mount.make_shared(str(disk))
    try:
        (disk / "below").mkdir()
        mount.tmpfs(str(disk / "below"))
        propagation = container.MountPropagation.HOST_TO_CONTAINER
        id = await sandbox.create("main", "sleep", "600", mounts=[mapped("/data", disk, propagation=propagation)])
        await sandbox.client.remove(id)
        assert mount.is_mount(str(disk / "below"))
    finally:
        mount.umount_all(str(disk / "below"))
        mount.umount_all(str(disk))


async def test_a_file_system_that_cannot_be_mapped_is_said(sandbox: workload.Pod) -> None:
    with pytest.raises(RopewalkError, match="/proc/sys cannot be mapped") as caught:
        await sandbox.create("main", "true", mounts=[mapped("/data", Path("/proc/sys"))])
    assert caught.value.kind is Kind.INVALID
    assert await sandbox.client.containers() == []


async def test_a_read_only_root(sandbox: workload.Pod) -> None:
    security = container.LinuxContainerSecurityContext(namespace_options=sandbox.spec.namespaces, readonly_rootfs=True)
    lines = await told(
        sandbox,
        "touch /x; echo x > /etc/hosts; echo x > /dev/shm/x && echo end",
        linux=container.LinuxContainerConfig(security_context=security),
    )
    assert [line.rpartition(": ")[2] for line in lines] == ["Read-only file system"] * 2 + ["end"]


async def test_another_user(sandbox: workload.Pod) -> None:
    security = container.LinuxContainerSecurityContext(
        namespace_options=sandbox.spec.namespaces, run_as_user=1000, supplemental_groups=[1234]
    )
    config = container.LinuxContainerConfig(security_context=security)
    assert await told(sandbox, "id -u; id -G; touch /home/tester/x && echo end", linux=config) == [
        "1000",
        "1000 50 1234",
        "end",
    ]
    too_high = container.LinuxContainerConfig(security_context=replace(security, run_as_user=LENGTH))
    with pytest.raises(RopewalkError, match=f"user {LENGTH} is not in the pod's user namespace"):
        await sandbox.create("other", "true", linux=too_high)


@pytest.mark.parametrize("handler", HANDLERS)
async def test_a_shared_pid_namespace_and_sysctls(client: cri.Client, run_pod: PodRunner, handler: str) -> None:
    config = linux(
        options={"pid": pod.NamespaceMode.POD}, sysctls={"kernel.shmmax": "65536", "net.ipv4.ip_default_ttl": "7"}
    )
    sandbox = await run_pod(runtime_handler=handler, linux=config)
    lines = await told(sandbox, "cat /proc/1/comm /proc/sys/kernel/shmmax /proc/sys/net/ipv4/ip_default_ttl")
    assert lines == ["catatonit", "65536", "7"]


@pytest.mark.parametrize("handler", HANDLERS)
async def test_a_small_range(run_pod: PodRunner, handler: str) -> None:
    """Five ids have no group tty."""
    sandbox = await run_pod(runtime_handler=handler, linux=linux(length=5))
    assert (await told(sandbox, "cat /proc/self/uid_map"))[0].split() == ["0", str(FIRST), "5"]


async def test_two_pods_have_different_users(client: cri.Client, run_pod: PodRunner, node: nodes.Node) -> None:
    sandboxes = [await run_pod(linux=linux(first)) for first in (FIRST, FIRST + LENGTH)]
    pids = [await sleeper(node, await sandbox.start("main", "sleep", "600")) for sandbox in sandboxes]
    assert [proc.status(pid)["Uid"].split()[0] for pid in pids] == [str(FIRST), str(FIRST + LENGTH)]


@pytest.mark.parametrize("handler", HANDLERS)
async def test_the_next_daemon_adopts(node: nodes.Node, client: cri.Client, run_pod: PodRunner, handler: str) -> None:
    sandbox = await run_pod(runtime_handler=handler, linux=linux())
    id = await sandbox.start("main", "sleep", "600")
    await node.restart()
    assert (await client.exec_sync(id, ["id", "-u"])).stdout == b"0\n"
    second = await sandbox.start("second", "sleep", "600")
    assert proc.status(await sleeper(node, second))["Uid"].split()[0] == str(FIRST)
    assert process.start_time(await sleeper(node, id))


@pytest.mark.parametrize("kind", ["network", "pid", "ipc"])
async def test_the_nodes_own_namespaces_are_refused(run_pod: PodRunner, kind: str) -> None:
    with pytest.raises(RopewalkError, match=kind) as caught:
        await run_pod(linux=linux(options={kind: pod.NamespaceMode.NODE}))
    assert caught.value.kind is Kind.INVALID
