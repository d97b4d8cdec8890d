"""What plugins are told: environment, configuration, capabilities, versions."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from ropewalk import ids
from ropewalk.errors import Invalid
from ropewalk.spec import pod
from tests.node.network.lab import ip, run
from tests.node.network.plugins import ADDRESS, WEB, Net, named

Until = Callable[..., Any]


async def test_what_a_plugin_is_told(net: Net) -> None:
    capabilities = dict.fromkeys(["portMappings", "bandwidth", "dns", "ipRanges", "cgroupPath"], True)
    net.fake("all")
    net.fake("none")
    net.write({"type": "all", "capabilities": capabilities, "own": {"key": 1}}, {"type": "none"})
    daemon = await net.start()
    daemon.set_pod_cidr("10.9.0.0/24,fd09::/64")
    spec = named(
        "web",
        port_mappings=[WEB],
        annotations={"kubernetes.io/ingress-bandwidth": "8M"},
        dns_config=pod.DNSConfig(servers=["10.0.0.10"]),
        linux=pod.LinuxPodSandboxConfig(cgroup_parent="/kubepods/pod1"),
    )
    id, attachment = await net.pod(daemon, spec=spec)
    assert attachment.addresses == [ADDRESS]
    daemon.set_pod_cidr("10.10.0.0/24")  # is for later pods
    await daemon.detach(id, attachment)
    expected = {
        "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}],
        "bandwidth": {"ingressRate": 8_000_000, "ingressBurst": (1 << 32) - 1},
        "dns": {"servers": ["10.0.0.10"], "searches": [], "options": []},
        "ipRanges": [[{"subnet": "10.9.0.0/24"}], [{"subnet": "fd09::/64"}]],
        "cgroupPath": "/kubepods/pod1",
    }
    for call in net.calls():
        assert call.document.get("runtimeConfig") == (expected if call.type == "all" else None)
        assert (call.document["name"], call.document["cniVersion"]) == ("lab", "1.0.0")
        assert call.env["CNI_CONTAINERID"] == id
        assert (call.env["CNI_NETNS"], call.env["CNI_IFNAME"]) == (attachment.netns, "eth0")
        assert call.env["CNI_ARGS"] == (
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;"
            f"K8S_POD_INFRA_CONTAINER_ID={id};K8S_POD_UID=uid-web"
        )
    assert [call.domain for call in net.calls()] == ["", "all", "none", "none"]
    assert net.calls()[0].document["own"] == {"key": 1}


async def test_the_pod_cidr_outlives_the_daemon(net: Net) -> None:
    net.fake("fake")
    net.write({"type": "fake", "capabilities": {"ipRanges": True}})
    first = await net.start()
    first.set_pod_cidr("10.9.0.0/24")
    await first.close()
    await net.pod(await net.start())
    (add,) = net.calls("ADD")
    assert add.document["runtimeConfig"] == {"ipRanges": [[{"subnet": "10.9.0.0/24"}]]}
    with pytest.raises(Invalid, match="pod CIDR"):
        net.running[-1].set_pod_cidr("nonsense")


@pytest.mark.parametrize("damaged", [b"10.9.", b"\0" * 12, b"\xff"])
async def test_a_damaged_pod_cidr_keeps_no_node_down(
    net: Net, damaged: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    net.fake("fake")
    net.write({"type": "fake", "capabilities": {"ipRanges": True}})
    first = await net.start()
    first.set_pod_cidr("10.9.0.0/24")
    await first.close()
    (net.directory / "cni/pod-cidr").write_bytes(damaged)
    await net.pod(await net.start())
    (add,) = net.calls("ADD")
    assert "runtimeConfig" not in add.document
    assert "pod CIDR that was kept is damaged" in caplog.text


async def test_what_can_never_be_is_refused_before_anything_is_made(net: Net) -> None:
    net.fake("fake")
    net.write({"type": "fake"})
    daemon = await net.start()
    for spec in (named("a;IP=10.0.0.1"), named("web", annotations={"kubernetes.io/egress-bandwidth": "fast"})):
        with pytest.raises(Invalid):
            daemon.plan(ids.new_id(), spec)
    assert net.left() == []


@pytest.mark.parametrize(
    ("offered", "spoken", "expected"),
    [
        (["0.4.0", "1.0.0", "1.1.0"], ("0.4.0", "1.0.0"), "1.0.0"),
        (["1.1.0", "1.0.0"], ("1.0.0", "1.1.0"), "1.1.0"),
        (["0.3.1"], ("0.3.1", "0.4.0"), "0.3.1"),
    ],
)
async def test_the_newest_version_that_every_plugin_speaks(
    net: Net, offered: list[str], spoken: tuple[str, ...], expected: str
) -> None:
    net.fake("one", versions=spoken)
    net.fake("two")
    net.write({"type": "one"}, {"type": "two"}, cniVersion=offered[0], cniVersions=offered[1:])
    daemon = await net.start()
    id, attachment = await net.pod(daemon)
    await daemon.detach(id, attachment)
    assert {call.document["cniVersion"] for call in net.calls("ADD", "DEL")} == {expected}
    told = [call.domain for call in net.calls("DEL")]
    assert told == (["", ""] if expected == "0.3.1" else ["two", "two"])  # DEL gets the result since 0.4.0


async def test_a_plugin_that_does_not_speak_the_version_is_said(net: Net) -> None:
    net.fake("old", versions=("0.4.0",))
    net.write({"type": "old"})
    daemon = await net.start(ready=False)
    assert "cniVersion 1.0.0 is not spoken" in daemon.condition()[2]


async def test_what_no_plugin_declares_is_said_once(net: Net, caplog: pytest.LogCaptureFixture) -> None:
    net.fake("fake")
    net.write({"type": "fake", "capabilities": {"bandwidth": True}})
    daemon = await net.start()
    spec = named("web", port_mappings=[WEB], annotations={"kubernetes.io/ingress-bandwidth": "8M"})
    for _ in range(2):
        id, attachment = await net.pod(daemon, spec=spec)
        await daemon.detach(id, attachment)
    said = [r.__dict__["capability"] for r in caplog.records if "no CNI plugin declares" in r.message]
    assert said == ["portMappings"]


async def test_addresses_are_of_the_pod_cidr(net: Net) -> None:
    """Debian's host-local gives them out of what the kubelet said."""
    ipam = {"type": "host-local", "dataDir": f"{net.directory}/addresses"}
    net.write({"type": "ptp", "capabilities": {"ipRanges": True}, "ipam": ipam})
    daemon = await net.start()
    daemon.set_pod_cidr("10.77.3.0/24")
    id, attachment = await net.pod(daemon)
    assert attachment.addresses == ["10.77.3.2/24"]
    daemon.set_pod_cidr("10.77.4.0/24")
    other, its = await net.pod(daemon)
    assert its.addresses == ["10.77.4.2/24"]
    await daemon.detach(id, attachment)
    await daemon.detach(other, its)
    assert net.left() == []


async def test_bandwidth_is_limited(net: Net) -> None:
    """Debian's plugin: into the pod on its end on the node, out of it on a device of its own."""
    ipam = {"type": "host-local", "subnet": "10.77.3.0/24", "dataDir": f"{net.directory}/addresses"}
    net.write({"type": "ptp", "ipam": ipam}, {"type": "bandwidth", "capabilities": {"bandwidth": True}})
    daemon = await net.start()
    limits = {"kubernetes.io/ingress-bandwidth": "8M", "kubernetes.io/egress-bandwidth": "4M"}
    id, attachment = await net.pod(daemon, spec=named("web", annotations=limits))
    rates = {
        queue["dev"]: queue["options"]["rate"] * 8
        for queue in json.loads(run("tc", "-j", "qdisc", "show"))
        if queue["kind"] == "tbf"
    }
    assert rates.pop(attachment.host_interface) == 8_000_000
    assert list(rates.values()) == [4_000_000]
    await daemon.detach(id, attachment)
    assert [link["ifname"] for link in ip("link", "show", "type", "ifb")] == []
    assert net.left() == []
