"""A client of a monitor's `attach` socket and `ctl` fifo: the streams of a running container.

The wire format is conmon's (2.1, src/conn_sock.c), and ropewalk-monitor's: one packet is byte 2 (stdout) or 3 (stderr)
and at most 8 KiB of output (64 KiB from ropewalk-monitor), or at most 8 KiB of input; a half-close ends the input;
`ctl` takes "1 HEIGHT WIDTH".
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable

from ropewalk.errors import Kind, RopewalkError, WrongState
from ropewalk.linux import process
from ropewalk.runtimes import streams
from ropewalk.runtimes.handler import Task
from ropewalk.runtimes.monitors import logfile
from ropewalk.runtimes.streams import Chunk

OUTPUT, INPUT = 65536, 8192  # bytes of a stream in one packet
OUTPUTS = {2: streams.STDOUT, 3: streams.STDERR}
GONE_SECONDS = 2.0  # a monitor that ended the connection because of its container's end is gone by then


class Attachment(streams.Streams):
    """Attached until `close`. `ended`: waits for the container's end, and gives its exit code."""

    def __init__(self, bundle: str, task: Task, ended: Callable[[], Awaitable[int]]) -> None:
        self.control = os.path.join(bundle, "ctl")
        self.task = task
        self.ended = ended
        self.socket = _connect(bundle)

    async def read(self) -> Chunk | None:
        try:
            packet = await asyncio.get_running_loop().sock_recv(self.socket, 1 + OUTPUT)
        except ConnectionResetError:
            packet = b""
        if packet:
            return Chunk(OUTPUTS[packet[0]], packet[1:])
        await self._explain_end()
        return None

    async def _explain_end(self) -> None:
        """A monitor lets go of who does not keep up with the container; nobody must take that for its end."""
        pidfd = process.open_pidfd(self.task.monitor_pid, self.task.monitor_start)
        if pidfd is None:
            return
        try:
            async with asyncio.timeout(GONE_SECONDS):
                await process.wait_pidfd(pidfd)
        except TimeoutError:
            text = "attached too slowly: the container writes faster than this client reads"
            raise RopewalkError(text, hint="its log has everything", kind=Kind.EXHAUSTED) from None
        finally:
            os.close(pidfd)

    async def write(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for start in range(0, len(data), INPUT):
                await loop.sock_sendall(self.socket, data[start : start + INPUT])

    async def close_stdin(self) -> None:
        with contextlib.suppress(OSError):  # it is closed, or the monitor is gone
            self.socket.shutdown(socket.SHUT_WR)

    async def resize(self, width: int, height: int) -> None:
        with contextlib.suppress(WrongState):
            logfile.tell(self.control, f"1 {height} {width}\n")

    async def exit(self) -> int:
        return await self.ended()

    async def close(self) -> None:
        self.socket.close()


def _connect(bundle: str) -> socket.socket:
    """WrongState if nobody listens. By the directory's descriptor, because a socket's path has 107 bytes."""
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connected.setblocking(False)
    try:
        directory = os.open(bundle, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            connected.connect(f"/proc/self/fd/{directory}/attach")
        finally:
            os.close(directory)
    except (FileNotFoundError, ConnectionRefusedError) as error:
        connected.close()
        raise WrongState("the container is not running: nothing to attach to") from error
    except OSError:
        connected.close()
        raise
    return connected
