"""AppArmor is on in the guest: containers run, confined or not, and profiles that cannot be applied are refused."""

from __future__ import annotations

from ropewalk.client import cri
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
