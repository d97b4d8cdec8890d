"""Container logs in the CRI's format (contract 5.1): `time stream tag content`, one entry per line.

kubelet rotates a log by renaming it and asking for a new file at the old path; a follower reads the old file to
its end, which is final once the new one exists, and goes on in the new one.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator

from msgspec import Struct

POLL = 0.1  # seconds between looks at a file that has nothing new
BLOCK = 64 << 10
LINE_LIMIT = 1 << 20  # longer than any entry (16 KiB): without a newline it is no log


class Entry(Struct, frozen=True):
    """One entry. `time` is RFC 3339 as written; a `partial` one is continued by the next of its stream."""

    time: str
    stream: str  # "stdout" or "stderr"
    partial: bool
    content: bytes  # without the newline

    @property
    def output(self) -> bytes:
        """What the container wrote."""
        return self.content if self.partial else self.content + b"\n"


def parse(line: bytes) -> Entry | None:
    """The entry of one line without its newline; None if it is none. Of several tags (`F:x`) the first counts."""
    parts = line.split(b" ", 3)
    if len(parts) < 4 or parts[1] not in (b"stdout", b"stderr"):
        return None
    tag = parts[2].partition(b":")[0]
    if tag not in (b"F", b"P"):
        return None
    return Entry(parts[0].decode(errors="replace"), parts[1].decode(), tag == b"P", parts[3])


class Splitter:
    """Whole lines of a stream of bytes cut anywhere."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> list[bytes]:
        *lines, self._held = (self._held + data).split(b"\n")
        if len(self._held) > LINE_LIMIT:
            self._held = b""
        return lines


def tail_offset(file: int, lines: int) -> int:
    """Where the last `lines` lines of a file begin."""
    end = os.fstat(file).st_size
    if lines <= 0:
        return end
    wanted = lines
    at = end
    while at > 0:
        start = max(0, at - BLOCK)
        block = os.pread(file, at - start, start)
        cut = len(block) - 1 if at == end and block.endswith(b"\n") else len(block)
        while (cut := block.rfind(b"\n", 0, cut)) >= 0:
            wanted -= 1
            if wanted <= 0:
                return start + cut + 1
        at = start
    return 0


async def read(
    path: str,
    *,
    tail: int | None = None,
    follow: bool = False,
    ended: Callable[[], bool] = lambda: False,
    poll: float = POLL,
) -> AsyncIterator[Entry]:
    """The entries of the log at `path`: all, or the last `tail`. `follow`: and those to come, through rotations,
    until `ended()` says that no more will be written. FileNotFoundError if there is no log and none is awaited."""
    file = await _open(path, wait=follow, ended=ended, poll=poll)
    try:
        if tail is not None:
            os.lseek(file, tail_offset(file, tail), os.SEEK_SET)
        splitter = Splitter()
        while True:
            over = not follow or ended()  # asked before reading: what was written until then is read
            rotated = follow and _rotated(file, path)
            for entry in _entries(file, splitter):
                yield entry
            if rotated:
                os.close(file)
                file = await _open(path, wait=True, ended=ended, poll=poll)
                splitter = Splitter()
            elif over:
                return
            else:
                await asyncio.sleep(poll)
    finally:
        os.close(file)


def _entries(file: int, splitter: Splitter) -> Iterator[Entry]:
    """What the file has from here to its end."""
    while data := os.read(file, BLOCK):
        for line in splitter.feed(data):
            if (entry := parse(line)) is not None:
                yield entry


def _rotated(file: int, path: str) -> bool:
    """Whether another file stands at the path now. While none does, the old one is still written."""
    try:
        now = os.stat(path)
    except FileNotFoundError:
        return False
    held = os.fstat(file)
    return (now.st_dev, now.st_ino) != (held.st_dev, held.st_ino)


async def _open(path: str, *, wait: bool, ended: Callable[[], bool], poll: float) -> int:
    while True:
        over = not wait or ended()
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            if over:
                raise
        await asyncio.sleep(poll)
