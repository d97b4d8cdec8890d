"""Who a container's process is and what it may do, as /proc/PID of the node tells it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from ropewalk.client import cri
from ropewalk.errors import Kind, RopewalkError
from ropewalk.linux import caps
from ropewalk.runtimes.oci import capabilities
from ropewalk.spec import container, pod
from ropewalk.spec.image import ImageSpec
from tests.node.containers import proc
from tools import images, workload

RunPod = Callable[..., Coroutine[Any, Any, workload.Pod]]
pytestmark = pytest.mark.usefixtures("pulled")
UNCONFINED = pod.SecurityProfile(profile_type=pod.ProfileType.UNCONFINED)


@pytest.fixture
async def sandbox(run_pod: RunPod) -> workload.Pod:
    return await run_pod(host_network=True)


async def process_of(
    client: cri.Client, sandbox: workload.Pod, *, reference: str = images.BUSYBOX, **fields: Any
) -> dict[str, str]:
    """/proc/PID/status of a sleeping container with this security context."""
    pid = await proc.pid_of(client, await sleeping(client, sandbox, reference=reference, **fields))
    return proc.status(await proc.begun(pid, "sleep", "600"))


async def sleeping(client: cri.Client, sandbox: workload.Pod, *, reference: str = images.BUSYBOX, **fields: Any) -> str:
    await client.pull(ImageSpec(image=reference))
    context = container.LinuxContainerSecurityContext(
        **{"namespace_options": sandbox.spec.namespaces, "seccomp": pod.SecurityProfile(), **fields}
    )
    linux = container.LinuxContainerConfig(security_context=context)
    return await sandbox.start("main", "sleep", "600", reference=reference, linux=linux)


def names(mask: str) -> set[str]:
    """Capabilities of a mask in hexadecimal."""
    bits = int(mask, 16)
    return {name for number, name in enumerate(caps.NAMES) if bits >> number & 1}


async def test_by_default_it_is_root_with_the_usual_capabilities(client: cri.Client, sandbox: workload.Pod) -> None:
    seen = await process_of(client, sandbox)
    assert seen["Uid"].split() == ["0"] * 4
    assert names(seen["CapBnd"]) == names(seen["CapEff"]) == capabilities.DEFAULT & caps.bounding()
    assert (names(seen["CapInh"]), names(seen["CapAmb"])) == (set(), set())
    assert seen["Seccomp"] == "2"


async def test_added_and_dropped(client: cri.Client, sandbox: workload.Pod) -> None:
    asked = container.Capability(add_capabilities=["NET_ADMIN"], drop_capabilities=["MKNOD", "CAP_CHOWN"])
    seen = await process_of(client, sandbox, capabilities=asked)
    wanted = (capabilities.DEFAULT | {"CAP_NET_ADMIN"}) - {"CAP_MKNOD", "CAP_CHOWN"}
    assert names(seen["CapBnd"]) == wanted & caps.bounding()


async def test_all_dropped(client: cri.Client, sandbox: workload.Pod) -> None:
    seen = await process_of(client, sandbox, capabilities=container.Capability(drop_capabilities=["ALL"]))
    assert [int(seen[name], 16) for name in ("CapBnd", "CapEff", "CapPrm", "CapInh", "CapAmb")] == [0] * 5


async def test_privileged_has_what_the_daemon_has(client: cri.Client, run_pod: RunPod) -> None:
    security = pod.LinuxSandboxSecurityContext(privileged=True)
    privileged = await run_pod(linux=pod.LinuxPodSandboxConfig(security_context=security))
    id = await sleeping(client, privileged, privileged=True, seccomp=UNCONFINED)
    seen = proc.status(await proc.begun(await proc.pid_of(client, id), "sleep", "600"))
    assert names(seen["CapEff"]) == caps.bounding()
    assert seen["Seccomp"] == "0"
    done = await client.exec_sync(
        id, ["sh", "-c", "test -c /dev/kmsg && test -w /proc/sys/kernel/hostname && echo yes"]
    )
    assert done.stdout == b"yes\n"


@pytest.mark.parametrize(
    ("reference", "fields", "uid", "gid", "groups"),
    [
        (images.BUSYBOX, {"run_as_user": 1000}, 1000, 1000, {50, 1000}),
        (images.BUSYBOX, {"run_as_user": 4242}, 4242, 0, {0}),
        (images.BUSYBOX, {"run_as_user": 1000, "run_as_group": 33, "supplemental_groups": [7]}, 1000, 33, {7, 33, 50}),
        (images.BUSYBOX, {"run_as_username": "www-data"}, 33, 33, {33}),
        ("docker.io/ropewalk/user-number:latest", {}, 1000, 1000, {50, 1000}),
        ("docker.io/ropewalk/user-name:latest", {}, 1000, 50, {50}),
    ],
)
async def test_users(
    client: cri.Client,
    sandbox: workload.Pod,
    reference: str,
    fields: dict[str, Any],
    uid: int,
    gid: int,
    groups: set[int],
) -> None:
    seen = await process_of(client, sandbox, reference=reference, **fields)
    assert seen["Uid"].split() == [str(uid)] * 4
    assert seen["Gid"].split() == [str(gid)] * 4
    assert {int(number) for number in seen["Groups"].split()} | {gid} == groups | {gid}
    assert int(seen["CapEff"], 16) == 0
    status = await client.container_status(sandbox.containers["main"])
    assert (status.user.linux.uid, status.user.linux.gid) == (uid, gid)
    assert set(status.user.linux.supplemental_groups) | {gid} == groups | {gid}


async def test_a_user_that_the_image_does_not_have(client: cri.Client, sandbox: workload.Pod) -> None:
    with pytest.raises(RopewalkError, match="nosuchuser") as refused:
        await process_of(client, sandbox, reference="docker.io/ropewalk/user-unknown:latest")
    assert refused.value.kind in (Kind.INVALID, Kind.NOT_FOUND)
    assert await client.containers(pod=sandbox.id) == []


async def test_no_new_privileges(client: cri.Client, sandbox: workload.Pod) -> None:
    assert (await process_of(client, sandbox, no_new_privs=True))["NoNewPrivs"] == "1"


async def test_a_read_only_root(client: cri.Client, sandbox: workload.Pod) -> None:
    id = await sleeping(client, sandbox, readonly_rootfs=True)
    done = await client.exec_sync(id, ["touch", "/new"])
    assert done.exit_code != 0
    assert b"Read-only file system" in done.stderr
    pid = await proc.pid_of(client, id)
    with open(f"/proc/{pid}/mountinfo") as file:
        [root] = [line.split() for line in file if line.split()[4] == "/"]
    assert "ro" in root[5].split(",")


async def test_masked_and_read_only_paths_are_the_requests(client: cri.Client, sandbox: workload.Pod) -> None:
    id = await sleeping(client, sandbox, masked_paths=["/proc/keys", "/sys/firmware"], readonly_paths=["/proc/sys"])
    done = await client.exec_sync(
        id, ["sh", "-c", "cat /proc/keys; ls /sys/firmware; echo x > /proc/sys/vm/swappiness"]
    )
    assert done.stdout == b""
    assert b"Read-only file system" in done.stderr
