"""Who may speak to a netlink socket."""

from __future__ import annotations

import errno
import struct
from pathlib import Path

from ropewalk.linux import namespaces, netlink, rtnetlink


def test_only_the_kernel_is_listened_to(tmp_path: Path) -> None:
    """Whoever administers a network namespace may send to every socket in it: a container with NET_ADMIN to ours."""
    forged = netlink.message(2, struct.pack("=i", -errno.EIO) + bytes(16))  # NLMSG_ERROR

    def ask() -> None:
        with netlink.Socket() as sock, netlink.Socket() as stranger:
            rtnetlink.links(sock)  # it has a port now
            port, _ = sock._socket.getsockname()
            for sequence in range(1, 9):
                message = forged[:8] + struct.pack("=LL", sequence, 0) + forged[16:]
                stranger._socket.sendto(message, (port, 0))
            assert [link.name for link in rtnetlink.links(sock)] == ["lo"]

    path = str(tmp_path / "net")
    namespaces.make(["net"], {"net": path})
    try:
        namespaces.inside({"net": path}, ask)
    finally:
        namespaces.unpin(path)
