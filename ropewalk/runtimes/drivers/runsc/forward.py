"""Connections into a Sentry's network, which the node's kernel does not have: `runsc port-forward --stream`.

runsc connects to a socket of ours, has the Sentry connect to the port, copies between the two, and ends with either.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket

from ropewalk import ids
from ropewalk.errors import Kind, RopewalkError
from ropewalk.linux import spawn
from ropewalk.runtimes.drivers import command, execution

SECONDS = 10.0


async def dial(runtime: command.Command, id: str, port: int, directory: str) -> socket.socket:
    """To `port` of the Sentry that has container `id`; `directory`: for a socket's short life."""
    path = os.path.join(directory, f"forward-{secrets.token_hex(4)}")
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
        listener.bind(path)
        stack.callback(os.unlink, path)
        listener.listen(1)
        log = stack.enter_context(execution.memory_file("oci-log"))
        argv = [*runtime.prefix(f"/proc/self/fd/{command.LOG_FD}"), "port-forward", "--stream", path, id, str(port)]
        child = spawn.spawn(argv, pass_fds={command.LOG_FD: log}, session=False)
        coming = asyncio.ensure_future(asyncio.get_running_loop().sock_accept(listener))
        ending = asyncio.ensure_future(child.wait())
        try:
            await asyncio.wait([coming, ending], timeout=SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if coming.done():
                return coming.result()[0]
            said = command.parse_log(os.pread(log, command.LOG_LIMIT, 0)) or "runsc does not connect"
            raise RopewalkError(f"port {port} of pod {ids.short(id)}: {said}", kind=Kind.UNAVAILABLE)
        except BaseException:
            child.kill()
            raise
        finally:
            coming.cancel()
            ending.cancel()
            await asyncio.gather(coming, ending, return_exceptions=True)
