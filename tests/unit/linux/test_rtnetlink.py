"""Requests for links, addresses and routes, read by pyroute2, and the kernel's answers as pyroute2 writes them."""

from __future__ import annotations

import ipaddress
import socket
import struct
from typing import Any

import pytest
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from ropewalk.linux import netlink, rtnetlink


def read(kind: Any, data: bytes) -> Any:
    decoded = kind(data)
    decoded.decode()
    return decoded


def test_a_bridge() -> None:
    seen = read(ifinfmsg, rtnetlink.new_bridge("ropewalk0", mac=b"\2R\nX\0\1", mtu=1500))
    assert seen.get_attr("IFLA_IFNAME") == "ropewalk0"
    assert seen.get_attr("IFLA_ADDRESS") == "02:52:0a:58:00:01"
    assert seen.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_KIND") == "bridge"


def test_up_and_down() -> None:
    up = read(ifinfmsg, rtnetlink.link_up(5, mtu=1400))
    assert (up["index"], up["flags"], up["change"], up.get_attr("IFLA_MTU")) == (5, 1, 1, 1400)
    down = read(ifinfmsg, rtnetlink.link_down("rw0000aa"))
    assert (down["index"], down["flags"], down["change"], down.get_attr("IFLA_IFNAME")) == (0, 0, 1, "rw0000aa")


def test_a_link_is_deleted_by_name() -> None:
    seen = read(ifinfmsg, rtnetlink.delete_link("rw0000aa"))
    assert (seen["header"]["type"], seen["index"], seen.get_attr("IFLA_IFNAME")) == (17, 0, "rw0000aa")


@pytest.mark.parametrize(
    ("address", "family", "flags"), [("10.88.0.5/16", socket.AF_INET, None), ("fd00::5/64", socket.AF_INET6, 2)]
)
def test_an_address_is_usable_at_once(address: str, family: int, flags: int | None) -> None:
    seen = read(ifaddrmsg, rtnetlink.new_address(3, ipaddress.ip_interface(address)))
    local, _, length = address.partition("/")
    assert (seen["family"], seen["prefixlen"], seen["index"]) == (family, int(length), 3)
    assert (seen.get_attr("IFA_LOCAL"), seen.get_attr("IFA_ADDRESS")) == (local, local)
    assert seen.get_attr("IFA_FLAGS") == flags


@pytest.mark.parametrize("gateway", ["10.88.0.1", "fd00::1"])
def test_a_default_route(gateway: str) -> None:
    seen = read(rtmsg, rtnetlink.new_default_route(2, ipaddress.ip_address(gateway)))
    assert (seen["dst_len"], seen["table"], seen["type"]) == (0, 254, 1)
    assert (seen.get_attr("RTA_GATEWAY"), seen.get_attr("RTA_OIF")) == (gateway, 2)


def encoded(message: Any) -> bytes:
    """A message as the kernel would send it, without its header."""
    message.encode()
    return bytes(message.data)[16:]


def test_a_link_is_read() -> None:
    message = ifinfmsg()
    message.update({"index": 4, "flags": 1, "attrs": [["IFLA_IFNAME", "eth0"], ["IFLA_MTU", 1450], ["IFLA_MASTER", 9]]})
    link = rtnetlink.parse_link(encoded(message))
    assert link == rtnetlink.Link(index=4, name="eth0", flags=1, mtu=1450, master=9)
    message["attrs"].append(["IFLA_LINKINFO", {"attrs": [["IFLA_INFO_KIND", "bridge"]]}])
    assert rtnetlink.parse_link(encoded(message)).kind == "bridge"


def test_an_address_is_read() -> None:
    message = ifaddrmsg()
    message.update({"family": 2, "prefixlen": 16, "index": 3, "attrs": [["IFA_LOCAL", "10.88.0.5"]]})
    assert rtnetlink.parse_address(encoded(message)) == (3, ipaddress.ip_interface("10.88.0.5/16"))


def test_an_address_that_is_not_of_ip_is_none() -> None:
    mctp = struct.pack("=BBBBi", 45, 0, 0, 0, 3) + netlink.u8(2, 9)  # AF_MCTP, IFA_LOCAL
    assert rtnetlink.parse_address(mctp) is None


@pytest.mark.parametrize(
    ("fields", "attributes", "expected"),
    [
        ({"family": 2, "dst_len": 0, "table": 254, "proto": 3, "type": 1}, [["RTA_OIF", 2], ["RTA_PRIORITY", 100]],
         ("0.0.0.0/0", 2, 100, True, True, False)),
        ({"family": 10, "dst_len": 0, "table": 254, "proto": 9, "type": 1}, [["RTA_OIF", 3], ["RTA_PRIORITY", 1024]],
         ("::/0", 3, 1024, True, True, True)),
        ({"family": 2, "dst_len": 24, "table": 255, "proto": 2, "type": 2}, [["RTA_DST", "10.1.2.0"], ["RTA_OIF", 1]],
         ("10.1.2.0/24", 1, 0, False, False, False)),
    ],
)  # fmt: skip
def test_a_route_is_read(fields: dict[str, int], attributes: list[Any], expected: tuple[Any, ...]) -> None:
    message = rtmsg()
    message.update(fields | {"attrs": attributes})
    destination, interface, metric, unicast, main, advertised = expected
    assert rtnetlink.parse_route(encoded(message)) == rtnetlink.Route(
        destination=ipaddress.ip_network(destination),
        interface=interface,
        metric=metric,
        unicast=unicast,
        main=main,
        advertised=advertised,
    )


def test_routes_of_other_families_are_not_ours() -> None:
    message = rtmsg()
    message.update({"family": 128, "dst_len": 0})  # RTNL_FAMILY_IPMR
    assert rtnetlink.parse_route(encoded(message)) is None
