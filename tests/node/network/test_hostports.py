"""Host ports on a real kernel: who reaches them, and who must not."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest

from ropewalk.errors import Kind, RopewalkError
from ropewalk.linux import conntrack, namespaces, netlink, nft
from ropewalk.network import bridged
from ropewalk.network.attachment import Attachment
from ropewalk.spec import pod
from tests.node.network.lab import BRIDGE, INSTANCE, NODE4, NODE6, OUTSIDE4, OUTSIDE6, Lab, host_ports, ports, run

Until = Callable[..., Any]
WEB = pod.PortMapping(container_port=80, host_port=8080)


async def web(lab: Lab, *mappings: pod.PortMapping) -> Attachment:
    net = await lab.start()
    attachment = await lab.pod(net, "web", ports(*mappings))
    await lab.serve(attachment.netns, 80)
    return attachment


async def refused(lab: Lab, netns: str, address: str, port: int, *, patience: float = 0.3) -> bool:
    try:
        await lab.ask(netns, address, port, timeout=patience)
    except (TimeoutError, OSError):
        return True
    return False


async def test_from_outside_the_callers_address_is_kept(lab: Lab) -> None:
    await web(lab, WEB)
    assert await lab.ask(lab.outside, NODE4, 8080) == OUTSIDE4
    assert await lab.ask(lab.outside, NODE6, 8080) == OUTSIDE6


async def test_from_the_node_by_loopback_and_by_its_addresses(lab: Lab) -> None:
    await web(lab, WEB)
    for address in ("127.0.0.1", "127.1.2.3", NODE4, NODE6):
        assert await lab.ask("", address, 8080)


async def test_ipv6_loopback_is_refused_at_once(lab: Lab) -> None:
    await web(lab, WEB)
    with pytest.raises(ConnectionRefusedError):
        await lab.ask("", "::1", 8080)


async def test_from_pods_also_to_themselves(lab: Lab) -> None:
    attachment = await web(lab, WEB)
    other = await lab.pod(lab.networks[0], "other")
    for netns in (attachment.netns, other.netns):
        for address in (NODE4, NODE6, attachment.gateways[0], attachment.gateways[1]):
            assert await lab.ask(netns, address, 8080) in attachment.gateways


async def test_without_mappings_the_packet_filter_has_no_word_of_a_pod(lab: Lab) -> None:
    net = await lab.start()
    before = run("nft", "list", "ruleset")
    await lab.pod(net, "p")
    assert run("nft", "list", "ruleset") == before


async def test_an_element_per_port_and_none_afterwards(lab: Lab) -> None:
    attachment = await web(lab, WEB)
    target4, target6 = attachment.ips
    assert host_ports() == {
        "any4": [[{"concat": ["tcp", 8080]}, {"concat": [target4, 80]}]],
        "any6": [[{"concat": ["tcp", 8080]}, {"concat": [target6, 80]}]],
        "at4": [],
        "at6": [],
    }
    rules = run("nft", "list", "ruleset")
    await lab.networks[0].detach("web", attachment)
    assert host_ports() == {"any4": [], "any6": [], "at4": [], "at6": []}
    await lab.pod(lab.networks[0], "again", ports(WEB))  # free at once, though the old address is not yet
    assert run("nft", "list", "ruleset").count("\n") == rules.count("\n")


async def test_only_the_address_that_was_asked_for(lab: Lab) -> None:
    run("ip", "address", "add", "203.0.113.9/24", "dev", "uplink")
    await web(lab, pod.PortMapping(container_port=80, host_port=8080, host_ip="203.0.113.9"))
    assert await lab.ask(lab.outside, "203.0.113.9", 8080) == OUTSIDE4
    assert await refused(lab, lab.outside, NODE4, 8080)
    assert await refused(lab, "", "127.0.0.1", 8080)


async def test_published_on_loopback_it_is_not_reachable_from_outside(lab: Lab) -> None:
    attachment = await web(lab, pod.PortMapping(container_port=80, host_port=8080, host_ip="127.0.0.1"))
    assert await lab.ask("", "127.0.0.1", 8080) == attachment.gateways[0]
    assert await refused(lab, lab.outside, NODE4, 8080)
    assert not await reaches_loopback(lab, lab.outside, NODE4, 8080)


async def test_the_nodes_loopback_is_shut_for_pods_and_neighbours(lab: Lab) -> None:
    """CVE-2020-8558: a packet to 127.0.0.1 on the wire, where route_localnet would let it in."""
    net = await lab.start()
    attachment = await lab.pod(net, "p")
    await lab.serve("", 9090)
    assert await lab.ask("", "127.0.0.1", 9090) == "127.0.0.1"
    run("sysctl", "-qw", "net.ipv4.conf.uplink.route_localnet=1")  # as kube-proxy does
    assert not await reaches_loopback(lab, lab.outside, NODE4, 9090)
    assert not await reaches_loopback(lab, attachment.netns, attachment.gateways[0], 9090)
    # The guard is what holds: without it the packet of the pod arrives.
    run("nft", "flush", "chain", "inet", INSTANCE, "guard")
    assert await reaches_loopback(lab, attachment.netns, attachment.gateways[0], 9090, patience=20)


async def reaches_loopback(lab: Lab, netns: str, router: str, port: int, *, patience: float = 0.3) -> bool:
    """Whether a process in `netns` that routes 127.0.0.1 to the node connects to the node's loopback."""
    enter = ("nsenter", f"--net={netns}")
    run(*enter, "ip", "route", "del", "local", "127.0.0.0/8", "dev", "lo", "table", "local")
    run(*enter, "ip", "route", "del", "local", "127.0.0.1", "dev", "lo", "table", "local")
    run(*enter, "sysctl", "-qw", "net.ipv4.conf.eth0.route_localnet=1")
    run(*enter, "ip", "route", "add", "127.0.0.0/8", "via", router, "dev", "eth0")
    try:
        return not await refused(lab, netns, "127.0.0.1", port, patience=patience)
    finally:
        run(*enter, "ip", "route", "del", "127.0.0.0/8", "via", router, "dev", "eth0")
        run(*enter, "ip", "route", "add", "local", "127.0.0.0/8", "dev", "lo", "table", "local")
        run(*enter, "ip", "route", "add", "local", "127.0.0.1", "dev", "lo", "table", "local")


async def test_the_port_of_another_machine_is_not_taken(lab: Lab) -> None:
    """CVE-2025-67499: what only passes through the node keeps its destination."""
    await web(lab, WEB)
    other = await lab.pod(lab.networks[0], "other")
    await lab.serve(lab.outside, 8080)
    assert await lab.ask(other.netns, OUTSIDE4, 8080) == NODE4
    assert await lab.ask("", OUTSIDE4, 8080) == NODE4


DNS = pod.PortMapping(protocol=pod.Protocol.UDP, container_port=53, host_port=5353)


def datagrams(netns: str, *, port: int = 0, family: int = socket.AF_INET6) -> socket.socket:
    def make() -> socket.socket:
        made = socket.socket(family, socket.SOCK_DGRAM)
        made.setblocking(False)
        made.bind(("", port))
        return made

    return namespaces.inside({"net": netns}, make)


async def answered(client: socket.socket, server: socket.socket, address: str) -> str:
    """The client's address as the server sees it; "" if nothing comes."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(30):
            await loop.sock_sendto(client, b"question", (address, 5353))
            _, peer = await loop.sock_recvfrom(server, 100)
            await loop.sock_sendto(server, b"answer", peer)
            data, (source, *_) = await loop.sock_recvfrom(client, 100)
    except (TimeoutError, ConnectionRefusedError):
        return ""
    assert (data, source) == (b"answer", address)
    return str(peer[0]).removeprefix("::ffff:")


@pytest.mark.parametrize(
    ("family", "address", "caller"), [(socket.AF_INET, NODE4, OUTSIDE4), (socket.AF_INET6, NODE6, OUTSIDE6)]
)
async def test_a_udp_client_that_keeps_sending_finds_each_pod(lab: Lab, family: int, address: str, caller: str) -> None:
    """It keeps its flow while no pod has the port, and when another pod gets it."""
    net = await lab.start()
    with datagrams(lab.outside, family=family) as client:
        for round in range(2):
            client.sendto(b"nobody is there yet", (address, 5353))
            attachment = await lab.pod(net, f"p{round}", ports(DNS))
            with datagrams(attachment.netns, port=53) as server:
                assert await answered(client, server, address) == caller
                await net.detach(f"p{round}", attachment)
            with netlink.Socket(netlink.NETFILTER) as sock:
                left = conntrack.flows(sock, family, socket.IPPROTO_UDP, 5353)
            assert not {flow.server for flow in left} & set(attachment.ips)  # a later pod may get the address


async def test_sctp_is_an_element_too(lab: Lab) -> None:
    attachment = await web(lab, pod.PortMapping(protocol=pod.Protocol.SCTP, container_port=80, host_port=8080))
    assert host_ports()["any4"] == [[{"concat": ["sctp", 8080]}, {"concat": [attachment.ips[0], 80]}]]


async def test_a_port_is_given_once(lab: Lab) -> None:
    await web(lab, WEB)
    net = lab.networks[0]
    with pytest.raises(RopewalkError, match=r"tcp :8080 -> 81 is in use by pod web") as caught:
        net.plan("thief", ports(pod.PortMapping(container_port=81, host_port=8080)))
    assert caught.value.kind is Kind.STATE
    assert "thief" not in net._attached
    net.plan("udp", ports(pod.PortMapping(protocol=pod.Protocol.UDP, container_port=81, host_port=8080)))


async def test_a_flushed_rule_set_comes_back_with_a_restart(lab: Lab) -> None:
    attachment = await web(lab, WEB)
    before = run("nft", "list", "ruleset")
    run("nft", "flush", "ruleset")
    assert await refused(lab, lab.outside, NODE4, 8080)
    await lab.kill(lab.networks[0])
    again = lab.make()
    again.adopt({"web": attachment})
    await again.start()
    assert await lab.ask(lab.outside, NODE4, 8080) == OUTSIDE4
    assert run("nft", "list", "ruleset") == before


async def test_a_flushed_rule_set_is_repaired(lab: Lab, until: Until, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridged, "_WATCH", 0.05)
    await web(lab, WEB)
    run("nft", "flush", "ruleset")
    await until(lambda: INSTANCE in run("nft", "list", "tables"))
    assert await lab.ask(lab.outside, NODE4, 8080) == OUTSIDE4


async def test_stopping_works_without_the_table(lab: Lab) -> None:
    attachment = await web(lab, WEB)
    net = lab.networks[0]
    run("nft", "flush", "ruleset")
    await net.detach("web", attachment)
    await lab.pod(net, "next")  # writes the table again
    await lab.pod(net, "web2", ports(WEB))
    assert len(host_ports()["any4"]) == 1


async def test_other_rules_are_not_touched(lab: Lab) -> None:
    run("nft", "add", "table", "inet", "theirs")
    run("nft", "add", "chain", "inet", "theirs", "c", "{ type filter hook input priority 0; }")
    run("nft", "add", "rule", "inet", "theirs", "c", "tcp", "dport", "1", "drop")
    theirs = run("nft", "list", "table", "inet", "theirs")
    attachment = await web(lab, WEB)
    await lab.networks[0].detach("web", attachment)
    await lab.networks[0].close()
    assert run("nft", "list", "ruleset") == theirs


async def test_without_the_library_the_program_does_it(lab: Lab) -> None:
    net = lab.make()
    net._nft = nft.Nft(library="libnothing.so.0")
    await net.start()
    attachment = await lab.pod(net, "web", ports(WEB))
    await lab.serve(attachment.netns, 80)
    assert await lab.ask(lab.outside, NODE4, 8080) == OUTSIDE4
    await net.detach("web", attachment)
    assert host_ports()["any4"] == []
    assert (await net.sweep(), net.condition()[0]) == ([], True)
    assert BRIDGE in run("ip", "link")


async def test_without_library_and_program_the_node_is_not_ready(lab: Lab) -> None:
    net = lab.make()
    net._nft = nft.Nft(library="libnothing.so.0", program="no-such-nft")
    await net.start()
    ready, _, message = net.condition()
    assert not ready
    assert "install nftables" in message
