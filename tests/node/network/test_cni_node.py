"""A whole node in CNI mode, as a kubelet sees it."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from ropewalk.client import cri
from ropewalk.client.values import PodSandboxState
from ropewalk.errors import RopewalkError
from ropewalk.spec.image import ImageSpec
from tests.node.kill import points
from tools import images, workload
from tools import node as nodes

PodRunner = Callable[..., Awaitable[workload.Pod]]


class CniNode(nodes.Node):
    """With a point-to-point link per pod: nothing on the node outlives the pods."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conf = self.base / "net.d"
        text = self.config_file.read_text()  # other tests' nodes choose the bridge; the default is the plugins
        self.config_file.write_text(text.replace('mode = "bridge"\n', ""))
        self.environment |= {
            "ROPEWALK_NETWORK_CNI_CONF_DIR": str(self.conf),
            "ROPEWALK_NETWORK_CNI_CHECK": "true",
        }
        self.conf.mkdir()
        self.write()

    @property
    def file(self) -> Path:
        return self.conf / "10-ropewalk.conflist"

    def write(self) -> None:
        subnet = f"10.67.{int(self.tag[:2], 16)}.0/24"
        ipam = {"type": "host-local", "subnet": subnet, "dataDir": str(self.base / "addresses")}
        plugin = {"type": "ptp", "ipMasq": False, "ipam": ipam}
        self.file.write_text(json.dumps({"cniVersion": "0.4.0", "name": self.instance, "plugins": [plugin]}))

    def reserved(self) -> list[str]:
        path = self.base / "addresses" / self.instance
        return sorted(name for name in os.listdir(path) if name[0].isdigit()) if path.exists() else []

    def kept(self) -> list[str]:
        path = self.root / "cni"
        return os.listdir(path) if path.exists() else []


NODE_CLASS = CniNode
NS_GET_USERNS = 0xB701  # linux/nsfs.h


async def network_ready(client: cri.Client, wanted: bool) -> str:
    """The condition's message once it is as wanted."""
    deadline = time.monotonic() + 30
    while True:
        condition = (await client.status()).condition("NetworkReady")
        if condition.status == wanted:
            return condition.message
        assert time.monotonic() < deadline, condition
        await asyncio.sleep(0.02)


async def test_a_pod_has_the_address_that_the_plugins_gave(
    node: CniNode, client: cri.Client, run_pod: PodRunner
) -> None:
    await client.pull(ImageSpec(image=images.BUSYBOX))
    pod = await run_pod()
    address = await pod.ip()
    assert node.reserved() == [address]
    await pod.start("main", "ip", "-4", "-o", "address", "show", "dev", "eth0")
    assert f"inet {address}/24" in await pod.says("eth0")
    await client.stop_pod(pod.id)
    assert node.reserved() == []
    assert node.kept() == []


async def test_a_pod_with_users_of_its_own_owns_its_namespace(
    node: CniNode, client: cri.Client, run_pod: PodRunner
) -> None:
    await client.pull(ImageSpec(image=images.BUSYBOX))
    pod = await run_pod(spec=points.pod_spec(node, "users"))
    address = await pod.ip()
    assert node.reserved() == [address]
    await pod.start("main", "ip", "-4", "-o", "address", "show", "dev", "eth0")
    assert f"inet {address}/24" in await pod.says("eth0")
    _, info = await client.inspect_pod(pod.id, verbose=True)
    pins = {entry["type"]: entry["path"] for entry in json.loads(info["info"])["runtimeSpec"]["linux"]["namespaces"]}
    with open(pins["network"]) as net, open(pins["user"]) as user:
        owner = fcntl.ioctl(net, NS_GET_USERNS)
        assert os.stat(owner).st_ino == os.fstat(user.fileno()).st_ino
        os.close(owner)
    await client.stop_pod(pod.id)
    assert node.reserved() == []
    assert node.kept() == []


async def test_a_verbose_status_shows_the_network(node: CniNode) -> None:
    async with node.client() as client:
        info = (await client.status(verbose=True)).info
    (network,) = json.loads(info["cniconfig"])["Networks"]
    assert (network["IFName"], network["Config"]["Name"]) == ("eth0", node.instance)
    assert info["lastCNILoadStatus"] == "OK"


async def test_a_kill_leaves_pods_connected_and_removable(node: CniNode, run_pod: PodRunner) -> None:
    pod = await run_pod()
    address = await pod.ip()
    node.kill()
    await node.start()
    async with node.client() as client:
        status = await client.pod_status(pod.id)
        assert (status.state, status.network.ip) == (PodSandboxState.READY, address)
        assert node.reserved() == [address]
        node.file.unlink()
        await network_ready(client, False)
        await client.stop_pod(pod.id)
        await client.remove_pod(pod.id)
        assert node.reserved() == []
        node.write()
        await network_ready(client, True)


async def test_a_switch_of_the_mode_leaves_old_pods(node: CniNode, run_pod: PodRunner) -> None:
    """There and back: each pod stays READY with its address, and is removed by the mode that it came with."""
    of_cni = await run_pod()
    node.kill()
    node.environment["ROPEWALK_NETWORK_MODE"] = "bridge"
    await node.start()
    async with node.client() as client:
        address = (await client.pod_status(of_cni.id)).network.ip
        assert node.reserved() == [address]
        of_bridge = await workload.run_pod(client, workload.pod_spec(logs=node.logs))
        address = await of_bridge.ip()
        assert node.reserved() != [address]
        await client.stop_pod(of_cni.id)
        await client.remove_pod(of_cni.id)
        assert node.reserved() == []
    node.kill()
    del node.environment["ROPEWALK_NETWORK_MODE"]
    await node.start()
    async with node.client() as client:
        status = await client.pod_status(of_bridge.id)
        assert (status.state, status.network.ip) == (PodSandboxState.READY, address)
        await client.stop_pod(of_bridge.id)
        await client.remove_pod(of_bridge.id)


async def test_without_a_configuration_pods_of_the_nodes_network_still_run(
    node: CniNode, client: cri.Client, run_pod: PodRunner
) -> None:
    node.file.unlink()
    assert "cni plugin not initialized" in await network_ready(client, False)
    with pytest.raises(RopewalkError, match=r"no network config found in .*network\.mode"):
        await run_pod()
    host = await run_pod(host_network=True)
    await client.pull(ImageSpec(image=images.BUSYBOX))
    await host.start("main", "echo", "hello")
    assert await host.says("hello") == "hello\n"
    node.write()
    await network_ready(client, True)
    assert (await (await run_pod()).ip()) in node.reserved()
