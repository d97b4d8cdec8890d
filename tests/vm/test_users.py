"""User namespaces on a node whose runtimes have all capabilities, and whose cgroups are v2's."""

from __future__ import annotations

import pytest

from ropewalk.client import cri
from ropewalk.spec import pod
from tests.vm import guest
from tests.vm.conftest import PodRunner, both_drivers

FIRST, LENGTH = 65536 * 5, 65536


@both_drivers
@pytest.mark.parametrize("handler", ["crun", "runc"])
async def test_a_pods_root_is_nobody_on_the_node(
    lab: guest.Lab, client: cri.Client, run_pod: PodRunner, handler: str
) -> None:
    ids = [pod.IDMapping(host_id=FIRST, container_id=0, length=LENGTH)]
    options = pod.NamespaceOption(
        pid=pod.NamespaceMode.CONTAINER, userns_options=pod.UserNamespace(pod.NamespaceMode.POD, ids, ids)
    )
    security = pod.LinuxSandboxSecurityContext(namespace_options=options)
    sandbox = await run_pod(runtime_handler=handler, linux=pod.LinuxPodSandboxConfig(security_context=security))
    id = await sandbox.start("main", "sleep", "600")
    (pid,) = lab.processes(sandbox.cgroup())
    assert lab.run("stat", "-c", "%u", f"/proc/{pid}").text == f"{FIRST}\n"
    assert lab.read(f"/proc/{pid}/uid_map").split() == ["0", str(FIRST), str(LENGTH)]
    done = await client.exec_sync(
        id, ["sh", "-c", "id -u; stat -c %u /bin/busybox; echo x >/root/x && stat -c %u /root/x"]
    )
    assert done.stdout.split() == [b"0"] * 3
