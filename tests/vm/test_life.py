"""Images, pods and containers on cgroup v2; what the client is told is compared with what the guest's kernel says."""

from __future__ import annotations

import asyncio

import pytest

from ropewalk.client import cri, values
from ropewalk.errors import RopewalkError
from ropewalk.spec import pod
from ropewalk.spec.image import ImageSpec
from tests.vm import guest
from tests.vm.conftest import PodRunner, both_drivers
from tools import images

READY = values.PodSandboxState.READY
RUNNING = values.ContainerState.RUNNING


async def test_pull_from_the_registry_in_the_guest(client: cri.Client) -> None:
    id = await client.pull(ImageSpec(image=images.NGINX))
    found = await client.image(images.NGINX)
    assert found is not None
    assert found.id == id
    assert (await client.image_fs_info()).image_filesystems[0].used_bytes


PARENTS = {"systemd": "kubepods-burstable-podf00_1.slice", "cgroupfs": "/kubepods/burstable/podf00_1"}


@both_drivers
@pytest.mark.parametrize("handler", ["crun", "runc"])
@pytest.mark.parametrize("whose", ["ours", "kubelet's"])
async def test_a_life(
    lab: guest.Lab, client: cri.Client, run_pod: PodRunner, driver: str, handler: str, whose: str
) -> None:
    assert await client.cgroup_driver() == driver
    parent = PARENTS[driver] if whose != "ours" else ""
    sandbox = await run_pod(runtime_handler=handler, linux=pod.LinuxPodSandboxConfig(cgroup_parent=parent))
    id = await sandbox.start("main", "sh", "-c", "echo started; exec sleep 600")
    await sandbox.says("started")
    status = await client.container_status(id)
    assert status.state is RUNNING
    assert (await client.pod_status(sandbox.id)).state is READY
    (pid,) = lab.processes(sandbox.cgroup())
    assert lab.read(f"/proc/{pid}/cgroup") == f"0::{sandbox.cgroup()}\n"
    if driver == "systemd":
        assert {f"ropewalk-{id}.scope", sandbox.group.rpartition("/")[2]} <= set(lab.units())
    assert lab.run("hostname", "-I").text.split()
    assert (await client.exec_sync(id, ["hostname"])).stdout.decode().strip() == sandbox.spec.hostname
    assert (await client.exec_sync(id, ["sh", "-c", "exit 3"])).exit_code == 3
    await client.stop(id, timeout=5)
    status = await client.container_status(id)
    assert (status.exit_code, status.state) == (128 + 15, values.ContainerState.EXITED)
    await client.remove(id)
    await sandbox.remove()
    assert lab.processes((parent and sandbox.group) or lab.own) == []
    assert not lab.exists(guest.CGROUPS + sandbox.group) or parent
    if parent.endswith(".slice"):  # as the kubelet removes it
        lab.run("systemctl", "stop", parent)
    assert not [name for name in lab.units() if "pod" in name and name != "kubepods.slice" and "burstable." not in name]


@both_drivers
async def test_a_shared_pid_namespace(lab: guest.Lab, client: cri.Client, run_pod: PodRunner, driver: str) -> None:
    """Its init is a container of ours."""
    options = pod.NamespaceOption(pid=pod.NamespaceMode.POD)
    security = pod.LinuxSandboxSecurityContext(namespace_options=options)
    sandbox = await run_pod(linux=pod.LinuxPodSandboxConfig(security_context=security))
    id = await sandbox.start("main", "sleep", "600")
    assert b"catatonit" in (await client.exec_sync(id, ["cat", "/proc/1/comm"])).stdout
    name = f"ropewalk-{sandbox.id}.scope" if driver == "systemd" else sandbox.id
    assert len(lab.processes(f"{sandbox.group}/{name}")) == 1
    await sandbox.remove()
    assert not lab.exists(guest.CGROUPS + sandbox.group)


@both_drivers
async def test_the_other_drivers_parent_is_refused(client: cri.Client, run_pod: PodRunner, driver: str) -> None:
    (other,) = set(PARENTS) - {driver}
    with pytest.raises(RopewalkError, match=f"{other} cgroup driver, and ropewalk's is {driver}"):
        await run_pod(linux=pod.LinuxPodSandboxConfig(cgroup_parent=PARENTS[other]))


async def test_pods_of_the_other_driver_can_be_removed(lab: guest.Lab, client: cri.Client, run_pod: PodRunner) -> None:
    """A node whose setting was changed keeps what it has until it is removed."""
    sandbox = await run_pod()
    id = await sandbox.start("main", "sleep", "600")
    group = sandbox.group
    await lab.use(driver="cgroupfs")
    assert (await client.container_status(id)).state is RUNNING
    assert (await client.exec_sync(id, ["true"])).exit_code == 0
    await sandbox.remove()
    assert not lab.exists(guest.CGROUPS + group)
    assert not [name for name in lab.units() if sandbox.id in name]


async def test_nothing_is_left(lab: guest.Lab, client: cri.Client, run_pod: PodRunner) -> None:
    first = await run_pod()  # what daemon and systemd keep for the next pod is there
    await first.start("main", "sleep", "600")
    await first.remove()
    before = lab.trace()
    sandbox = await run_pod()
    await sandbox.start("main", "sleep", "600")
    assert len(lab.trace()) > len(before)
    await sandbox.remove()
    for _ in range(5):  # namespaces are torn down in the background
        left = lab.trace()
        spare = [line for line in left - before if line.startswith("netns")]
        left = {line for line in left - before if not any(name.split()[1] in line for name in spare)}
        if not left and len(spare) <= 1:
            break
        await asyncio.sleep(0.5)
    assert (left, len(spare) <= 1) == (set(), True)


async def test_the_monitor_is_not_in_the_services_cgroup(lab: guest.Lab, run_pod: PodRunner) -> None:
    sandbox = await run_pod()
    await sandbox.start("main", "sleep", "600")
    monitors = [int(pid) for pid in lab.run("pgrep", "-f", "ropewalk-monitor run ").text.split()]
    assert monitors
    for pid in monitors:
        assert "/ropewalk.service" not in lab.read(f"/proc/{pid}/cgroup")
    inside = {lab.read(f"/proc/{pid}/comm").strip() for pid in lab.processes("/system.slice/ropewalk.service")}
    assert not inside & {"ropewalk-monito", "conmon", "crun", "catatonit", "sleep"}


async def test_two_pods_reach_each_other(client: cri.Client, run_pod: PodRunner) -> None:
    server, other = await run_pod(), await run_pod()
    await client.pull(ImageSpec(image=images.NGINX))
    await server.start("main", "nginx", "-g", "daemon off;", reference=images.NGINX)
    id = await other.start("main", "sleep", "600")
    address = await server.ip()
    async with asyncio.timeout(60):
        while (done := await client.exec_sync(id, ["wget", "-qO-", f"http://{address}/"])).exit_code != 0:
            await asyncio.sleep(0.3)
    assert b"Welcome to nginx on Ropewalk" in done.stdout
