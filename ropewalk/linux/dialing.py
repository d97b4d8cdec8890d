"""TCP connections to loopback addresses of another network namespace, without entering it for longer than a moment."""

from __future__ import annotations

import asyncio
import errno
import socket

from ropewalk.errors import Kind, RopewalkError
from ropewalk.linux import namespaces

SECONDS = 10.0
LOOPBACKS = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
NEXT = (errno.ECONNREFUSED, errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)  # the other family may do


async def connect(netns: str, port: int) -> socket.socket:
    """A connected, non-blocking socket to `port` on "localhost" of the namespace pinned at `netns` ("": of this
    process). RopewalkError UNAVAILABLE if nobody listens there."""
    refusals = []
    for family, address in LOOPBACKS:
        try:
            return await _connect(netns, family, address, port)
        except OSError as error:
            if error.errno not in NEXT:
                raise RopewalkError(f"cannot connect to port {port} of the pod: {error}") from error
            refusals.append(f"{address}: {error.strerror}")
        except TimeoutError:
            raise RopewalkError(f"port {port} of the pod does not answer in {SECONDS:g} s", kind=Kind.TIMEOUT) from None
    raise RopewalkError(f"nothing listens on port {port} of the pod ({', '.join(refusals)})", kind=Kind.UNAVAILABLE)


async def _connect(netns: str, family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    """A socket belongs to the namespace that it was made in, whoever connects it."""

    def make() -> socket.socket:
        return socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)

    made = namespaces.inside({"net": netns}, make) if netns else make()
    try:
        async with asyncio.timeout(SECONDS):
            await asyncio.get_running_loop().sock_connect(made, (address, port))
    except BaseException:
        made.close()
        raise
    return made
