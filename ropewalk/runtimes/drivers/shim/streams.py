"""A shim's streams in the caller's hands: of a command that is run inside, and of the container's own init.

A command's fifos are the daemon's, and push back: while nobody takes what is there, the shim waits. The container's own
output comes from its logger's socket, which drops an attacher that does not keep up; its input is its fifo.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Awaitable, Callable

from ropewalk import ids
from ropewalk.errors import Kind, RopewalkError, WrongState
from ropewalk.runtimes import streams
from ropewalk.runtimes.drivers.shim import inside, stdio, task
from ropewalk.runtimes.handler import Task
from ropewalk.runtimes.monitors import attach
from ropewalk.runtimes.streams import STDERR, STDOUT, Chunk

HIGH = 1 << 20  # bytes that are kept for a reader before the writer has to wait
LOW = 1 << 18


class ExecStreams(streams.Streams):
    """Of one command. Made by `open_exec`."""

    def __init__(self, command: inside.Command, paths: stdio.Paths) -> None:
        self._command = command
        self._chunks: deque[Chunk] = deque()
        self._size = 0
        self._more = asyncio.Event()
        self._input = stdio.Input(paths.stdin)
        self._outputs = [
            stdio.Output(path, lambda data, stream=stream: self._take(stream, data))  # type: ignore[misc]
            for stream, path in ((STDOUT, paths.stdout), (STDERR, paths.stderr))
        ]
        self._exit: asyncio.Task[int] | None = None
        self._closed = False
        self._silent = 0.0  # since when, by the loop's clock

    async def start(self) -> None:
        await self._command.start()
        self._input.attached()
        self._exit = asyncio.ensure_future(self._command.wait())
        self._exit.add_done_callback(lambda _: self._more.set())

    def _take(self, stream: int, data: bytes) -> None:
        self._chunks.append(Chunk(stream, data))
        self._size += len(data)
        self._more.set()
        if self._size > HIGH:
            for output in self._outputs:
                output.pause()

    async def read(self) -> Chunk | None:
        while True:
            if self._chunks:
                chunk = self._chunks.popleft()
                self._size -= len(chunk.data)
                if self._size < LOW:
                    for output in self._outputs:
                        output.resume()
                return chunk
            if all(output.ended.is_set() for output in self._outputs):
                return None
            self._more.clear()
            await self._next()

    async def _next(self) -> None:
        """Something to read, or an end. After the exit the streams end soon, unless something else holds them."""
        exited = self._exit is not None and self._exit.done()
        ends = [output.ended for output in self._outputs if not output.ended.is_set()]
        waits = [asyncio.ensure_future(event.wait()) for event in (self._more, *ends)]
        try:
            done, _ = await asyncio.wait(
                waits, timeout=inside.SILENCE if exited else None, return_when=asyncio.FIRST_COMPLETED
            )
            if exited and not done and self._is_over():
                for output in self._outputs:
                    output.drain()
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    def _is_over(self) -> bool:
        """Silence after the exit: something in the background holds the streams, or the shim copies the rest late."""
        now = asyncio.get_running_loop().time()
        self._silent = self._silent or now
        return self._command.is_held() or now - self._silent > inside.COPY_SECONDS

    async def write(self, data: bytes) -> None:
        await self._input.write(data)

    async def close_stdin(self) -> None:
        """The shim holds a writing end of its own, which CloseIO closes."""
        await self._input.ready()
        self._input.close()
        with contextlib.suppress(RopewalkError, task.Gone):
            await self._command.inside.shim.close_stdin(self._command.inside.id, self._command.exec_id)

    async def resize(self, width: int, height: int) -> None:
        place = self._command.inside
        with contextlib.suppress(RopewalkError, task.Gone):
            await place.shim.resize(place.id, self._command.exec_id, width, height)

    async def exit(self) -> int:
        if self._exit is None:
            raise RopewalkError("the command was not started", kind=Kind.STATE)
        try:
            return await asyncio.shield(self._exit)
        except asyncio.CancelledError:
            if not self._exit.cancelled():  # the caller's own
                raise
            raise RopewalkError("the command was let go, and its shim did not tell its end", kind=Kind.STATE) from None
        except task.Gone as error:
            raise RopewalkError(f"its shim ended: {error}", kind=Kind.UNAVAILABLE) from error

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._input.close()
        for output in self._outputs:
            output.close()
        if self._exit is None or not self._exit.done():
            await self._command.end()
        if self._exit is not None:  # asked before the Wait of `end`, which a shim may answer first all the same
            await asyncio.wait([self._exit], timeout=inside.END_SECONDS)
            self._exit.cancel()
            await asyncio.gather(self._exit, return_exceptions=True)
        await self._command.forget()


async def open_exec(command: inside.Command, *, tty: bool) -> ExecStreams:
    """Run it; its streams. RopewalkError, Gone: then nothing of it is left."""
    opened = None
    try:
        opened = ExecStreams(command, await command.begin(tty=tty, stdin=True))
        await opened.start()
    except BaseException:
        if opened is not None:
            await opened.close()
        else:
            await command.forget()
        raise
    return opened


class AttachStreams(attach.Attachment):
    """Of a container's init. Output comes from its logger; input and the terminal's size go by the shim."""

    def __init__(self, place: inside.Inside, ended: Callable[[], Awaitable[int]]) -> None:
        logger = place.own.read_logger()
        if logger is None:
            raise WrongState(f"container {ids.short(place.id)} has no logger: nothing to attach to")
        super().__init__(place.own.directory, Task(0, 0, logger.pid, logger.start), ended)
        self._place = place
        self._input: stdio.Input | None = None
        if os.path.exists(place.own.path("stdin")):
            self._input = stdio.Input(place.own.path("stdin"))
            self._input.attached()

    async def write(self, data: bytes) -> None:
        if self._input is not None:
            await self._input.write(data)

    async def close_stdin(self) -> None:
        """The shim holds a writing end of its own, which CloseIO closes."""
        if self._input is not None:
            await self._input.ready()
            self._input.close()
            with contextlib.suppress(RopewalkError, task.Gone):
                await self._place.shim.close_stdin(self._place.id)

    async def resize(self, width: int, height: int) -> None:
        with contextlib.suppress(RopewalkError, task.Gone):
            await self._place.shim.resize(self._place.id, "", width, height)

    async def close(self) -> None:
        if self._place.own.is_once():
            await self.close_stdin()
        elif self._input is not None:
            self._input.close()
        await super().close()
