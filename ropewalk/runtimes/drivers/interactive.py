"""A command inside a container whose streams are in the caller's hands: pipes, or a terminal.

The runtime is told to detach: it gives the streams to the command, or its terminal's other end to a socket of ours
(--console-socket, SCM_RIGHTS), and ends; the command is ours then (linux/orphans.py). `close` ends it with all that it
started, in the driver's way. With a killed daemon its pipes end, or its terminal hangs up.

What is written is taken when somebody reads: a slow reader holds up the command, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import functools
import os
import socket
import struct
import termios
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from ropewalk import ids
from ropewalk.errors import Kind, RopewalkError
from ropewalk.linux import cgroup, spawn
from ropewalk.runtimes import streams
from ropewalk.runtimes.drivers import command, execution
from ropewalk.runtimes.oci import build
from ropewalk.runtimes.streams import STDERR, STDOUT, Chunk

START_SECONDS = 20.0
SIZE = 65536  # one read


class Interactive(streams.Streams):
    """Made by `start`. `stdin` and `outputs` (descriptor to stream) are non-blocking; a terminal is all of them. `end`:
    what `close` calls for a command that has not ended."""

    def __init__(self, stdin: int, outputs: dict[int, int], *, tty: bool) -> None:
        self.child: spawn.Process | None = None
        self.end: Callable[[spawn.Process], Awaitable[None]] | None = None
        self._stdin = stdin
        self._open = dict(outputs)
        self._fds = {stdin, *outputs}
        self._tty = tty

    async def read(self) -> Chunk | None:
        """What a child left in the background writes after the command's end is not waited for."""
        while True:
            exited = self.child is not None and self.child.code is not None
            for fd, stream in list(self._open.items()):
                data = _read(fd)
                if data:
                    self._open[fd] = self._open.pop(fd)  # the other one's turn
                    return Chunk(stream, data)
                if data is not None:
                    del self._open[fd]
            if exited or not self._open:
                return None
            await self._readable()

    async def _readable(self) -> None:
        assert self.child is not None
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        for fd in self._open:
            loop.add_reader(fd, ready.set)
        waits = [asyncio.ensure_future(ready.wait()), asyncio.ensure_future(self.child.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for fd in self._open:
                loop.remove_reader(fd)
            for wait in waits:
                wait.cancel()

    async def write(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        left = memoryview(data)
        while left and self._stdin >= 0:
            try:
                left = left[os.write(self._stdin, left) :]
            except BlockingIOError:
                room = asyncio.Event()
                loop.add_writer(self._stdin, room.set)
                try:
                    await room.wait()
                finally:
                    if self._stdin >= 0:  # else it was closed meanwhile
                        loop.remove_writer(self._stdin)
            except OSError as error:
                if error.errno not in (errno.EPIPE, errno.EIO):
                    raise
                return

    async def close_stdin(self) -> None:
        """A terminal stays: its end-of-file is a character that is typed."""
        if not self._tty and self._stdin >= 0:
            self._fds.discard(self._stdin)
            _close(self._stdin)
            self._stdin = -1

    async def resize(self, width: int, height: int) -> None:
        if self._tty:
            fcntl.ioctl(self._stdin, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    async def exit(self) -> int:
        assert self.child is not None
        code = await self.child.wait()
        return code if code >= 0 else 128 - code

    async def close(self) -> None:
        """The command's end comes first: a terminal that hangs up would leave what it started without its parent."""
        try:
            if self.child is not None and self.child.code is None and self.end is not None:
                await self.end(self.child)
        finally:
            for fd in self._fds:
                _close(fd)
            self._fds.clear()
            self._open.clear()
            self._stdin = -1


def _close(fd: int) -> None:
    """Somebody may wait for it: the event loop would take the next descriptor of that number for this one."""
    loop = asyncio.get_running_loop()
    loop.remove_reader(fd)
    loop.remove_writer(fd)
    os.close(fd)


def _read(fd: int) -> bytes | None:
    """b"" at the end, None if there is nothing now. A terminal whose other end is closed is EIO."""
    try:
        return os.read(fd, SIZE)
    except BlockingIOError:
        return None
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return b""


async def start(
    runtime: command.Command,
    id: str,
    description: dict[str, Any],
    *,
    pid_file: str,
    console: str,
    options: Sequence[str] = (),
) -> Interactive:
    """`description`: the OCI process object, whose `terminal` says whether it gets one; `pid_file` and `console`: paths
    that this call makes and removes; `options`: more of the verb's. See Handler.exec_stream."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(spawn.expecting_orphan())
        stack.callback(execution.forget, pid_file)
        if description.get("terminal"):
            listener = stack.enter_context(_listen(console))
            flags = (*options, "--console-socket", console)
            child = await _run(runtime, id, description, pid_file, (None, None, None), *flags)
            try:
                master = _receive(listener, id)
            except BaseException:  # nobody gets it: it and its descriptor go now
                child.kill()
                await child.wait()
                raise
            made = Interactive(master, {master: STDOUT}, tty=True)
        else:
            (theirs_in, ours_in), (out, theirs_out), (err, theirs_err) = os.pipe(), os.pipe(), os.pipe()
            made = Interactive(ours_in, {out: STDOUT, err: STDERR}, tty=False)
            theirs = (theirs_in, theirs_out, theirs_err)
            try:
                child = await _run(runtime, id, description, pid_file, theirs, *options)
            except BaseException:
                await made.close()
                raise
            finally:
                for fd in theirs:
                    os.close(fd)
        for fd in made._fds:
            os.set_blocking(fd, False)
        made.child = child
    return made


async def start_marked(
    runtime: command.Command,
    cgroups: cgroup.Cgroups,
    id: str,
    path: str,
    description: dict[str, Any],
    *,
    pid_file: str,
    console: str,
) -> Interactive:
    """Likewise for a container whose processes are this kernel's, in the cgroup `path`: all that the command starts has
    a mark (execution.py), by which `close` ends it."""
    mark = execution.new_mark()
    try:
        made = await start(runtime, id, execution.marked(description, mark), pid_file=pid_file, console=console)
    except BaseException:  # it may have begun all the same, and nobody has it
        if path:
            await asyncio.shield(asyncio.ensure_future(execution.kill_marked(cgroups, path, mark)))
        raise
    made.end = functools.partial(execution.end, cgroups, path, mark=mark)
    return made


async def _run(
    runtime: command.Command,
    id: str,
    description: dict[str, Any],
    pid_file: str,
    stdio: tuple[int | None, int | None, int | None],
    *flags: str,
) -> spawn.Process:
    """The command, which runs when this returns."""
    with (
        execution.memory_file("oci-log") as log,
        execution.memory_file("oci-process", build.encode(description)) as specification,
    ):
        argv = [*runtime.prefix(f"/proc/self/fd/{command.LOG_FD}"), "exec", "--detach", "--pid-file", pid_file, *flags]
        argv += ["--process", f"/proc/self/fd/{execution.PROCESS_FD}", id]
        child = spawn.spawn(
            argv,
            stdin=stdio[0],
            stdout=stdio[1],
            stderr=stdio[2],
            pass_fds={command.LOG_FD: log, execution.PROCESS_FD: specification},
            session=False,
        )
        try:
            async with asyncio.timeout(START_SECONDS):
                code = await child.wait()
        except TimeoutError:
            text = f"container {ids.short(id)}: exec did not begin within {START_SECONDS:g} s"
            raise RopewalkError(text, kind=Kind.TIMEOUT) from None
        finally:
            child.kill()
        if code:
            message = command.parse_log(os.pread(log, command.LOG_LIMIT, 0)) or f"exit code {code} without a message"
            raise command.failure(id, "exec", message)
    return execution.adopt(pid_file, description)


@contextlib.contextmanager
def _listen(path: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as listener:
        listener.bind(path)
        try:
            listener.listen(1)
            yield listener
        finally:
            os.unlink(path)


def _receive(listener: socket.socket, id: str) -> int:
    """The terminal that the runtime, which has ended, sent."""
    listener.setblocking(False)
    try:
        with listener.accept()[0] as connection:
            connection.setblocking(False)  # what it left behind may hold the other end
            _, fds, _, _ = socket.recv_fds(connection, 256, 1)
    except BlockingIOError:
        fds = []
    if not fds:
        raise RopewalkError(f"container {ids.short(id)}: exec: the runtime sent no terminal")
    return fds[0]
