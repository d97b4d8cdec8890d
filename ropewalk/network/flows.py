"""UDP flows to host ports that were decided too early or are out of date.

A client that keeps sending from one port keeps its flow, and so the decision of its first packet: to a pod that has
gone, or to the node itself when no pod had the port yet.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Callable, Collection, Iterable

from ropewalk.linux import conntrack, netlink, rtnetlink
from ropewalk.spec.pod import PortMapping, Protocol

log = logging.getLogger(__name__)


def forget_passed_by(sock: netlink.Socket, mappings: Iterable[PortMapping], ips: Collection[str]) -> None:
    """After a pod's ports were opened: flows to them on the node that do not lead to the pod."""
    ports = _udp(mappings)
    if ports:
        local = {str(interface.ip) for _, interface in rtnetlink.addresses(sock)}
        _forget(ports, lambda flow: flow.server not in ips and (flow.destination in local or _is_loopback(flow)))


def forget_gone(mappings: Iterable[PortMapping], ips: Collection[str]) -> None:
    """After a pod's ports were closed: flows to them that lead to the pod."""
    _forget(_udp(mappings), lambda flow: flow.server in ips)


def _udp(mappings: Iterable[PortMapping]) -> set[int]:
    return {mapping.host_port for mapping in mappings if mapping.protocol is Protocol.UDP}


def _is_loopback(flow: conntrack.Flow) -> bool:
    return ipaddress.ip_address(flow.destination).is_loopback


def _forget(ports: Iterable[int], stale: Callable[[conntrack.Flow], bool]) -> None:
    """A kernel without connection tracking by netlink keeps what it has: said, no reason to refuse a pod."""
    try:
        for port in ports:
            with netlink.Socket(netlink.NETFILTER) as sock:
                for family in (socket.AF_INET, socket.AF_INET6):
                    found = conntrack.flows(sock, family, socket.IPPROTO_UDP, port)
                    conntrack.forget(sock, filter(stale, found))
    except OSError as error:
        log.warning("cannot forget stale UDP flows", extra={"error": str(error)})
