"""The bridge, its ports, and the node's settings that forwarding needs."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import socket
from collections.abc import Collection, Iterable, Sequence

from ropewalk.errors import Invalid
from ropewalk.linux import netlink, rtnetlink, thread
from ropewalk.network import ipam

log = logging.getLogger(__name__)

_SYSCTL = "/proc/sys/net"
_DEFAULT_MTU = 1500


def uplink_mtu(sock: netlink.Socket) -> int:
    """The MTU of the link that the default route leaves by; IPv4's if there is one, 1500 without any."""
    defaults = [
        route
        for route in rtnetlink.routes(sock)
        if route.destination.prefixlen == 0 and route.interface and route.unicast and route.main
    ]
    if not defaults:
        return _DEFAULT_MTU
    best = min(defaults, key=lambda route: (route.destination.version, route.metric))
    return next((link.mtu for link in rtnetlink.links(sock) if link.index == best.interface), _DEFAULT_MTU)


def routed(sock: netlink.Socket, *, but: int) -> list[rtnetlink.Net]:
    """What this node has routes to, other than by the link `but` (an index, 0 for none)."""
    return [route.destination for route in rtnetlink.routes(sock) if route.interface != but or not but]


def subnets_of(sock: netlink.Socket, index: int) -> dict[int, ipam.Net]:
    """The subnets of a bridge's addresses by IP version; of several, the one that was added last."""
    return {
        address.version: address.network
        for link, address in rtnetlink.addresses(sock)
        if link == index and not address.is_link_local
    }


def find(name: str) -> int:
    """A link's index, 0 if there is none of that name, or no descriptor left to ask with."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0


def exists(sock: netlink.Socket, name: str) -> bool:
    """Whether there is a link of that name; surely, since the next use of its address hangs on the answer."""
    try:
        rtnetlink.link(sock, name)
    except netlink.NetlinkError as error:
        if error.errno != errno.ENODEV:
            raise
        return False
    return True


def ensure(sock: netlink.Socket, name: str, *, mtu: int, gateways: Sequence[rtnetlink.Interface]) -> int:
    """The bridge, up, with at least these addresses; its index. One that is there already stays. Invalid for a link of
    another kind, of which nothing is changed."""
    mac = ipam.hardware_address(gateways[0].ip)
    rtnetlink.change(sock, [rtnetlink.new_bridge(name, mac=mac, mtu=mtu)], ignore=errno.EEXIST)
    found = rtnetlink.link(sock, name)
    if found.kind != "bridge":
        raise Invalid(f"network.bridge = {name!r} is a link of this node that is no bridge", hint="give another name")
    index = found.index
    # In here alone 127.0.0.0/8 may leave by a link; firewall.py's guard keeps it from coming in (CVE-2020-8558).
    write_sysctl(f"ipv4/conf/{name}/route_localnet", "1")
    if os.path.isdir(f"{_SYSCTL}/ipv6"):
        write_sysctl(f"ipv6/conf/{name}/accept_ra", "0")
        # With duplicate detection the link-local address, which asks for pods' hardware addresses, would be unusable
        # for a second after the first pod's arrival.
        write_sysctl(f"ipv6/conf/{name}/accept_dad", "0")
    sock.apply([rtnetlink.link_up(index, mtu=mtu)])
    add_gateways(sock, index, gateways)
    return index


def add_gateways(sock: netlink.Socket, index: int, gateways: Iterable[rtnetlink.Interface]) -> None:
    """Addresses of the bridge; those it has stay."""
    rtnetlink.change(sock, [rtnetlink.new_address(index, gateway) for gateway in gateways], ignore=errno.EEXIST)


def take_back(sock: netlink.Socket, bridge: int, ports: Collection[str]) -> None:
    """Ports that lost their bridge, because somebody deleted it, are ports of this one."""
    for link in rtnetlink.links(sock):
        if link.name in ports and link.master != bridge:
            sock.apply([rtnetlink.join_bridge(link.index, bridge), rtnetlink.hairpin(link.index)])


def allow_forwarding(sock: netlink.Socket, *, ipv6: bool) -> None:
    """Make the node a router, if it is not one yet. A router ignores router advertisements unless a link's accept_ra
    is 2; where the node has routes from them it becomes 2 first, so that it keeps these routes."""
    if read_sysctl("ipv4/ip_forward") == "0":
        write_sysctl("ipv4/ip_forward", "1")
        log.warning("IPv4 forwarding was off and is on now", extra={"sysctl": "net.ipv4.ip_forward"})
    if not ipv6 or read_sysctl("ipv6/conf/all/forwarding") != "0":
        return
    for index in {route.interface for route in rtnetlink.routes(sock) if route.advertised and route.interface}:
        name = socket.if_indextoname(index)
        if read_sysctl(f"ipv6/conf/{name}/accept_ra") == "1":
            write_sysctl(f"ipv6/conf/{name}/accept_ra", "2")
            log.info("router advertisements stay accepted", extra={"sysctl": f"net.ipv6.conf.{name}.accept_ra"})
    write_sysctl("ipv6/conf/all/forwarding", "1")
    log.warning("IPv6 forwarding was off and is on now", extra={"sysctl": "net.ipv6.conf.all.forwarding"})


def has_ipv6() -> bool:
    """Whether this node's kernel has IPv6 and it is not switched off."""
    try:
        return read_sysctl("ipv6/conf/all/disable_ipv6") == "0"
    except FileNotFoundError:
        return False


def connect(sock: netlink.Socket, bridge: int, port: str, *, netns: str, interface: str, mac: bytes, mtu: int) -> None:
    """A pair from the bridge's `port` to `interface` in the namespace pinned at `netns`; the port is up."""
    fd = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    try:
        pair = rtnetlink.new_veth(port, master=bridge, peer=interface, peer_netns=fd, peer_mac=mac, mtu=mtu)
        sock.apply([pair])
    finally:
        os.close(fd)
    sock.apply([rtnetlink.port_up(port), rtnetlink.hairpin(socket.if_nametoindex(port))])


def configure(inside: netlink.Socket, interface: str, addresses: Iterable[str], gateways: Iterable[str]) -> None:
    """The pod's end, by a socket of its namespace: up, addresses, default routes; one batch."""
    index = rtnetlink.link(inside, interface).index  # not always 2: some modules put links into each new namespace
    inside.apply(
        [
            rtnetlink.link_up(index),
            *(rtnetlink.new_address(index, ipaddress.ip_interface(address)) for address in addresses),
            *(rtnetlink.new_default_route(index, ipaddress.ip_address(gateway)) for gateway in gateways),
        ]
    )


def cut(sock: netlink.Socket, port: str) -> bool:
    """Take a port down, so that its pod hears and says nothing more; False if it is gone."""
    try:
        sock.apply([rtnetlink.link_down(port)])
    except netlink.NetlinkError as error:
        if error.errno != errno.ENODEV:
            raise
        return False
    return True


async def delete(names: Sequence[str]) -> None:
    """Delete links; absent ones are fine. 20 ms each in the kernel and longer where something holds one, hence a
    thread of its own (one that is stuck does not hold up the exit)."""

    if not names:
        return
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Exception | None] = loop.create_future()

    def settle(failed: Exception | None) -> None:
        if not done.done():
            done.set_result(failed)

    def body() -> None:
        failed: Exception | None = None
        try:
            with netlink.Socket() as sock:
                rtnetlink.change(sock, [rtnetlink.delete_link(name) for name in names], ignore=errno.ENODEV)
        except Exception as error:
            failed = error
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, failed)

    thread.Thread(body)
    if (failed := await done) is not None:
        raise failed


def read_sysctl(name: str) -> str:
    """`name` below /proc/sys/net."""
    with open(f"{_SYSCTL}/{name}") as file:
        return file.read().strip()


def write_sysctl(name: str, value: str) -> None:
    """Unchanged if it has the value already (some nodes have /proc/sys read-only)."""
    if read_sysctl(name) != value:
        with open(f"{_SYSCTL}/{name}", "w") as file:
            file.write(value)
