"""Connection tracking by netlink: the flows to a port, and forgetting them.

NAT is decided by a flow's first packet. A UDP flow lives as long as somebody keeps sending, so flows that began before
a host port was there, or lead to a pod that has gone, must be forgotten. Layout:
include/uapi/linux/netfilter/nfnetlink_conntrack.h. The kernel filters the dump (CTA_FILTER, Linux 5.8).
"""

from __future__ import annotations

import errno
import ipaddress
import struct
from collections.abc import Iterable
from typing import NamedTuple

from ropewalk.linux import netlink

_GET, _DELETE = 1 << 8 | 1, 1 << 8 | 2  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_*
_GENERIC = struct.Struct(">BBH")  # struct nfgenmsg
_ORIGINAL, _REPLY, _FILTER = 1, 2, 25  # CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_FILTER
_FILTER_ORIGINAL, _FILTER_REPLY = 1, 2  # CTA_FILTER_*_FLAGS
_BY_PROTOCOL, _BY_DESTINATION_PORT = 1 << 3, 1 << 5  # CTA_FILTER_F_CTA_PROTO_*
_IP, _PROTOCOL = 1, 2  # CTA_TUPLE_*
_NUMBER, _DESTINATION_PORT = 1, 3  # CTA_PROTO_*
_SOURCES, _DESTINATIONS = (1, 3), (2, 4)  # CTA_IP_V4_SRC, CTA_IP_V6_SRC; *_DST


class Flow(NamedTuple):
    """`destination`: where its first packet was sent to; `server`: who answers, another one if it was redirected."""

    family: int
    destination: str
    server: str
    original: bytes  # the kernel's key


def flows(sock: netlink.Socket, family: int, protocol: int, port: int) -> list[Flow]:
    """The flows whose first packet went to `port`. `family`: AF_INET or AF_INET6, `protocol`: IPPROTO_*."""
    request = netlink.message(
        _GET,
        _GENERIC.pack(family, 0, 0)
        + netlink.nested(
            _ORIGINAL,
            netlink.nested(
                _PROTOCOL, netlink.u8(_NUMBER, protocol), netlink.attribute(_DESTINATION_PORT, port.to_bytes(2, "big"))
            ),
        )
        + netlink.nested(
            _FILTER,
            netlink.u32(_FILTER_ORIGINAL, _BY_PROTOCOL | _BY_DESTINATION_PORT),
            netlink.u32(_FILTER_REPLY, 0),
        ),
    )
    return [parse_flow(body) for _, body in sock.dump(request)]


def parse_flow(body: bytes) -> Flow:
    """An IPCTNL_MSG_CT_NEW."""
    parts = netlink.attributes(body, _GENERIC.size)
    original = parts[_ORIGINAL]
    return Flow(
        family=body[0],
        destination=_address(original, _DESTINATIONS),
        server=_address(parts[_REPLY], _SOURCES),
        original=original,
    )


def _address(tuple: bytes, kinds: Iterable[int]) -> str:
    addresses = netlink.attributes(netlink.attributes(tuple)[_IP])
    return str(ipaddress.ip_address(next(addresses[kind] for kind in kinds if kind in addresses)))


def forget(sock: netlink.Socket, stale: Iterable[Flow]) -> None:
    """Delete flows; those that ended meanwhile are fine."""
    requests = [
        netlink.message(_DELETE, _GENERIC.pack(flow.family, 0, 0) + netlink.nested(_ORIGINAL, flow.original))
        for flow in stale
    ]
    for error in sock.change(requests) if requests else ():
        if error is not None and error.errno != errno.ENOENT:
            raise error
