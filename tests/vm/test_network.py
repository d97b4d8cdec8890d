"""CNI plugins of Debian, as a cluster's node has them; the other tests' pods are on the built-in bridge."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from ropewalk.client import cri, values
from tests.vm import guest
from tests.vm.conftest import PodRunner

CONFLIST = {
    "cniVersion": "1.0.0",
    "name": "lab",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni-lab",
            "isGateway": True,
            "ipMasq": True,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.99.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]},
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}
FILE = "/etc/cni/net.d/10-lab.conflist"


@pytest.fixture
async def cni(lab: guest.Lab) -> AsyncIterator[None]:
    await asyncio.to_thread(lab.vm.write, FILE, json.dumps(CONFLIST))
    await lab.use(network="cni")
    yield
    await lab.use(network="bridge")
    lab.run("rm", FILE)


@pytest.mark.usefixtures("cni")
async def test_pods_on_plugins(lab: guest.Lab, client: cri.Client, run_pod: PodRunner) -> None:
    """They reach each other, survive a restart, and give their addresses back."""
    one, other = await run_pod(), await run_pod()
    id = await one.start("main", "sleep", "600")
    await other.start("main", "sleep", "600")
    address = await other.ip()
    assert address.startswith("10.99.0.")
    assert (await client.exec_sync(id, ["ping", "-c1", "-W5", address])).exit_code == 0
    await lab.restart()
    assert (await client.pod_status(other.id)).state is values.PodSandboxState.READY
    assert (await client.exec_sync(id, ["ping", "-c1", "-W5", address])).exit_code == 0
    for sandbox in (one, other):
        await sandbox.remove()
    assert lab.run("sh", "-c", "ls /var/lib/cni/networks/lab | grep ^10 || true").text == ""
    assert "veth" not in lab.run("ip", "-br", "link").text
