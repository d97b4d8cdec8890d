"""The addresses and routes of a network namespace, taken down and put back.

Something that brings its own network stack (gVisor's Sentry) takes them off the links that it serves; whoever makes
another one there has to put them back first.
"""

from __future__ import annotations

import ipaddress

from msgspec import Struct

from ropewalk.linux import netlink, rtnetlink


class Addressing(Struct, frozen=True):
    """`addresses`: link index and address with prefix length. `routes`: bodies of RTM_NEWROUTE, those without a gateway
    first. What the kernel makes by itself of an address is not among them."""

    addresses: list[tuple[int, str]]
    routes: list[bytes]


def read() -> Addressing:
    """Of the calling thread's network namespace."""
    with netlink.Socket() as sock:
        found = [(index, str(address)) for index, address in rtnetlink.addresses(sock)]
        return Addressing(found, rtnetlink.own_routes(sock))


def write(wanted: Addressing) -> None:
    """Likewise; what is there already stays. OSError if a link is gone."""
    with netlink.Socket() as sock:
        there = set(rtnetlink.addresses(sock))
        addresses = [(index, ipaddress.ip_interface(address)) for index, address in wanted.addresses]
        requests = [rtnetlink.new_address(*one) for one in addresses if one not in there]
        requests += [rtnetlink.new_route(body) for body in wanted.routes]
        if requests:
            sock.apply(requests)
