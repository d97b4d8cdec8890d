"""The built-in network on a real kernel: what `ip` and `nft` say, and what gets through."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import resource
import socket
from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from ropewalk.errors import Invalid, Kind, RopewalkError
from ropewalk.linux import namespaces, rtnetlink
from ropewalk.network import bridged, firewall, ipam
from ropewalk.spec import pod
from tests.node.network.lab import BRIDGE, INSTANCE, UPLINK_MTU, Lab, ip, nft, run

Until = Callable[..., Any]


async def test_a_pod_gets_a_link_addresses_and_routes(lab: Lab) -> None:
    net = await lab.start()
    attachment = await lab.pod(net, "p1")

    (link,) = ip("-d", "link", "show", "dev", "eth0", netns=attachment.netns)
    assert link["operstate"] == "UP"
    assert link["mtu"] == UPLINK_MTU
    assert link["address"] == attachment.mac
    (loopback,) = ip("link", "show", "dev", "lo", netns=attachment.netns)
    assert "UP" in loopback["flags"]
    (shown,) = ip("address", "show", "dev", "eth0", netns=attachment.netns)
    given = [f"{a['local']}/{a['prefixlen']}" for a in shown["addr_info"] if a["scope"] == "global"]
    assert given == attachment.addresses
    assert not any(a.get("tentative") for a in shown["addr_info"] if a["scope"] == "global")
    for family, gateway in zip(("-4", "-6"), attachment.gateways, strict=True):
        (route,) = ip(family, "route", "show", "default", netns=attachment.netns)
        assert (route["gateway"], route["dev"]) == (gateway, "eth0")

    (port,) = ip("-d", "link", "show", "dev", attachment.host_interface)
    assert (port["master"], port["operstate"]) == (BRIDGE, "UP")
    assert port["linkinfo"]["info_slave_data"]["hairpin"] is True
    assert "PROMISC" not in ip("link", "show", "dev", BRIDGE)[0]["flags"]
    (silent,) = ip("address", "show", "dev", attachment.host_interface)
    assert silent["addr_info"] == []


async def test_the_node_settings_are_those_that_forwarding_needs(lab: Lab) -> None:
    net = await lab.start()
    attachment = await lab.pod(net, "p1")

    def setting(name: str) -> str:
        with open(f"/proc/sys/net/{name}") as file:
            return file.read().strip()

    assert setting("ipv4/ip_forward") == "1"
    assert setting("ipv6/conf/all/forwarding") == "1"
    assert setting(f"ipv4/conf/{BRIDGE}/route_localnet") == "1"
    assert setting("ipv4/conf/uplink/route_localnet") == "0"
    assert setting(f"ipv6/conf/{BRIDGE}/accept_ra") == "0"
    inside = namespaces.inside({"net": attachment.netns}, lambda: setting("ipv6/conf/eth0/accept_ra"))
    assert inside == "0"  # CVE-2020-10749


async def test_pods_reach_each_other_the_node_and_outside(lab: Lab) -> None:
    net = await lab.start()
    one, two = await lab.pod(net, "p1"), await lab.pod(net, "p2")
    await lab.serve(two.netns, 80)
    await lab.serve(lab.outside, 80)
    for family, (node, outside) in enumerate((("203.0.113.1", "203.0.113.2"), ("2001:db8::1", "2001:db8::2"))):
        assert await lab.ask(one.netns, two.ips[family], 80) == one.ips[family]
        assert await lab.ask("", two.ips[family], 80) == two.gateways[family]
        assert await lab.ask(one.netns, outside, 80) == node  # masqueraded


async def test_without_ipv6_a_pod_has_none_at_all(lab: Lab) -> None:
    net = await lab.start(subnet6=ipam.NO_IPV6)
    attachment = await lab.pod(net, "p1")
    assert len(attachment.addresses) == 1
    (shown,) = ip("address", "show", "dev", "eth0", netns=attachment.netns)
    assert {a["family"] for a in shown["addr_info"]} == {"inet"}  # not even a link-local one (CVE-2024-32473)


async def test_an_address_rests_until_its_link_is_gone(lab: Lab, until: Until) -> None:
    net = await lab.start(subnet="10.99.0.0/29")  # room for five pods
    pods = {f"p{n}": await lab.pod(net, f"p{n}") for n in range(5)}
    with pytest.raises(RopewalkError, match=r"10\.99\.0\.0/29") as caught:
        net.plan("one too many", pod.PodSpec())
    assert caught.value.kind is Kind.EXHAUSTED

    gone = pods["p2"]
    held = namespaces.inside({"net": gone.netns}, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with held:  # a socket of the pod outlives it, and with it the namespace and the link
        await net.detach("p2", gone)
        assert not os.path.exists(gone.netns)
        (link,) = ip("link", "show", "dev", gone.host_interface)
        assert "UP" not in link["flags"]
        with pytest.raises(ipam.Exhausted):
            net.plan("too early", pod.PodSpec())
        await until(lambda: gone.host_interface not in links())  # deleted explicitly
    await until(lambda: "p2" not in net._leaving)
    assert net.plan("p5", pod.PodSpec()).addresses[0] == gone.addresses[0]


def links() -> set[str]:
    return {link["ifname"] for link in ip("link", "show")}


async def test_detach_is_idempotent_and_leaves_nothing(lab: Lab, until: Until) -> None:
    net = await lab.start()
    attachment = await lab.pod(net, "p1")
    for _ in range(3):
        await net.detach("p1", attachment)
    await until(lambda: attachment.host_interface not in links())
    await net.detach("p1", attachment)
    await net.close()
    assert links() == {"lo", "uplink"}
    assert nft("list", "tables") == nft("list", "tables")[:1]  # only nft's own line about itself
    assert os.listdir(lab.pins) == []


async def test_a_plan_that_never_was_attached_is_undone(lab: Lab) -> None:
    net = await lab.start(subnet="10.99.0.0/30")
    planned = net.plan("p1", pod.PodSpec())
    assert net.plan("p1", pod.PodSpec()) is planned
    await net.detach("p1", planned)
    assert net.plan("p2", pod.PodSpec()).addresses[0] == planned.addresses[0]


async def test_a_half_made_attachment_is_undone(lab: Lab, until: Until) -> None:
    net = await lab.start()
    planned = net.plan("p1", pod.PodSpec())
    run("ip", "link", "add", planned.host_interface, "type", "bridge")  # in the way
    with pytest.raises(OSError, match="File exists"):
        await net.attach("p1", planned, pod.PodSpec())
    await net.detach("p1", planned)
    assert not os.path.exists(planned.netns)
    await until(lambda: planned.host_interface not in links())


async def test_what_a_kill_leaves_is_swept_and_what_is_owned_stays(lab: Lab, until: Until) -> None:
    first = await lab.start(subnet="10.99.0.0/24")
    mapping = pod.PortMapping(container_port=80, host_port=8080)
    kept = await lab.pod(first, "kept", pod.PodSpec(port_mappings=[mapping]))
    lost = await lab.pod(first, "lost", pod.PodSpec(port_mappings=[pod.PortMapping(container_port=80, host_port=8081)]))
    foreign = [f"{lab.pins}/ropewalk-0123456789ab", f"{lab.pins}/{INSTANCE}-other"]  # not this instance's names
    for path in foreign:
        namespaces.make(["net"], {"net": path})
    await lab.kill(first)

    second = lab.make(subnet="10.99.0.0/24")
    second.adopt({"kept": kept})
    await second.start()
    found = await second.sweep()
    assert {lost.host_interface, lost.netns} <= set(found)
    assert kept.host_interface not in found
    assert kept.netns not in found
    await until(lambda: lost.host_interface not in links())
    assert os.path.exists(kept.netns)
    assert not os.path.exists(lost.netns)
    assert all(os.path.exists(path) for path in foreign)
    await lab.serve(kept.netns, 80)
    assert await lab.ask(lab.outside, "203.0.113.1", 8080) == "203.0.113.2"
    with pytest.raises(ConnectionRefusedError):
        await lab.ask(lab.outside, "203.0.113.1", 8081)
    assert second.plan("p3", pod.PodSpec()).addresses[0] != kept.addresses[0]
    with pytest.raises(RopewalkError, match="8080"):
        second.plan("p4", pod.PodSpec(port_mappings=[mapping]))
    assert await second.sweep() == []


async def test_two_instances_do_not_meet(lab: Lab) -> None:
    one, two = await lab.start(), await lab.start(instance="ropewalk-cafe", tag="cafe")
    here, there = await lab.pod(one, "p"), await lab.pod(two, "p")
    networks = [ipaddress.ip_interface(a).network for a in (*here.addresses, *there.addresses)]
    assert not networks[0].overlaps(networks[2])
    assert not networks[1].overlaps(networks[3])
    assert await one.sweep() == []
    assert await two.sweep() == []
    await lab.serve(lab.outside, 80)
    for attachment in (here, there):
        assert await lab.ask(attachment.netns, "203.0.113.2", 80) == "203.0.113.1"


async def test_a_subnet_that_the_node_routes_already_is_avoided(lab: Lab) -> None:
    run("ip", "route", "add", "10.88.4.0/24", "via", "203.0.113.2")
    net = await lab.start(instance="ropewalk", tag="0000")
    address = net.plan("p", pod.PodSpec()).addresses[0]
    assert address.startswith("10.")
    assert not address.startswith("10.88.")


async def test_a_restarted_instance_keeps_its_subnet(lab: Lab) -> None:
    first = await lab.start(instance="ropewalk", tag="0000")
    kept = await lab.pod(first, "p")
    assert kept.addresses[0].endswith("/16")
    await lab.kill(first)
    second = lab.make(instance="ropewalk", tag="0000")
    second.adopt({"p": kept})
    await second.start()
    assert second.plan("q", pod.PodSpec()).gateways == kept.gateways


async def test_pod_cidr_is_for_later_pods(lab: Lab) -> None:
    net = await lab.start()
    before = await lab.pod(net, "before")
    net.set_pod_cidr("10.77.0.0/24,fd77::/64")
    after = await lab.pod(net, "after")
    assert after.addresses == ["10.77.0.2/24", "fd77::2/64"]
    await lab.serve(lab.outside, 80)
    for attachment in (before, after):
        assert await lab.ask(attachment.netns, "203.0.113.2", 80) == "203.0.113.1"
    await lab.serve(before.netns, 80)
    assert await lab.ask(after.netns, before.ips[0], 80) in (after.ips[0], before.gateways[0])
    with pytest.raises(Invalid, match="pod CIDR"):
        net.set_pod_cidr("nonsense")


async def test_an_explicit_subnet_wins_over_pod_cidr(lab: Lab) -> None:
    net = await lab.start(subnet="10.99.0.0/24")
    net.set_pod_cidr("10.77.0.0/24")
    assert net.plan("p", pod.PodSpec()).addresses[0] == "10.99.0.2/24"


async def test_statistics_are_the_pods_own_side(lab: Lab) -> None:
    net = await lab.start()
    attachment = await lab.pod(net, "p")
    await lab.serve(lab.outside, 80)
    await lab.ask(attachment.netns, "203.0.113.2", 80)
    (stats,) = await net.stats(attachment)
    (shown,) = ip("-s", "link", "show", "dev", "eth0", netns=attachment.netns)
    assert stats.name == "eth0"
    assert 0 < stats.tx_bytes <= shown["stats64"]["tx"]["bytes"]
    assert 0 < stats.rx_bytes <= shown["stats64"]["rx"]["bytes"]
    await net.detach("p", attachment)
    assert await net.stats(net.plan("q", pod.PodSpec())) == []


@pytest.mark.parametrize(
    "rules",
    [
        ["iptables-nft -P FORWARD DROP"],
        ["iptables-legacy -P FORWARD DROP"],
        ["nft add table inet theirs", "nft add chain inet theirs f {type filter hook forward priority 0;policy drop;}"],
    ],
)
async def test_a_forward_policy_of_drop_is_said_until_a_rule_lets_pods_through(lab: Lab, rules: list[str]) -> None:
    for rule in rules:
        words, _, block = rule.partition(" {")
        run(*words.split(), *([f"{{{block}"] if block else []))
    net = await lab.start()
    ready, _, message = net.condition()
    assert ready
    assert "drops forwarded packets" in message
    for command in message.partition("let pods through with: ")[2].split("; "):
        run(*command.split())
    net._look_at_others()
    assert net.condition() == (True, "", "")
    attachment = await lab.pod(net, "p")
    await lab.serve(lab.outside, 80)
    assert await lab.ask(attachment.netns, "203.0.113.2", 80) == "203.0.113.1"


async def test_a_network_that_cannot_be_set_up_is_said_and_refuses_pods(lab: Lab) -> None:
    net = lab.make(subnet="10.99.0.0/33")
    await net.start()
    ready, reason, message = net.condition()
    assert (ready, reason) == (False, "NetworkPluginNotReady")
    assert "10.99.0.0/33" in message
    with pytest.raises(RopewalkError) as caught:
        net.plan("p", pod.PodSpec())
    assert caught.value.kind is Kind.UNAVAILABLE


async def test_ready_namespaces_are_refilled_and_given_back(lab: Lab, until: Until) -> None:
    net = await lab.start(ready=2)
    await until(lambda: len(net._namespaces._free) == 2)
    ready = set(net._namespaces._free)
    assert await net.sweep() == []
    assert {net.plan(f"p{n}", pod.PodSpec()).netns for n in range(2)} == ready
    await until(lambda: len(net._namespaces._free) == 2)
    assert len(os.listdir(lab.pins)) == 4


async def test_links_have_the_mtu_that_the_setting_says(lab: Lab) -> None:
    net = await lab.start(mtu=1400)
    attachment = await lab.pod(net, "p")
    for name, netns in ((BRIDGE, ""), (attachment.host_interface, ""), ("eth0", attachment.netns)):
        (link,) = ip("link", "show", "dev", name, netns=netns)
        assert link["mtu"] == 1400
    assert rtnetlink.link(net._sock(), BRIDGE).mtu == 1400


async def test_without_a_free_descriptor_no_link_counts_as_gone(lab: Lab, until: Until) -> None:
    """Its address would be another pod's while it is still there, and nobody would delete it."""
    net = await lab.start()
    gone = await lab.pod(net, "p")
    held = namespaces.inside({"net": gone.netns}, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        with held, contextlib.ExitStack() as free:
            resource.setrlimit(resource.RLIMIT_NOFILE, (512, limits[1]))
            with contextlib.suppress(OSError):
                while True:
                    free.callback(os.close, os.open("/dev/null", os.O_RDONLY))
            await net.detach("p", gone)
            await net._reap_once()
            assert "p" in net._leaving
            free.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            (link,) = ip("link", "show", "dev", gone.host_interface)
            assert "UP" not in link["flags"]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    await until(lambda: "p" not in net._leaving)
    assert gone.host_interface not in links()


async def test_a_bridge_that_was_deleted_comes_back(lab: Lab, until: Until, monkeypatch: pytest.MonkeyPatch) -> None:
    """And with it the network of the pods that were there."""
    monkeypatch.setattr(bridged, "_WATCH", 0.05)
    net = await lab.start()
    old = await lab.pod(net, "old")
    await lab.serve(old.netns, 80)
    run("ip", "link", "delete", BRIDGE)
    await until(lambda: BRIDGE in links())
    new = await lab.pod(net, "new")
    assert await lab.ask("", old.ips[0], 80) == new.gateways[0]
    assert await lab.ask(new.netns, old.ips[0], 80) == new.ips[0]


async def test_pods_of_a_deleted_bridge_are_connected_after_a_restart(lab: Lab) -> None:
    first = await lab.start()
    attachment = await lab.pod(first, "p")
    await lab.serve(attachment.netns, 80)
    await lab.kill(first)
    run("ip", "link", "delete", BRIDGE)
    again = lab.make()
    again.adopt({"p": attachment})
    await again.start()
    assert await lab.ask("", attachment.ips[0], 80) == attachment.gateways[0]


async def test_a_link_that_is_no_bridge_is_left_alone(lab: Lab) -> None:
    net = lab.make(bridge="uplink", subnet="10.99.0.0/24", mtu=1300)
    before = ip("address", "show", "dev", "uplink")
    await net.start()
    assert "network.bridge = 'uplink' is a link of this node that is no bridge" in net.condition()[2]
    assert ip("address", "show", "dev", "uplink") == before


async def test_a_look_at_others_rules_that_fails_keeps_no_pod_waiting(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """EAGAIN is what legacy iptables says when its table changed between the question for its size and the other."""

    def changed(*_: Any) -> NoReturn:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(firewall, "forward_blocks", changed)
    await lab.start()
    assert "cannot look at other people's packet filters" in caplog.text
