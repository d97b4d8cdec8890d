"""Addresses and routes of a network namespace are put back as they were."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from pathlib import Path

import pytest

from ropewalk.linux import addressing, namespaces, netlink, rtnetlink

ADDRESSES = ("10.9.0.2/24", "fd09::2/64")
GATEWAYS = ("10.9.0.1", "fd09::1")


@pytest.fixture
def pin(tmp_path: Path) -> Iterator[str]:
    """With a link that has addresses, default routes, and a route without a gateway; as Calico makes them."""
    path = str(tmp_path / "net")
    namespaces.make(["net"], {"net": path})
    namespaces.inside({"net": path}, furnish)
    yield path
    namespaces.unpin(path)


def furnish() -> None:
    with netlink.Socket() as sock:
        sock.apply([rtnetlink.new_bridge("dummy", mac=b"\2R\1\2\3\4", mtu=1500)])
        index = rtnetlink.link(sock, "dummy").index
        sock.apply([rtnetlink.link_up(index)])
        sock.apply([rtnetlink.new_address(index, ipaddress.ip_interface(one)) for one in ADDRESSES])
        sock.apply([rtnetlink.new_default_route(index, ipaddress.ip_address(one)) for one in GATEWAYS])


def strip() -> None:
    """What a Sentry does: the link loses its addresses, so the kernel takes the routes."""
    with netlink.Socket() as sock:
        rtnetlink.change(sock, [rtnetlink.link_down("dummy")], ignore=0)
        for index, address in rtnetlink.addresses(sock):
            sock.apply([delete_address(index, address)])
        sock.apply([rtnetlink.link_up(rtnetlink.link(sock, "dummy").index)])


def delete_address(index: int, address: rtnetlink.Interface) -> bytes:
    return netlink.message(21, rtnetlink.new_address(index, address)[16:])  # RTM_DELADDR, without nlmsghdr


def seen() -> tuple[set[str], set[str]]:
    with netlink.Socket() as sock:
        addresses = {str(address) for _, address in rtnetlink.addresses(sock)}
        return addresses, {str(route.destination) for route in rtnetlink.routes(sock) if route.main and route.unicast}


def test_addresses_and_routes_come_back(pin: str) -> None:
    inside = {"net": pin}
    before = namespaces.inside(inside, seen)
    noted = namespaces.inside(inside, addressing.read)
    assert before[0] >= set(ADDRESSES)
    assert before[1] >= {"0.0.0.0/0", "::/0"}
    namespaces.inside(inside, strip)
    stripped = namespaces.inside(inside, seen)
    assert not stripped[0] & set(ADDRESSES)
    assert not stripped[1] & {"0.0.0.0/0", "::/0"}
    for _ in range(2):  # the second time nothing is to be done
        namespaces.inside(inside, lambda: addressing.write(noted))
        after = namespaces.inside(inside, seen)
        assert after[0] >= set(ADDRESSES)
        assert after[1] >= before[1]
