"""rtnetlink(7): the messages for links, addresses and routes. Requests are built as bytes and sent by netlink.Socket.

Layouts: include/uapi/linux/{if_link,if_addr,rtnetlink,veth}.h.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import sys
from collections.abc import Sequence

from msgspec import Struct

from ropewalk.linux import netlink

_NEWLINK, _DELLINK, _GETLINK, _SETLINK = 16, 17, 18, 19  # RTM_*
_NEWADDR, _GETADDR = 20, 22
_NEWROUTE, _GETROUTE = 24, 26
_GETSTATS = 94

_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, change
_ADDRESS = struct.Struct("=BBBBi")  # struct ifaddrmsg: family, prefix length, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # struct rtmsg: family, dst len, src len, tos, table, protocol, scope, type, flags
_STATS = struct.Struct("=BxHII")  # struct if_stats_msg: family, index, filter mask
_COUNTERS = struct.Struct("=8Q")  # the head of struct rtnl_link_stats64

UP = 0x1  # IFF_UP
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK = 1, 3, 4, 5
_IFLA_MASTER, _IFLA_PROTINFO, _IFLA_LINKINFO, _IFLA_AF_SPEC, _IFLA_NET_NS_FD = 10, 12, 18, 26, 28
_IFLA_EXT_MASK = 29
_SKIP_STATS = 8  # RTEXT_FILTER_SKIP_STATS
_INFO_KIND, _INFO_DATA = 1, 2
_VETH_INFO_PEER = 1
_INET6_ADDR_GEN_MODE, _ADDR_GEN_NONE = 8, 1
_BRPORT_MODE = 4  # IFLA_BRPORT_MODE, "hairpin"
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_IFA_NODAD = 0x2
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_MULTIPATH = 1, 4, 5, 6, 9
_TABLE_MAIN, _SCOPE_UNIVERSE, _UNICAST = 254, 0, 1
_PROTOCOL_KERNEL, _PROTOCOL_BOOT, _PROTOCOL_RA = 2, 3, 9
_CLONED, _ONLINK = 0x200, 0x4  # RTM_F_CLONED, RTNH_F_ONLINK
_STATS_LINK_64 = 1  # IFLA_STATS_LINK_64; its filter bit is 1 << 0

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Net = ipaddress.IPv4Network | ipaddress.IPv6Network


class Link(Struct, frozen=True):
    """`master`: index of the bridge it belongs to, 0 for none. `peer`: index of a veth's other end (in that end's
    namespace), or of the link below. `kind`: "bridge", "veth", ...; "" for hardware."""

    index: int
    name: str
    flags: int
    mtu: int
    master: int
    peer: int = 0
    kind: str = ""


class Route(Struct, frozen=True):
    """A route of any table. `interface`: the first hop's index, 0 if it has none; `unicast`: it leads somewhere (it is
    not the node's own address, nor a refusal); `main`: of the main table; `advertised`: learnt from a router."""

    destination: Net
    interface: int
    metric: int
    unicast: bool
    main: bool
    advertised: bool


class Counters(Struct, frozen=True):
    """A link's counters since it was made, as its own side sees them."""

    rx_packets: int
    tx_packets: int
    rx_bytes: int
    tx_bytes: int
    rx_errors: int
    tx_errors: int
    rx_dropped: int
    tx_dropped: int


def _family(address: Address | Interface | Net) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def new_bridge(name: str, *, mac: bytes, mtu: int) -> bytes:
    """A bridge, down, that keeps its hardware address whatever its ports are. EEXIST if there is one."""
    return netlink.message(
        _NEWLINK,
        _LINK.pack(0, 0, 0, 0, 0)
        + netlink.text(_IFLA_IFNAME, name)
        + netlink.attribute(_IFLA_ADDRESS, mac)
        + netlink.u32(_IFLA_MTU, mtu)
        + netlink.nested(_IFLA_LINKINFO, netlink.text(_INFO_KIND, "bridge")),
        flags=netlink.CREATE | netlink.EXCL,
    )


def new_veth(name: str, *, master: int, peer: str, peer_netns: int, peer_mac: bytes, mtu: int) -> bytes:
    """A pair, both down: `name` here, a port of the link `master`; `peer` in the namespace open as `peer_netns`."""
    end = (
        _LINK.pack(0, 0, 0, 0, 0)
        + netlink.text(_IFLA_IFNAME, peer)
        + netlink.attribute(_IFLA_ADDRESS, peer_mac)
        + netlink.u32(_IFLA_MTU, mtu)
        + netlink.u32(_IFLA_NET_NS_FD, peer_netns)
    )
    return netlink.message(
        _NEWLINK,
        _LINK.pack(0, 0, 0, 0, 0)
        + netlink.text(_IFLA_IFNAME, name)
        + netlink.u32(_IFLA_MTU, mtu)
        + netlink.u32(_IFLA_MASTER, master)
        + netlink.nested(
            _IFLA_LINKINFO,
            netlink.text(_INFO_KIND, "veth"),
            netlink.nested(_INFO_DATA, netlink.attribute(_VETH_INFO_PEER, end)),
        ),
        flags=netlink.CREATE | netlink.EXCL,
    )


def port_up(name: str) -> bytes:
    """Bring a bridge's port up without an IPv6 address of its own (the bridge has one, the port needs none)."""
    silent = netlink.nested(socket.AF_INET6, netlink.u8(_INET6_ADDR_GEN_MODE, _ADDR_GEN_NONE))
    return netlink.message(
        _NEWLINK,
        _LINK.pack(0, 0, 0, UP, UP) + netlink.text(_IFLA_IFNAME, name) + netlink.nested(_IFLA_AF_SPEC, silent),
    )


def join_bridge(index: int, bridge: int) -> bytes:
    """Make a link a port of a bridge."""
    return netlink.message(_SETLINK, _LINK.pack(0, 0, index, 0, 0) + netlink.u32(_IFLA_MASTER, bridge))


def hairpin(index: int) -> bytes:
    """Let a bridge send a frame back through the port that it came from."""
    return netlink.message(
        _SETLINK,
        _LINK.pack(socket.AF_BRIDGE, 0, index, 0, 0) + netlink.nested(_IFLA_PROTINFO, netlink.u8(_BRPORT_MODE, 1)),
    )


def link_up(index: int, *, mtu: int = 0) -> bytes:
    """`mtu` 0 leaves it."""
    changes = netlink.u32(_IFLA_MTU, mtu) if mtu else b""
    return netlink.message(_NEWLINK, _LINK.pack(0, 0, index, UP, UP) + changes)


def link_down(name: str) -> bytes:
    """ENODEV if there is none."""
    return netlink.message(_SETLINK, _LINK.pack(0, 0, 0, 0, UP) + netlink.text(_IFLA_IFNAME, name))


def delete_link(name: str) -> bytes:
    """ENODEV if there is none."""
    return netlink.message(_DELLINK, _LINK.pack(0, 0, 0, 0, 0) + netlink.text(_IFLA_IFNAME, name))


def new_address(index: int, address: Interface) -> bytes:
    """An address that is usable at once (IPv6: without duplicate detection). EEXIST if the link has it."""
    packed = address.packed
    flags = netlink.u32(_IFA_FLAGS, _IFA_NODAD) if address.version == 6 else b""
    return netlink.message(
        _NEWADDR,
        _ADDRESS.pack(_family(address), address.network.prefixlen, 0, 0, index)
        + netlink.attribute(_IFA_LOCAL, packed)
        + netlink.attribute(_IFA_ADDRESS, packed)
        + flags,
        flags=netlink.CREATE | netlink.EXCL,
    )


def new_default_route(index: int, gateway: Address) -> bytes:
    return netlink.message(
        _NEWROUTE,
        _ROUTE.pack(_family(gateway), 0, 0, 0, _TABLE_MAIN, _PROTOCOL_BOOT, _SCOPE_UNIVERSE, _UNICAST, 0)
        + netlink.attribute(_RTA_GATEWAY, gateway.packed)
        + netlink.u32(_RTA_OIF, index),
        flags=netlink.CREATE | netlink.EXCL,
    )


def new_route(body: bytes) -> bytes:
    """A route as `own_routes` has it; one with the same destination is replaced."""
    return netlink.message(_NEWROUTE, body, flags=netlink.CREATE | netlink.REPLACE)


def links(sock: netlink.Socket) -> list[Link]:
    """Every link of the socket's namespace."""
    request = netlink.message(_GETLINK, _LINK.pack(0, 0, 0, 0, 0) + netlink.u32(_IFLA_EXT_MASK, _SKIP_STATS))
    return [parse_link(body) for _, body in sock.dump(request)]


def link(sock: netlink.Socket, name: str) -> Link:
    """The link of that name; ENODEV if there is none."""
    skip = netlink.u32(_IFLA_EXT_MASK, _SKIP_STATS)
    request = _LINK.pack(0, 0, 0, 0, 0) + netlink.text(_IFLA_IFNAME, name) + skip
    return parse_link(sock.get(netlink.message(_GETLINK, request)))


def parse_link(body: bytes) -> Link:
    _, _, index, flags, _ = _LINK.unpack_from(body)
    found = netlink.attributes(body, _LINK.size)
    return Link(
        index=index,
        name=_string(found.get(_IFLA_IFNAME, b"")),
        flags=flags,
        mtu=_number(found.get(_IFLA_MTU, b"")),
        master=_number(found.get(_IFLA_MASTER, b"")),
        peer=_number(found.get(_IFLA_LINK, b"")),
        kind=_string(netlink.attributes(found.get(_IFLA_LINKINFO, b"")).get(_INFO_KIND, b"")),
    )


def addresses(sock: netlink.Socket) -> list[tuple[int, Interface]]:
    """Every IP address of the socket's namespace, with its link's index."""
    bodies = sock.dump(netlink.message(_GETADDR, _ADDRESS.pack(0, 0, 0, 0, 0)))
    return [address for _, body in bodies if (address := parse_address(body)) is not None]


def parse_address(body: bytes) -> tuple[int, Interface] | None:
    """None for one of another family: MCTP's and Phonet's are of one byte."""
    family, length, _, _, index = _ADDRESS.unpack_from(body)
    parts = netlink.attributes(body, _ADDRESS.size)
    packed = parts.get(_IFA_LOCAL) or parts.get(_IFA_ADDRESS)
    if not packed or family not in (socket.AF_INET, socket.AF_INET6):
        return None
    return index, ipaddress.ip_interface((packed, length))


def routes(sock: netlink.Socket) -> list[Route]:
    """Every route of the socket's namespace, of all tables, those of its own addresses too."""
    request = netlink.message(_GETROUTE, _ROUTE.pack(0, 0, 0, 0, 0, 0, 0, 0, 0))
    return [route for _, body in sock.dump(request) if (route := parse_route(body)) is not None]


def own_routes(sock: netlink.Socket) -> list[bytes]:
    """Bodies of the unicast routes of the main table that somebody made, not the kernel by itself: those without a
    gateway first, because the others lead through them."""
    found = []
    for _, body in sock.dump(netlink.message(_GETROUTE, _ROUTE.pack(0, 0, 0, 0, 0, 0, 0, 0, 0))):
        *head, flags = _ROUTE.unpack_from(body)
        _, _, _, _, table, protocol, _, kind = head
        made = protocol not in (_PROTOCOL_KERNEL, _PROTOCOL_RA) and not flags & _CLONED
        if made and table == _TABLE_MAIN and kind == _UNICAST:  # the kernel takes no flags that tell of the link
            found.append(_ROUTE.pack(*head, flags & _ONLINK) + body[_ROUTE.size :])
    return sorted(found, key=lambda body: _RTA_GATEWAY in netlink.attributes(body, _ROUTE.size))


def parse_route(body: bytes) -> Route | None:
    family, length, _, _, table, protocol, _, kind, _ = _ROUTE.unpack_from(body)
    if family not in (socket.AF_INET, socket.AF_INET6):
        return None
    parts = netlink.attributes(body, _ROUTE.size)
    packed = parts.get(_RTA_DST) or bytes(4 if family == socket.AF_INET else 16)
    interface = _number(parts.get(_RTA_OIF, b""))
    hops = parts.get(_RTA_MULTIPATH, b"")
    if not interface and len(hops) >= 8:  # struct rtnexthop: length, flags, hops, index
        (interface,) = struct.unpack_from("=4xi", hops)
    return Route(
        destination=ipaddress.ip_network((packed, length), strict=False),
        interface=interface,
        metric=_number(parts.get(_RTA_PRIORITY, b"")),
        unicast=kind == _UNICAST,
        main=table == _TABLE_MAIN,
        advertised=protocol == _PROTOCOL_RA,
    )


def counters(sock: netlink.Socket) -> dict[int, Counters]:
    """The counters of every link, by index: far smaller than a dump of the links (RTM_GETSTATS, Linux 4.7)."""
    found = {}
    for _, body in sock.dump(netlink.message(_GETSTATS, _STATS.pack(0, 0, 0, 1 << (_STATS_LINK_64 - 1)))):
        _, _, index, _ = _STATS.unpack_from(body)
        numbers = netlink.attributes(body, _STATS.size).get(_STATS_LINK_64, b"")
        if len(numbers) >= _COUNTERS.size:
            found[index] = Counters(*_COUNTERS.unpack_from(numbers))
    return found


def change(sock: netlink.Socket, requests: Sequence[bytes], *, ignore: int) -> None:
    """Send requests of which one may already be done: outcome `ignore` (an errno) is success."""
    for error in sock.change(requests):
        if error is not None and error.errno != ignore:
            raise error


def _string(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


def _number(value: bytes) -> int:
    return int.from_bytes(value, sys.byteorder)
