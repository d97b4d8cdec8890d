"""The node's network: each pod by the mode in its row, new ones by the mode that is set."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from ropewalk import ids
from ropewalk.errors import Kind, RopewalkError
from ropewalk.network import cni, network
from ropewalk.spec import pod
from tests.node.network.lab import INSTANCE, TAG, Lab, ip

PLUGINS = "/usr/lib/cni"
Make = Callable[[str], network.Network]


@pytest.fixture
async def make(lab: Lab) -> AsyncIterator[Make]:
    """The network of one daemon after another, on the same node and disk, in a given mode."""
    made: list[network.Network] = []
    ipam = {"type": "host-local", "subnet": "10.66.0.0/24", "dataDir": f"{lab.directory}/addresses"}
    document = {"type": "bridge", "bridge": "cni-test", "isGateway": True, "ipam": ipam}
    os.mkdir(lab.directory / "net.d")
    text = json.dumps({"cniVersion": "1.0.0", "name": "lab"} | document)
    (lab.directory / "net.d/10-lab.conf").write_text(text)

    def build(mode: Any) -> network.Network:
        plugins = cni.Config(conf_dir=f"{lab.directory}/net.d", bin_dirs=[PLUGINS])
        config = network.Config(mode=mode, cni=plugins, ready=0)
        directory = f"{lab.directory}/cni"
        made.append(network.Network(config, instance=INSTANCE, tag=TAG, directory=directory, netns_directory=lab.pins))
        return made[-1]

    yield build
    for each in made:
        await each.close()


@pytest.mark.parametrize("mode", ["bridge", "cni"])
async def test_the_node_network_needs_nothing(make: Make, mode: str) -> None:
    options = pod.NamespaceOption(network=pod.NamespaceMode.NODE)
    security = pod.LinuxSandboxSecurityContext(namespace_options=options)
    spec = pod.PodSpec(linux=pod.LinuxPodSandboxConfig(security_context=security))
    net = make(mode)
    attachment = net.plan("p", spec)
    assert (attachment.mode, attachment.netns, attachment.addresses) == ("host", "", [])
    assert await net.attach("p", attachment, spec) == attachment
    assert await net.stats(attachment) == []
    assert await net.check("p", attachment) == ""
    await net.detach("p", attachment)


@pytest.mark.parametrize(("before", "after"), [("bridge", "cni"), ("cni", "bridge")])
async def test_a_switch_leaves_old_pods_connected_and_removable(
    lab: Lab, make: Make, until: Callable[..., Any], before: str, after: str
) -> None:
    first = make(before)
    await first.start()
    old = ids.new_id()
    spec = pod.PodSpec(metadata=pod.PodSandboxMetadata(name="old"))
    attachment = await first.attach(old, first.plan(old, spec), spec)
    assert attachment.mode == before
    await first.close()

    second = make(after)
    second.adopt({old: attachment})
    await second.start()
    assert second.condition()[0], second.condition()
    assert await second.sweep() == []
    new = ids.new_id()
    other = await second.attach(new, second.plan(new, spec), spec)
    assert other.mode == after
    await lab.serve(attachment.netns, 80)
    assert await lab.ask("", attachment.ips[0], 80) == attachment.gateways[0]
    for each in (attachment, other):
        assert [found.name for found in await second.stats(each)] == ["eth0"]
    await second.detach(old, attachment)
    await second.detach(new, other)
    assert os.listdir(lab.pins) == []
    await until(lambda: not {attachment.host_interface, other.host_interface} & {x["ifname"] for x in ip("link")})


@pytest.mark.parametrize(("before", "after"), [("bridge", "cni"), ("cni", "bridge")])
async def test_a_host_port_is_one_pods_whatever_that_pod_hangs_on(make: Make, before: str, after: str) -> None:
    """Both modes would make their rules, and one of the two pods would never hear of anybody."""
    web = pod.PortMapping(container_port=80, host_port=8080)
    first = make(before)
    await first.start()
    old = ids.new_id()
    spec = pod.PodSpec(metadata=pod.PodSandboxMetadata(name="old"), port_mappings=[web])
    attachment = first.plan(old, spec)
    second = make(after)
    second.adopt({old: attachment})
    await second.start()
    with pytest.raises(RopewalkError, match=f"in use by pod {old}") as caught:
        second.plan(ids.new_id(), spec)
    assert caught.value.kind is Kind.STATE
    await second.detach(old, attachment)
    new = ids.new_id()
    await second.detach(new, second.plan(new, spec))
