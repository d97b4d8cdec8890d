"""The streams of a container: fifos in its bundle, held by a logger that outlives the daemon.

The shim copies between the fifos and the container. `ropewalk-monitor log` reads the outputs from their begin to their
end, writes the log, and serves attach; it ends when the shim has closed both, so that whoever waits for it has every
line. A shim's own loggers (binary://, file://) are not used: they tell nobody when they are done, they have no standard
input, and not every shim knows them (docs/decisions/0011).

Opening a fifo never waits here: ours are opened for both ways first, which the daemon's death undoes.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
from collections.abc import Callable

from msgspec import Struct

from ropewalk import ids
from ropewalk.errors import Kind, RopewalkError
from ropewalk.linux import cgroup, process, spawn
from ropewalk.runtimes.drivers.shim import binary, record
from ropewalk.runtimes.monitors import own as monitors

READY_FD = 5
READY_SECONDS = 5.0
POLL = 0.005
CHUNK = 65536
COMPLAINT = 4096


class Paths(Struct, frozen=True):
    """As Create and Exec take them; "" for a stream that there is not."""

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""


class Logger:
    """A logger from its start to the moment when the shim has the other ends: runc's opens them in Create, Kata's in
    Start. Where the daemon dies before that, the logger sees an end; the next daemon starts another one."""

    def __init__(self, own: record.Bundle, paths: Paths) -> None:
        self.paths = paths
        self._own = own
        self._stack = contextlib.ExitStack()
        self._ready = -1
        self._complaints = -1
        self._child: spawn.Process | None = None

    def start(self, program: str, log_path: str, cgroups: cgroup.Cgroups, leaf: str) -> None:
        """RopewalkError if there is no such program."""
        reads = [self._open(path) for path in (self.paths.stdout, self.paths.stderr)]
        self._ready, theirs = os.pipe()
        self._complaints = os.memfd_create("logger-stderr")
        self._stack.callback(os.close, self._ready)
        self._stack.callback(os.close, self._complaints)
        try:
            self._child = spawn.spawn(
                [program, "log", log_path, "dir", self._own.directory],
                stderr=self._complaints,
                pass_fds={3: reads[0], 4: reads[1], READY_FD: theirs},
            )
        except FileNotFoundError as error:
            self.release()
            text = f"container {ids.short(os.path.basename(self._own.directory))}: {error}"
            raise RopewalkError(text, hint="it comes with ropewalk: see `monitor`", kind=Kind.UNAVAILABLE) from error
        finally:
            os.close(theirs)
        if leaf:
            binary.put(cgroups, leaf, self._child.pid)
        self._own.write_logger(record.Logger(self._child.pid, process.start_time(self._child.pid) or 0, leaf))

    def _open(self, path: str) -> int:
        """The end that is read. While we hold the other one, it does not see an end; of what there is not, at once."""
        flags = os.O_NONBLOCK | os.O_CLOEXEC
        if path:
            self._stack.callback(os.close, os.open(path, os.O_RDWR | flags))
            fd = os.open(path, os.O_RDONLY | flags)
        else:
            fd, other = os.pipe()
            os.close(other)
        self._stack.callback(os.close, fd)
        return fd

    async def ready(self) -> None:
        """Until it has opened the log. RopewalkError with what it said if it could not."""
        if self._child is None:
            return
        loop = asyncio.get_running_loop()
        seen: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._ready, _resolve, seen)
        said = ""
        try:
            async with asyncio.timeout(READY_SECONDS):
                await seen
        except TimeoutError:
            said = f"not ready within {READY_SECONDS:g} s"
        finally:
            loop.remove_reader(self._ready)
        said = os.pread(self._complaints, COMPLAINT, 0).decode(errors="replace").strip() or said
        if said:
            raise monitors.explain(os.path.basename(self._own.directory), said)

    def release(self) -> None:
        """The shim has opened its ends, or never will; idempotent."""
        self._stack.close()


class Loggers:
    """Of one handler; those whose other ends the shim may not have yet are held here."""

    def __init__(self, program: str, cgroups: cgroup.Cgroups) -> None:
        self._program = program
        self._cgroups = cgroups
        self._held: dict[str, Logger] = {}

    def start(self, id: str, own: record.Bundle, paths: Paths, log_path: str, leaf: str) -> Logger:
        """A new one, held until `release`. Without a log it is there for who attaches."""
        self.release(id)
        logger = self._held[id] = Logger(own, paths)
        logger.start(self._program, log_path, self._cgroups, leaf)
        return logger

    def ensure(self, id: str, own: record.Bundle) -> None:
        """Another one for what was killed, or saw an end because its daemon died before the shim had the other ends."""
        paths, before = found(own), own.read_logger()
        if paths.stdout and before is not None and not process.is_alive(before.pid, before.start):
            self.start(id, own, paths, own.read_record().log_path, before.leaf)

    def release(self, id: str) -> None:
        """The shim has the other ends, or never will; idempotent."""
        logger = self._held.pop(id, None)
        if logger is not None:
            logger.release()

    def close(self) -> None:
        for id in list(self._held):
            self.release(id)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def prepare(own: record.Bundle, *, tty: bool, stdin: bool, once: bool = False, prefix: str = "") -> Paths:
    """Make the fifos: `prefix` tells those of an exec from the container's. A terminal has one for both outputs.
    `once`: the standard input ends with the first attacher."""
    if once:
        own.write_once()
    return Paths(
        stdin=own.make_fifo(f"{prefix}stdin") if stdin else "",
        stdout=own.make_fifo(f"{prefix}stdout"),
        stderr=own.make_fifo(f"{prefix}stderr") if not tty else "",
    )


def found(own: record.Bundle) -> Paths:
    """The fifos that `prepare` made for the container."""
    there = {name: own.path(name) if os.path.exists(own.path(name)) else "" for name in ("stdin", "stdout", "stderr")}
    return Paths(**there)


class Output:
    """The daemon's end of an output fifo. `take` gets each piece as it comes; `ended` is set at the end."""

    def __init__(self, path: str, take: Callable[[bytes], None]) -> None:
        self._take = take
        self.ended = asyncio.Event()
        self._fd = -1
        self._paused = False
        if path:
            self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            asyncio.get_running_loop().add_reader(self._fd, self._read)
        else:
            self.ended.set()

    def _read(self) -> None:
        try:
            data = os.read(self._fd, CHUNK)
        except BlockingIOError:
            return
        if data:
            self._take(data)
        else:
            self.close()

    def pause(self) -> None:
        """Take nothing more for now: the writer waits."""
        if self._fd >= 0 and not self._paused:
            self._paused = True
            asyncio.get_running_loop().remove_reader(self._fd)

    def resume(self) -> None:
        if self._fd >= 0 and self._paused:
            self._paused = False
            asyncio.get_running_loop().add_reader(self._fd, self._read)

    def drain(self) -> None:
        """What is there now, without waiting; then close."""
        while self._fd >= 0 and select.select([self._fd], [], [], 0)[0]:
            self._read()
        self.close()

    def close(self) -> None:
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
        self.ended.set()


class Input:
    """The daemon's end of a standard input. A shim opens its own only when it creates the process, so ours is opened
    for both ways; from then on we hold the writing one alone."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._was_read = False
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def attached(self) -> None:
        """The shim reads now: its end is ours to see."""
        with contextlib.suppress(OSError):
            fd = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.close(self._fd)
            self._fd = fd

    async def ready(self) -> None:
        """Before the first write, and the end: a shim may open its end after it has answered Create or Start, and until
        then all that is written would be dropped."""
        if self._was_read:
            return
        with contextlib.suppress(TimeoutError):  # a shim that has not opened it by then never will
            async with asyncio.timeout(READY_SECONDS):
                while not self._has_reader():  # noqa: ASYNC110 - the kernel tells nobody
                    await asyncio.sleep(POLL)
        self._was_read = True

    def _has_reader(self) -> bool:
        """fifo(7): opening to write without waiting fails with ENXIO while nobody has it open to read."""
        try:
            os.close(os.open(self._path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError as error:
            return error.errno != errno.ENXIO
        return True

    async def write(self, data: bytes) -> None:
        """All of it; what nobody reads any more is dropped."""
        await self.ready()
        loop = asyncio.get_running_loop()
        view = memoryview(data)
        while view and self._fd >= 0:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                room: asyncio.Future[None] = loop.create_future()
                loop.add_writer(self._fd, _resolve, room)
                try:
                    await room
                finally:
                    if self._fd >= 0:
                        loop.remove_writer(self._fd)
            except BrokenPipeError:
                return

    def close(self) -> None:
        if self._fd >= 0:
            asyncio.get_running_loop().remove_writer(self._fd)
            os.close(self._fd)
            self._fd = -1


async def flush(own: record.Bundle, seconds: float) -> None:
    """Wait until the log is complete, at most `seconds`: who inherited the streams may keep them open."""
    logger = own.read_logger()
    pidfd = process.open_pidfd(logger.pid, logger.start) if logger is not None else None
    if pidfd is None:
        return
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await process.wait_pidfd(pidfd)
    finally:
        os.close(pidfd)
