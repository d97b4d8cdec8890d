"""AppArmor is on in the guest: containers run, confined or not, and profiles that cannot be applied are refused."""

from __future__ import annotations

import pytest

from ropewalk.client import cri
from ropewalk.errors import RopewalkError
from ropewalk.spec import container, pod
from tests.vm import guest
from tests.vm.conftest import PodRunner


async def test_containers_run_where_apparmor_is_on(lab: guest.Lab, client: cri.Client, run_pod: PodRunner) -> None:
    sandbox = await run_pod()
    id = await sandbox.start("main", "sleep", "600")
    (pid,) = lab.processes(sandbox.cgroup())
    assert lab.read(f"/proc/{pid}/attr/apparmor/current").strip() == "unconfined"
    done = await client.exec_sync(id, ["cat", "/proc/self/attr/apparmor/current"])
    assert done.stdout.strip() == b"unconfined"


async def test_unconfined_may_be_asked_for(client: cri.Client, run_pod: PodRunner) -> None:
    sandbox = await run_pod()
    security = container.LinuxContainerSecurityContext(
        namespace_options=sandbox.spec.namespaces,
        apparmor=pod.SecurityProfile(profile_type=pod.ProfileType.UNCONFINED),
    )
    id = await sandbox.start("main", "sleep", "600", linux=container.LinuxContainerConfig(security_context=security))
    assert (await client.exec_sync(id, ["true"])).exit_code == 0


PROFILE = """\
profile ropewalk-lab-test flags=(attach_disconnected,mediate_deleted) {
  file,
  network,
  capability,
  signal,
  deny /forbidden w,
}
"""


async def test_a_loaded_profile_confines(lab: guest.Lab, client: cri.Client, run_pod: PodRunner) -> None:
    lab.vm.write("/etc/apparmor.d/ropewalk-lab-test", PROFILE)
    lab.run("apparmor_parser", "-r", "/etc/apparmor.d/ropewalk-lab-test")
    lab.run("systemctl", "restart", "ropewalk", timeout=guest.READY)  # profiles are read at the start
    await lab.ready()
    sandbox = await run_pod()
    profile = pod.SecurityProfile(profile_type=pod.ProfileType.LOCALHOST, localhost_ref="localhost/ropewalk-lab-test")
    security = container.LinuxContainerSecurityContext(
        namespace_options=sandbox.spec.namespaces, apparmor=profile, masked_paths=[]
    )
    id = await sandbox.start("main", "sleep", "600", linux=container.LinuxContainerConfig(security_context=security))
    (pid,) = lab.processes(sandbox.cgroup())
    assert lab.read(f"/proc/{pid}/attr/apparmor/current").strip() == "ropewalk-lab-test (enforce)"
    assert (await client.exec_sync(id, ["sh", "-c", "echo >/allowed"])).exit_code == 0
    done = await client.exec_sync(id, ["sh", "-c", "echo >/forbidden"])
    assert (done.exit_code, b"Permission denied" in done.stderr) == (1, True)
    other = await run_pod()
    await other.start("main", "sleep", "600")
    (pid,) = lab.processes(other.cgroup())
    assert lab.read(f"/proc/{pid}/attr/apparmor/current").strip() == "unconfined"


async def test_a_profile_that_is_not_loaded_is_refused(client: cri.Client, run_pod: PodRunner) -> None:
    sandbox = await run_pod()
    profile = pod.SecurityProfile(profile_type=pod.ProfileType.LOCALHOST, localhost_ref="localhost/no-such-profile")
    security = container.LinuxContainerSecurityContext(namespace_options=sandbox.spec.namespaces, apparmor=profile)
    with pytest.raises(RopewalkError, match="'no-such-profile' is not loaded"):
        await sandbox.create("main", "sleep", "600", linux=container.LinuxContainerConfig(security_context=security))
