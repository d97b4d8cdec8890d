"""Watching a directory: inotify(7) as an async iterator."""

from __future__ import annotations

import asyncio
import collections
import os
import struct
from types import TracebackType

from ropewalk.linux import libc

IN_MODIFY = 0x2  # include/uapi/linux/inotify.h
IN_CLOSE_WRITE = 0x8
IN_MOVED_FROM = 0x40
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
IN_Q_OVERFLOW = 0x4000
IN_IGNORED = 0x8000
IN_ONLYDIR = 0x01000000

CHANGES = IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE

_HEADER = struct.Struct("=iIII")  # wd, mask, cookie, length of the name that follows


class Watch:
    """`async for name, mask in Watch(directory)`: one step per event, oldest first.

    Watching begins with the constructor, so list the directory after it. `name` is "" for events of the directory
    itself, and for IN_Q_OVERFLOW: events were lost, list again. The iteration ends when the directory is gone
    (after IN_IGNORED) or the watch closed. Raises OSError naming the directory.
    """

    def __init__(self, directory: str, mask: int = CHANGES) -> None:
        self._fd = libc.check(libc.libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        self._events: collections.deque[tuple[str, int]] = collections.deque()
        self._ended = False
        self._waiting: asyncio.Future[None] | None = None
        try:
            libc.check(libc.libc.inotify_add_watch(self._fd, os.fsencode(directory), mask | IN_ONLYDIR), directory)
        except OSError:
            os.close(self._fd)
            raise

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> tuple[str, int]:
        while not self._events:
            if self._ended:
                raise StopAsyncIteration
            self._fill()
            if not self._events and not self._ended:
                await self._readable()
        event = self._events.popleft()
        if event[1] & IN_IGNORED:
            self.close()
        return event

    def _fill(self) -> None:
        try:
            self._events.extend(parse_events(os.read(self._fd, 65536)))
        except BlockingIOError:
            return

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        self._waiting = loop.create_future()
        loop.add_reader(self._fd, self._wake)
        try:
            await self._waiting
        finally:
            self._waiting = None
            if not self._ended:
                loop.remove_reader(self._fd)

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def close(self) -> None:
        """End the iteration, also one that waits. Idempotent."""
        if self._ended:
            return
        self._ended = True
        if self._waiting is not None:
            asyncio.get_running_loop().remove_reader(self._fd)
            self._wake()
        os.close(self._fd)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def parse_events(buffer: bytes) -> list[tuple[str, int]]:
    """Names and masks of the events in what read(2) gave; names are padded with NULs."""
    events = []
    offset = 0
    while offset < len(buffer):
        _, mask, _, length = _HEADER.unpack_from(buffer, offset)
        offset += _HEADER.size
        events.append((os.fsdecode(buffer[offset : offset + length].rstrip(b"\0")), mask))
        offset += length
    return events
