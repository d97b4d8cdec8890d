"""Calls that may block for ever, in worker processes that can be abandoned.

A thread stuck on a dead NFS server can never be got rid of; a process can be forgotten. Workers start on demand,
serve one call at a time and leave after being idle. A call past its deadline (or cancelled) gives up its worker:
SIGKILL, and where even that has to wait for the kernel, the worker is left behind and counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import socket
import struct
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from ropewalk import errors
from ropewalk.linux import spawn

T = TypeVar("T")

LENGTH = struct.Struct("=Q")  # before each pickled message, both ways
MAX_STUCK = 16  # abandoned workers that SIGKILL could not end yet; each holds about 8 MiB


class Offload:
    """At most `limit` workers at a time. `background=True`: they run at idle CPU and I/O priority. `patience`: after so
    many seconds a call does not count any more (at most MAX_STUCK of them), so that calls which hang keep no others
    from being tried; 0: every call counts to its end, so that bulk work never runs more than `limit` at a time."""

    def __init__(self, limit: int = 4, *, idle: float = 30.0, background: bool = False, patience: float = 0.0) -> None:
        self._idle_seconds = idle
        self._background = background
        self._patience = patience
        self._slots = asyncio.Semaphore(limit)
        self._aside = 0  # calls under way that do not count
        self._idle: list[_Worker] = []
        self._stuck: list[spawn.Process] = []

    async def call(self, fn: Callable[..., T], *args: Any, timeout: float | None = 10.0) -> T:
        """fn(*args) in a worker. `fn` is a module-level function of an importable module; arguments and result are
        pickled. What it raises is raised here. `timeout` seconds (None: no limit) include waiting for a worker.

        Kind.TIMEOUT: the deadline passed; the call may still take effect. Kind.UNAVAILABLE: too many workers hang.
        """
        what = f"{fn.__module__}.{fn.__qualname__}({', '.join(map(repr, args[:1]))})"
        request = pickle.dumps((fn.__module__, fn.__qualname__, args), pickle.HIGHEST_PROTOCOL)
        begun = False
        try:
            async with asyncio.timeout(timeout), self._slot():
                begun = True
                answer = await self._ask(request, what)
        except TimeoutError as error:
            if timeout is None:
                raise
            raise _late(what, timeout, begun=begun) from error
        succeeded, value = pickle.loads(answer)
        if succeeded:
            result: T = value
            return result
        raise value

    @contextlib.asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        """One of `limit`, for as long as the patience lasts."""
        await self._slots.acquire()
        loop = asyncio.get_running_loop()
        counts, timer = True, None

        def step_aside() -> None:
            nonlocal counts, timer
            if self._aside < MAX_STUCK:
                counts = False
                self._aside += 1
                self._slots.release()
            else:
                timer = loop.call_later(self._patience, step_aside)

        timer = loop.call_later(self._patience, step_aside) if self._patience else None
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()
            if counts:
                self._slots.release()
            else:
                self._aside -= 1

    async def _ask(self, request: bytes, what: str) -> bytes:
        """One exchange. Whatever interrupts it gives up the worker: its answer would meet the next caller."""
        worker = self._take_idle() or self._start(what)
        try:
            answer = await worker.exchange(request)
        except (EOFError, ConnectionError) as error:
            worker.close()
            code = await worker.process.wait()
            raise errors.RopewalkError(f"the worker died in {what}: exit code {code}") from error
        except BaseException:
            self._abandon(worker)
            raise
        self._idle.append(worker)
        worker.expire_after(self._idle_seconds, self._expire)
        return answer

    def _take_idle(self) -> _Worker | None:
        while self._idle:
            worker = self._idle.pop()
            if worker.process.code is None:
                return worker
            worker.close()
        return None

    def _start(self, what: str) -> _Worker:
        self._stuck = [process for process in self._stuck if process.code is None]
        if len(self._stuck) >= MAX_STUCK:
            raise errors.RopewalkError(
                f"{what} was not tried: {len(self._stuck)} workers hang in the kernel",
                hint="look for D-state processes named offload_worker and the dead file system they wait for",
                kind=errors.Kind.UNAVAILABLE,
            )
        return _Worker(background=self._background)

    def _abandon(self, worker: _Worker) -> None:
        worker.close()
        worker.process.kill()
        self._stuck.append(worker.process)

    def _expire(self, worker: _Worker) -> None:
        self._idle.remove(worker)
        worker.close()

    async def close(self) -> None:
        """End the idle workers (they exit at the end of their socket). Calls under way are their callers' to cancel."""
        for worker in self._idle:
            worker.close()
        ended = [worker.process.wait() for worker in self._idle]
        self._idle.clear()
        await asyncio.gather(*ended)


def _late(what: str, timeout: float, *, begun: bool) -> errors.RopewalkError:
    """The deadline has passed. `begun`: a worker was asked."""
    if begun:
        text, hint = "did not answer", "the file system or device behind it hangs; its worker was abandoned"
    else:
        text, hint = "was not begun", "every worker is busy: with others' file systems that hang, or with a slow disk"
    return errors.RopewalkError(f"{what} {text} within {timeout:g} s", hint=hint, kind=errors.Kind.TIMEOUT)


class _Worker:
    """A worker process and our end of its socket."""

    def __init__(self, *, background: bool) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self.process = spawn.spawn(
                    command(background=background), env=environment(), pass_fds={3: theirs.fileno()}
                )
            except BaseException:
                ours.close()
                raise
        ours.setblocking(False)
        self._socket = ours
        self._timer: asyncio.TimerHandle | None = None

    async def exchange(self, request: bytes) -> bytes:
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self._socket, LENGTH.pack(len(request)) + request)
        (length,) = LENGTH.unpack(await self._receive(LENGTH.size))
        return await self._receive(length)

    async def _receive(self, length: int) -> bytes:
        loop = asyncio.get_running_loop()
        content = bytearray()
        while len(content) < length:
            chunk = await loop.sock_recv(self._socket, min(length - len(content), 1 << 20))
            if not chunk:
                raise EOFError
            content += chunk
        return bytes(content)

    def expire_after(self, seconds: float, expire: Callable[[_Worker], None]) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, expire, self)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._socket.close()


def command(*, background: bool) -> list[str]:
    """-S: without `site`, whose work the parent did already; its sys.path comes by the environment."""
    return [sys.executable, "-S", "-m", "ropewalk.linux.offload_worker", *(["background"] if background else [])]


def environment() -> dict[str, str]:
    """The parent's import path, and nothing else of its environment."""
    return {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path), "LC_ALL": "C.UTF-8"}
