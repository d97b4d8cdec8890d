"""What pods sent and received, from the links' own counters."""

from __future__ import annotations

import time

from msgspec import Struct

from ropewalk.linux import netlink, rtnetlink
from ropewalk.network import bridge

_AGE = 1.0  # seconds for which one reading of the node's links serves every pod


class InterfaceStats(Struct, frozen=True):
    """A pod's interface since it was made, as the pod sees it."""

    name: str
    rx_bytes: int
    rx_errors: int
    tx_bytes: int
    tx_errors: int


class Counters:
    """The counters of the node's links, read at most once a second."""

    def __init__(self) -> None:
        self._read: tuple[float, dict[int, rtnetlink.Counters]] = (0.0, {})

    def of_port(self, sock: netlink.Socket, port: str, interface: str) -> list[InterfaceStats]:
        """Those of the pod's `interface` whose other end on the node is `port`; empty when that is gone."""
        now = time.monotonic()
        if now - self._read[0] > _AGE:
            self._read = now, rtnetlink.counters(sock)
        counted = self._read[1].get(bridge.find(port))
        if counted is None:
            return []
        return [
            InterfaceStats(  # what the port sends is what the pod receives
                name=interface,
                rx_bytes=counted.tx_bytes,
                rx_errors=counted.tx_errors,
                tx_bytes=counted.rx_bytes,
                tx_errors=counted.rx_errors,
            )
        ]


def inside(sock: netlink.Socket, interface: str) -> list[InterfaceStats]:
    """Those of `interface`, by a socket of the pod's own namespace: for links that have no end on the node."""
    counted = rtnetlink.counters(sock).get(rtnetlink.link(sock, interface).index)
    if counted is None:
        return []
    return [
        InterfaceStats(
            name=interface,
            rx_bytes=counted.rx_bytes,
            rx_errors=counted.rx_errors,
            tx_bytes=counted.tx_bytes,
            tx_errors=counted.tx_errors,
        )
    ]
