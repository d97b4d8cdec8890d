"""Debian's plugins on a real kernel: a pod comes, is reached, and leaves whatever became of its surroundings."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import pytest

from ropewalk import ids
from ropewalk.errors import Invalid
from ropewalk.linux import namespaces
from ropewalk.network import hostports
from ropewalk.spec import pod
from tests.node.network.lab import NODE4, OUTSIDE4, Lab, ip, run
from tests.node.network.plugins import WEB, Net, named

Until = Callable[..., Any]


async def test_a_pod_is_attached_and_what_it_has_is_what_it_says(net: Net, lab: Lab) -> None:
    net.real()
    daemon = await net.start()
    id, attachment = await net.pod(daemon)
    assert attachment.ips == net.reserved()
    (shown,) = ip("address", "show", "dev", "eth0", netns=attachment.netns)
    inside = [f"{a['local']}/{a['prefixlen']}" for a in shown["addr_info"] if a["scope"] == "global"]
    assert inside == attachment.addresses
    assert attachment.gateways == ["10.66.0.1", "fd66::1"]
    assert attachment.mac == shown["address"]
    assert "UP" in ip("link", "show", "dev", "lo", netns=attachment.netns)[0]["flags"]
    (port,) = ip("link", "show", "dev", attachment.host_interface)
    assert port["master"] == "cni-test"
    await lab.serve(attachment.netns, 80)
    assert await lab.ask("", attachment.ips[0], 80) == "10.66.0.1"

    await daemon.detach(id, attachment)
    assert net.left() == []
    assert attachment.host_interface not in {link["ifname"] for link in ip("link", "show")}
    await daemon.detach(id, attachment)  # again


async def test_host_ports_and_statistics(net: Net, lab: Lab) -> None:
    net.real()
    daemon = await net.start()
    id, attachment = await net.pod(daemon, spec=named("web", port_mappings=[WEB]))
    await lab.serve(attachment.netns, 80)
    run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    assert await lab.ask(lab.outside, NODE4, 8080) == OUTSIDE4
    assert await lab.ask("", "127.0.0.1", 8080)
    (counted,) = await daemon.stats(attachment)
    (shown,) = ip("-s", "link", "show", "dev", "eth0", netns=attachment.netns)
    assert counted.name == "eth0"
    assert 0 < counted.rx_bytes <= shown["stats64"]["rx"]["bytes"]
    assert 0 < counted.tx_bytes <= shown["stats64"]["tx"]["bytes"]
    await daemon.detach(id, attachment)
    assert "8080" not in run("iptables-save")
    assert await daemon.stats(attachment) == []


async def test_a_link_without_an_end_on_the_node_is_counted_inside(net: Net, lab: Lab) -> None:
    ipam = {"type": "host-local", "subnet": "203.0.113.0/24", "dataDir": f"{net.directory}/addresses"}
    net.write({"type": "macvlan", "master": "uplink", "ipam": ipam})
    daemon = await net.start()
    id, attachment = await net.pod(daemon)
    assert attachment.host_interface == ""
    assert [stats.name for stats in await daemon.stats(attachment)] == ["eth0"]
    await daemon.detach(id, attachment)
    assert await daemon.stats(attachment) == []


async def test_a_pod_leaves_though_its_namespace_is_gone(net: Net) -> None:
    net.real()
    daemon = await net.start()
    id, attachment = await net.pod(daemon, spec=named("web", port_mappings=[WEB]))
    namespaces.unpin(attachment.netns)
    await daemon.detach(id, attachment)
    assert net.left() == []
    assert "8080" not in run("iptables-save")


async def test_a_namespace_that_is_gone_is_not_named(net: Net) -> None:
    net.fake("fake")
    net.write({"type": "fake"})
    daemon = await net.start()
    id, attachment = await net.pod(daemon)
    namespaces.unpin(attachment.netns)
    await daemon.detach(id, attachment)
    (delete,) = net.calls("DEL")
    assert (delete.env["CNI_NETNS"], delete.env["CNI_CONTAINERID"], delete.domain) == ("", id, "fake")


async def test_a_pod_leaves_though_its_configuration_is_gone(net: Net) -> None:
    net.real()
    first = await net.start()
    id, attachment = await net.pod(first, spec=named("web", port_mappings=[WEB]))
    await first.close()
    (net.conf / "10-lab.conflist").unlink()
    second = await net.start(ready=False, owned={id: attachment})
    await second.detach(id, attachment)
    assert net.left() == []
    assert "8080" not in run("iptables-save")


async def test_a_pod_leaves_though_what_was_kept_of_it_is_gone(net: Net) -> None:
    net.real()
    daemon = await net.start()
    id, attachment = await net.pod(daemon)
    os.unlink(f"{net.directory}/cni/{id}-eth0.json")
    await daemon.detach(id, attachment)
    assert net.left() == []


async def test_pods_come_and_go_at_the_same_time(net: Net) -> None:
    net.real()
    daemon = await net.start()
    pods = await asyncio.gather(*(net.pod(daemon) for _ in range(6)))
    assert len({attachment.ips[0] for _, attachment in pods}) == 6
    await asyncio.gather(*(daemon.detach(id, attachment) for id, attachment in pods))
    assert net.left() == []


async def test_a_host_port_belongs_to_one_pod_at_a_time(net: Net) -> None:
    """portmap would put the second pod's rules behind the first one's, and say nothing."""
    net.real()
    first = await net.start()
    spec = named("web", port_mappings=[WEB])
    id, attachment = await net.pod(first, spec=spec)
    assert attachment.ports == [WEB]
    with pytest.raises(hostports.PortConflict, match=f"tcp :8080 -> 80 is in use by pod {id}"):
        first.plan(ids.new_id(), named("other", port_mappings=[WEB]))
    await net.kill(first)
    second = await net.start(owned={id: attachment})
    with pytest.raises(hostports.PortConflict):
        second.plan(ids.new_id(), named("other", port_mappings=[WEB]))
    await second.detach(id, attachment)
    other, its = await net.pod(second, spec=spec)
    await second.detach(other, its)
    assert net.left() == []


async def test_a_mapping_that_contradicts_itself_is_refused(net: Net) -> None:
    net.real()
    daemon = await net.start()
    with pytest.raises(Invalid, match="contradicts"):
        daemon.plan(ids.new_id(), named("web", port_mappings=[WEB, pod.PortMapping(container_port=81, host_port=8080)]))
    loopback = pod.PortMapping(container_port=80, host_port=8080, host_ip="::1")  # the plugins' to know
    assert daemon.plan(ids.new_id(), named("web", port_mappings=[loopback])).ports == [loopback]
